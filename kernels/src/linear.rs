//! Linear layers: `y = x W^T + b` with weights packed once and used many times.

use std::fmt;

use crate::isa::{Isa, Kernel, detected};
use crate::simd::{Line, Simd, store_partial};

/// Outputs in a panel.
const PANEL: usize = Line::WIDTH;
/// Rows that a pass over all panels takes: their inputs stay in the second-level cache.
const ROWS_PER_PASS: usize = 96;

/// The weights of a linear layer, packed into panels of 16 outputs.
///
/// Each output is one chain of fused multiply-adds, which starts at the bias and takes the inputs
/// in order. Nothing else enters, so a row's result is the same in any batch.
#[derive(Clone)]
pub struct PackedLinear {
    /// `[ceil(out / 16), in]` lines of 16 outputs; outputs past the last are zero.
    panels: Vec<Line>,
    /// `[ceil(out / 16)]` lines.
    bias: Vec<Line>,
    out_features: usize,
    in_features: usize,
}

impl fmt::Debug for PackedLinear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedLinear")
            .field("out_features", &self.out_features)
            .field("in_features", &self.in_features)
            .finish_non_exhaustive()
    }
}

impl PackedLinear {
    /// Packs `weight`, `[out_features, in_features]` row-major as in torch's `nn.Linear`, and
    /// `bias`, `[out_features]`. No bias is a bias of zero.
    ///
    /// # Panics
    ///
    /// If a size is zero, or a buffer's length differs from its shape.
    pub fn pack(weight: &[f32], out_features: usize, in_features: usize, bias: Option<&[f32]>) -> Self {
        assert!(out_features > 0 && in_features > 0, "linear: a size is zero");
        assert_eq!(
            Some(weight.len()),
            out_features.checked_mul(in_features),
            "linear: weight is not [out_features, in_features]"
        );
        let count = out_features.div_ceil(PANEL);
        let mut panels = vec![Line::ZERO; count * in_features];
        for (output, row) in weight.chunks_exact(in_features).enumerate() {
            let panel = &mut panels[output / PANEL * in_features..][..in_features];
            for (line, &value) in panel.iter_mut().zip(row) {
                line.set(output % PANEL, value);
            }
        }
        let mut packed_bias = vec![Line::ZERO; count];
        if let Some(bias) = bias {
            assert_eq!(bias.len(), out_features, "linear: bias is not [out_features]");
            for (output, &value) in bias.iter().enumerate() {
                packed_bias[output / PANEL].set(output % PANEL, value);
            }
        }
        Self { panels, bias: packed_bias, out_features, in_features }
    }

    /// Width of an output row.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// Width of an input row.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// `y = x W^T + b` for `x` `[rows, in_features]` and `y` `[rows, out_features]`.
    ///
    /// # Panics
    ///
    /// If a length is not a whole number of rows, or the two have different numbers of rows.
    pub fn forward(&self, x: &[f32], y: &mut [f32]) {
        self.forward_on(detected(), x, y);
    }

    /// [`forward`](Self::forward) on a given instruction set.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn forward_on(&self, isa: Isa, x: &[f32], y: &mut [f32]) {
        isa.run(Forward { layer: self, x, y, add: false });
    }

    /// `y = y + (x W^T + b)`: the layer with its residual connection. Shapes as in
    /// [`forward`](Self::forward).
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn forward_add(&self, x: &[f32], y: &mut [f32]) {
        self.forward_add_on(detected(), x, y);
    }

    /// [`forward_add`](Self::forward_add) on a given instruction set.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn forward_add_on(&self, isa: Isa, x: &[f32], y: &mut [f32]) {
        isa.run(Forward { layer: self, x, y, add: true });
    }
}

struct Forward<'a> {
    layer: &'a PackedLinear,
    x: &'a [f32],
    y: &'a mut [f32],
    add: bool,
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (inputs, outputs) = (self.layer.in_features, self.layer.out_features);
        assert_eq!(self.x.len() % inputs, 0, "linear: x is not [rows, in_features]");
        assert_eq!(self.y.len() % outputs, 0, "linear: y is not [rows, out_features]");
        let rows = self.x.len() / inputs;
        assert_eq!(self.y.len() / outputs, rows, "linear: x and y differ in rows");

        let mut pass = Pass { layer: self.layer, x: self.x, y: self.y, add: self.add, row: 0, panel: 0 };
        let panels = self.layer.bias.len();
        for first in (0..rows).step_by(ROWS_PER_PASS) {
            let end = rows.min(first + ROWS_PER_PASS);
            let whole = first + (end - first) / 6 * 6;
            pass.panel = 0;
            while whole > first && pass.panel < panels {
                pass.row = first;
                while pass.row < whole {
                    pass.tile::<S, 6, 1>(simd);
                    pass.row += 6;
                }
                pass.panel += 1;
            }
            // Few rows take several panels at once: more chains hide the latency of one.
            pass.row = whole;
            match end - whole {
                1 => pass.strip::<S, 1, 4>(simd),
                2 => pass.strip::<S, 2, 3>(simd),
                3 => pass.strip::<S, 3, 2>(simd),
                4 => pass.strip::<S, 4, 1>(simd),
                5 => pass.strip::<S, 5, 1>(simd),
                _ => {}
            }
        }
    }
}

/// A walk over the output: where the next tile lies.
struct Pass<'a> {
    layer: &'a PackedLinear,
    x: &'a [f32],
    y: &'a mut [f32],
    add: bool,
    row: usize,
    panel: usize,
}

impl Pass<'_> {
    /// All outputs of the `R` rows from `self.row`, `P` panels at a time.
    #[inline(always)]
    fn strip<S: Simd, const R: usize, const P: usize>(&mut self, simd: S) {
        let panels = self.layer.bias.len();
        self.panel = 0;
        while self.panel + P <= panels {
            self.tile::<S, R, P>(simd);
            self.panel += P;
        }
        while self.panel < panels {
            self.tile::<S, R, 1>(simd);
            self.panel += 1;
        }
    }

    /// `R` rows by `P` panels, held in registers while the inputs go by.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const P: usize>(&mut self, simd: S) {
        let inputs = self.layer.in_features;
        let mut x: [&[f32]; R] = [&[]; R];
        for (r, slot) in x.iter_mut().enumerate() {
            *slot = &self.x[(self.row + r) * inputs..][..inputs];
        }
        let mut weights: [&[Line]; P] = [&[]; P];
        for (p, slot) in weights.iter_mut().enumerate() {
            *slot = &self.layer.panels[(self.panel + p) * inputs..][..inputs];
        }

        let zero = simd.splat(0.0);
        let mut sums = [[[zero; 2]; P]; R];
        for row in &mut sums {
            for (p, sum) in row.iter_mut().enumerate() {
                let bias = &self.layer.bias[self.panel + p].0;
                *sum = [simd.load(&bias[0]), simd.load(&bias[1])];
            }
        }
        for k in 0..inputs {
            let mut lines = [[zero; 2]; P];
            for (line, weights) in lines.iter_mut().zip(&weights) {
                let weights = &weights[k].0;
                *line = [simd.load(&weights[0]), simd.load(&weights[1])];
            }
            for (row, x) in sums.iter_mut().zip(&x) {
                let x = simd.splat(x[k]);
                for (sum, line) in row.iter_mut().zip(&lines) {
                    sum[0] = simd.mul_add(x, line[0], sum[0]);
                    sum[1] = simd.mul_add(x, line[1], sum[1]);
                }
            }
        }
        for (r, row) in sums.iter().enumerate() {
            for (p, &sum) in row.iter().enumerate() {
                self.put(simd, self.row + r, self.panel + p, sum);
            }
        }
    }

    /// Writes, or adds, 16 outputs of one row: fewer at the end of a row.
    #[inline(always)]
    fn put<S: Simd>(&mut self, simd: S, row: usize, panel: usize, sum: [S::V; 2]) {
        let outputs = self.layer.out_features;
        let first = panel * PANEL;
        let width = PANEL.min(outputs - first);
        let y = &mut self.y[row * outputs + first..][..width];
        if let (whole, []) = y.as_chunks_mut() {
            for (to, mut value) in whole.iter_mut().zip(sum) {
                if self.add {
                    value = simd.add(simd.load(to), value);
                }
                simd.store(value, to);
            }
        } else {
            let mut line = [0.0; PANEL];
            let (low, high) = line.split_at_mut(PANEL / 2);
            store_partial(simd, sum[0], low);
            store_partial(simd, sum[1], high);
            for (y, value) in y.iter_mut().zip(line) {
                *y = if self.add { *y + value } else { value };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ISAS, Numbers, same_bits, worst_difference};

    /// The definition: one chain per output.
    fn chain(weight: &[f32], bias: Option<&[f32]>, inputs: usize, x: &[f32]) -> Vec<f32> {
        let mut y = Vec::new();
        for x in x.chunks_exact(inputs) {
            for (o, w) in weight.chunks_exact(inputs).enumerate() {
                let bias = bias.map_or(0.0, |b| b[o]);
                y.push(x.iter().zip(w).fold(bias, |sum, (x, w)| x.mul_add(*w, sum)));
            }
        }
        y
    }

    #[test]
    fn every_shape_equals_the_chain_on_every_instruction_set() {
        let mut numbers = Numbers(1);
        let outs: &[usize] = if cfg!(miri) { &[1, 17] } else { &[1, 7, 8, 9, 16, 17, 24, 33, 48, 64, 80, 259] };
        for &outputs in outs {
            for inputs in [1, 3, 16, 37] {
                for rows in [0, 1, 2, 3, 4, 5, 6, 7, 11, 97, 104] {
                    let weight = numbers.values(outputs * inputs, 1.0);
                    let bias = numbers.values(outputs, 1.0);
                    let bias = (rows % 2 == 1).then_some(&bias[..]);
                    let x = numbers.values(rows * inputs, 1.0);
                    let before = numbers.values(rows * outputs, 1.0);
                    let layer = PackedLinear::pack(&weight, outputs, inputs, bias);
                    let expected = chain(&weight, bias, inputs, &x);
                    let added: Vec<f32> = before.iter().zip(&expected).map(|(a, b)| a + b).collect();
                    for isa in ISAS {
                        let mut y = before.clone();
                        layer.forward_on(isa, &x, &mut y);
                        assert!(same_bits(&y, &expected), "{isa:?} {rows}x{inputs}x{outputs}");
                        let mut y = before.clone();
                        layer.forward_add_on(isa, &x, &mut y);
                        assert!(same_bits(&y, &added), "add {isa:?} {rows}x{inputs}x{outputs}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_alone_equals_the_row_in_a_batch() {
        let (outputs, inputs, rows) = (71, 64, if cfg!(miri) { 8 } else { 101 });
        let mut numbers = Numbers(2);
        let weight = numbers.values(outputs * inputs, 1.0);
        let layer = PackedLinear::pack(&weight, outputs, inputs, None);
        let x = numbers.values(rows * inputs, 1.0);
        let mut batch = vec![0.0; rows * outputs];
        layer.forward(&x, &mut batch);
        for (x, expected) in x.chunks_exact(inputs).zip(batch.chunks_exact(outputs)) {
            let mut alone = vec![0.0; outputs];
            layer.forward(x, &mut alone);
            assert!(same_bits(&alone, expected));
        }
    }

    #[test]
    fn the_result_is_near_the_f64_product() {
        let (outputs, inputs, rows) = (33, if cfg!(miri) { 64 } else { 1024 }, 7);
        let mut numbers = Numbers(3);
        let weight = numbers.values(outputs * inputs, 1.0);
        let bias = numbers.values(outputs, 1.0);
        let layer = PackedLinear::pack(&weight, outputs, inputs, Some(&bias));
        let x = numbers.values(rows * inputs, 1.0);
        let mut y = vec![0.0; rows * outputs];
        layer.forward(&x, &mut y);
        let mut truth = Vec::new();
        for x in x.chunks_exact(inputs) {
            for (o, w) in weight.chunks_exact(inputs).enumerate() {
                let products = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w));
                truth.push(f64::from(bias[o]) + products.sum::<f64>());
            }
        }
        // Partial sums stay below 64 (their standard deviation is 11 at most); each of 1024
        // roundings errs by half of 2^-18 at most, and the errors partly cancel.
        let worst = worst_difference(&y, &truth);
        assert!(worst < 1e-4, "worst difference {worst}");
    }

    #[test]
    #[should_panic(expected = "x and y differ in rows")]
    fn lengths_that_do_not_fit_are_named() {
        PackedLinear::pack(&[1.0; 6], 2, 3, None).forward(&[0.0; 6], &mut [0.0; 2]);
    }
}

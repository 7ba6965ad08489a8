//! Convolutions against their definition.

use super::*;
use crate::testing::{ISAS, Numbers, same_bits, worst_difference};

fn lines(numbers: &mut Numbers, count: usize) -> Vec<Line> {
    let mut line = || {
        let values = numbers.values(16, 1.0);
        let mut line = Line::ZERO;
        values.iter().enumerate().for_each(|(at, value)| line.set(at, *value));
        line
    };
    (0..count).map(|_| line()).collect()
}

fn flat(lines: &[Line]) -> Vec<f32> {
    lines.iter().flat_map(|line| line.0.as_flattened().to_vec()).collect()
}

fn shapes() -> Vec<Shape> {
    let shape = |from, to, image, kernel, padding| Shape { from, to, image, kernel, padding };
    vec![
        shape(1, 6, [7, 8], [5, 5], [2, 2]),
        shape(3, 16, [6, 6], [5, 5], [0, 0]),
        shape(2, 7, [4, 5], [3, 3], [1, 1]),
        shape(5, 1, [3, 9], [1, 4], [0, 3]),
        shape(2, 3, [2, 2], [2, 2], [1, 0]),
        Shape::linear(37, 10),
        Shape::linear(16, 6),
        Shape::linear(1, 5),
    ]
}

/// Calls `each` with every place of output, input and weight that belong together.
fn pairs(shape: &Shape, mut each: impl FnMut(usize, usize, usize)) {
    let ([height, width], [rows, columns], [tall, wide]) = (shape.output(), shape.image, shape.kernel);
    for o in 0..shape.to {
        for y in 0..height {
            for x in 0..width {
                for c in 0..shape.from {
                    for ky in 0..tall {
                        for kx in 0..wide {
                            let (row, column) = (y + ky, x + kx);
                            let inside = (shape.padding[0]..rows + shape.padding[0]).contains(&row)
                                && (shape.padding[1]..columns + shape.padding[1]).contains(&column);
                            if inside {
                                let input = (c * rows + row - shape.padding[0]) * columns + column - shape.padding[1];
                                let weight = ((o * shape.from + c) * tall + ky) * wide + kx;
                                each((o * height + y) * width + x, input, weight);
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn every_output_is_the_chain_that_is_stated() {
    let mut numbers = Numbers(1);
    for shape in shapes() {
        let (x, held) = (lines(&mut numbers, shape.inputs()), lines(&mut numbers, shape.outputs()));
        let (weight, bias) = (numbers.values(shape.weights(), 1.0), numbers.values(shape.to, 1.0));
        let mut packed = Packed::default();
        packed.pack(&shape, &weight);
        let positions = shape.outputs() / shape.to;
        for begin in [Begin::Zero, Begin::Bias(&bias), Begin::Held] {
            let mut expected = flat(&held);
            for (at, value) in expected.iter_mut().enumerate() {
                match begin {
                    Begin::Zero => *value = 0.0,
                    Begin::Bias(bias) => *value = bias[at / 16 / positions],
                    Begin::Held => {}
                }
            }
            let x_flat = flat(&x);
            pairs(&shape, |output, input, at| {
                for sample in 0..16 {
                    let sum = &mut expected[output * 16 + sample];
                    *sum = x_flat[input * 16 + sample].mul_add(weight[at], *sum);
                }
            });
            for isa in ISAS {
                let mut y = held.clone();
                convolve_on(isa, &shape, &x, &packed, begin, &mut y);
                assert!(same_bits(&flat(&y), &expected), "{isa:?} {shape:?} {begin:?}");
            }
        }
    }
}

#[test]
fn gradients_are_those_of_the_definition() {
    let mut numbers = Numbers(2);
    for shape in shapes() {
        let (x, dy) = (lines(&mut numbers, shape.inputs()), lines(&mut numbers, shape.outputs()));
        let weight = numbers.values(shape.weights(), 1.0);
        let (x_flat, dy_flat) = (flat(&x), flat(&dy));
        let mut of_x = vec![0.0_f64; x_flat.len()];
        let mut of_weight = vec![1.0_f64; weight.len()];
        pairs(&shape, |output, input, at| {
            for sample in 0..16 {
                let (x, dy) = (x_flat[input * 16 + sample], dy_flat[output * 16 + sample]);
                of_x[input * 16 + sample] += f64::from(weight[at]) * f64::from(dy);
                of_weight[at] += f64::from(x) * f64::from(dy);
            }
        });
        let mut packed = Packed::default();
        packed.pack_reversed(&shape, &weight);
        let [height, width] = [0, 1].map(|axis| shape.image[axis] + 2 * shape.padding[axis]);
        let mut padded = vec![Line::ZERO; shape.from * height * width];
        pad(&x, shape.image, shape.padding, &mut padded);
        let unpadded = Shape { image: [height, width], padding: [0, 0], ..shape };
        let mut twins: Vec<[Vec<f32>; 2]> = Vec::new();
        for isa in ISAS {
            let mut dx = vec![Line::ZERO; shape.inputs()];
            convolve_on(isa, &shape.reversed(), &dy, &packed, Begin::Zero, &mut dx);
            let mut gradient = vec![1.0; weight.len()];
            weight_gradient_on(isa, &unpadded, &padded, &dy, &mut gradient);
            assert!(worst_difference(&flat(&dx), &of_x) < 1e-4, "{isa:?} {shape:?}");
            assert!(worst_difference(&gradient, &of_weight) < 1e-4, "{isa:?} {shape:?}");
            twins.push([flat(&dx), gradient]);
        }
        assert!(same_bits(&twins[0][0], &twins[1][0]) && same_bits(&twins[0][1], &twins[1][1]), "{shape:?}");
    }
}

#[test]
#[should_panic(expected = "the weights are of another shape")]
fn weights_of_another_shape_are_refused() {
    let shape = Shape::linear(3, 2);
    let mut packed = Packed::default();
    packed.pack(&Shape::linear(2, 2), &[0.0; 4]);
    convolve(&shape, &[Line::ZERO; 3], &packed, Begin::Zero, &mut [Line::ZERO; 2]);
}

//! What a model costs: layer by layer, measured or from a formula.

use serde::{Deserialize, Serialize};

/// Seconds that depend on the size of a micro-batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Affine {
    /// Whatever the size.
    pub fixed_s: f64,
    /// For each sequence.
    pub per_sequence_s: f64,
}

impl Affine {
    /// Seconds for so many sequences.
    pub fn at(&self, sequences: usize) -> f64 {
        self.fixed_s + self.per_sequence_s * sequences as f64
    }
}

/// What one layer costs a whole rank of speed 1, before anything is split.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Of the forward pass.
    pub forward_s: Affine,
    /// For the gradients of inputs.
    pub input_gradient_s: Affine,
    /// For the gradients of weights.
    pub weight_gradient_s: Affine,
    /// How many numbers it learns.
    pub parameters: u64,
    /// Kept for the backward pass, for each sequence.
    pub activation_bytes: u64,
    /// To the next layer, for each sequence.
    pub output_bytes: u64,
    /// Kept for the backward pass where the forward pass is done again, for each sequence.
    pub recompute_bytes: u64,
    /// Whether ranks can share it along the tensor axis.
    pub tensor_parallel: bool,
}

/// A model as a chain of layers. The embedding's cost is in the first, the head's in the last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// In order.
    pub layers: Vec<Layer>,
    /// Tokens in a sequence.
    pub sequence_length: usize,
    /// How many numbers of the first layer are the last one's as well (tied embeddings), 0 if none. Where these lie on two
    /// stages, both hold them, and their gradients are summed between the two.
    pub tied_parameters: u64,
}

/// The shape of a decoder as in GPT.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transformer {
    /// How many.
    pub layers: usize,
    /// Width.
    pub hidden: usize,
    /// Attention heads; the memory of their scores is only counted without `flash`.
    pub heads: usize,
    /// Different tokens.
    pub vocabulary: usize,
    /// Tokens in a sequence.
    pub sequence_length: usize,
    /// Of an activation.
    pub element_bytes: u64,
    /// Attention whose scores are not kept.
    pub flash: bool,
    /// The head's weights are the embedding's.
    pub tied: bool,
}

impl Transformer {
    /// Floating-point operations of one sequence's training step, with the forward pass done again in the backward pass:
    /// `96 s l h^2 (1 + s/6h + V/16lh)` (Narayanan et al. 2021, section 5.1).
    pub fn flops(&self) -> f64 {
        let [s, l, h, v] = [self.sequence_length, self.layers, self.hidden, self.vocabulary].map(|it| it as f64);
        96.0 * s * l * h * h * (1.0 + s / (6.0 * h) + v / (16.0 * l * h))
    }

    /// Operations of one layer's forward pass over one sequence, `24 s h^2 (1 + s/6h)`, a quarter of a layer's part of
    /// [`Transformer::flops`].
    pub fn layer_flops(&self) -> f64 {
        let [s, h] = [self.sequence_length, self.hidden].map(|it| it as f64);
        24.0 * s * h * h * (1.0 + s / (6.0 * h))
    }

    /// Operations of the head's forward pass over one sequence, `2 s h V`.
    pub fn head_flops(&self) -> f64 {
        2.0 * self.sequence_length as f64 * self.hidden as f64 * self.vocabulary as f64
    }

    /// Numbers of one layer, `12 h^2 + 13 h`.
    pub fn layer_parameters(&self) -> u64 {
        let h = self.hidden as u64;
        12 * h * h + 13 * h
    }

    /// Numbers of the embedding without positions, `V h`.
    pub fn embedding_parameters(&self) -> u64 {
        (self.vocabulary * self.hidden) as u64
    }

    /// Bytes that one layer keeps of one sequence: `s h (34 + 5 a s/h)` with elements of two bytes, the second term only without
    /// `flash` (Korthikanti et al. 2022, section 4.1).
    pub fn layer_activation_bytes(&self) -> u64 {
        let [s, h, a] = [self.sequence_length, self.hidden, self.heads].map(|it| it as u64);
        let scores = if self.flash { 0 } else { 5 * a * s * s };
        (34 * s * h + scores) * self.element_bytes / 2
    }
}

impl Model {
    /// From a shape, with `flop_s` operations a second reached by a machine of speed 1 and `fixed_s` lost on each pass of
    /// each layer. Both gradients are taken to need as many operations as the forward pass.
    pub fn transformer(shape: &Transformer, flop_s: f64, fixed_s: f64) -> Self {
        let pass = |flops: f64| Affine { fixed_s, per_sequence_s: flops / flop_s };
        let output_bytes = (shape.sequence_length * shape.hidden) as u64 * shape.element_bytes;
        let plain = Layer {
            forward_s: pass(shape.layer_flops()),
            input_gradient_s: pass(shape.layer_flops()),
            weight_gradient_s: pass(shape.layer_flops()),
            parameters: shape.layer_parameters(),
            activation_bytes: shape.layer_activation_bytes(),
            output_bytes,
            recompute_bytes: output_bytes,
            tensor_parallel: true,
        };
        let mut layers = vec![plain; shape.layers];
        if let Some(first) = layers.first_mut() {
            first.parameters += shape.embedding_parameters() + (shape.sequence_length * shape.hidden) as u64;
        }
        if let Some(last) = layers.last_mut() {
            let time = pass(shape.layer_flops() + shape.head_flops());
            (last.forward_s, last.input_gradient_s, last.weight_gradient_s) = (time, time, time);
            // Alone, the head is the embedding again; its logits are kept with four bytes each.
            if !shape.tied || shape.layers > 1 {
                last.parameters += shape.embedding_parameters();
            }
            last.activation_bytes += 4 * (shape.sequence_length * shape.vocabulary) as u64;
        }
        Self {
            layers,
            sequence_length: shape.sequence_length,
            tied_parameters: if shape.tied && shape.layers > 1 { shape.embedding_parameters() } else { 0 },
        }
    }

    /// How many numbers there are, with tied ones counted once.
    pub fn parameters(&self) -> u64 {
        self.layers.iter().map(|layer| layer.parameters).sum::<u64>() - self.tied_parameters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holmes' parameter groups.
    fn gpt(layers: usize, hidden: usize, heads: usize) -> Transformer {
        let (vocabulary, sequence_length, element_bytes) = (51_200, 2048, 2);
        Transformer { layers, hidden, heads, vocabulary, sequence_length, element_bytes, flash: true, tied: true }
    }

    /// Derived, in the research page: 63.78, 131.22 and 664.86 TFLOP for a sample of GPT 3.6B, 7.5B and 39.1B.
    #[test]
    fn operations_are_those_of_megatrons_formula() {
        for (shape, tera) in [(gpt(30, 3072, 32), 63.78), (gpt(36, 4096, 32), 131.22), (gpt(48, 8192, 64), 664.86)] {
            assert!((shape.flops() / 1e12 - tera).abs() < 0.005, "{}", shape.flops());
            // What the layers' times add up to: the forward pass again, except for the head's.
            let model = Model::transformer(&shape, 1e12, 0.0);
            let sum = |layer: &Layer| {
                2.0 * layer.forward_s.at(1) + layer.input_gradient_s.at(1) + layer.weight_gradient_s.at(1)
            };
            let total: f64 = model.layers.iter().map(sum).sum::<f64>() - shape.head_flops() / 1e12;
            assert!((total / (shape.flops() / 1e12) - 1.0).abs() < 1e-12, "{total}");
        }
    }

    /// Read: the sizes in the models' names.
    #[test]
    fn sizes_are_those_of_the_names() {
        for (shape, billion) in [(gpt(30, 3072, 32), 3.6), (gpt(36, 4096, 32), 7.5), (gpt(48, 8192, 64), 39.1)] {
            let parameters = Model::transformer(&shape, 1e12, 0.0).parameters() as f64 / 1e9;
            assert!((parameters - billion).abs() < 0.06, "{parameters}");
        }
    }

    #[test]
    fn tied_weights_are_held_twice_and_counted_once() {
        let tied = Model::transformer(&gpt(4, 64, 4), 1.0, 0.0);
        let untied = Model::transformer(&Transformer { tied: false, ..gpt(4, 64, 4) }, 1.0, 0.0);
        assert_eq!(tied.layers, untied.layers);
        assert_eq!(untied.parameters() - tied.parameters(), 51_200 * 64);
        assert_eq!(tied.layers[1].parameters, 12 * 64 * 64 + 13 * 64);
    }

    /// Derived: 34 s h bytes, and 5 a s^2 for the scores.
    #[test]
    fn kept_activations_are_those_of_the_formula() {
        let shape = gpt(2, 64, 4);
        assert_eq!(shape.layer_activation_bytes(), 34 * 2048 * 64);
        let scores = Transformer { flash: false, element_bytes: 4, ..shape };
        assert_eq!(scores.layer_activation_bytes(), 2 * (34 * 2048 * 64 + 5 * 4 * 2048 * 2048));
    }
}

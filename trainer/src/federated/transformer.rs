//! The next character of a text, by the Llama family's decoder.

use tch::{Kind, TchError, Tensor};

use super::{Instance, Net};
use crate::model::{ModelConfig, ModelError};
use crate::policy::Policy;
use crate::weights;

/// A small decoder of the Llama family (see [`ModelConfig`]) as a classifier: a sample is a window of characters, each as its
/// number, and the class is the one that follows. Width 64, two layers and four heads have 112,192 parameters for 90
/// characters.
///
/// Samples are numbers of characters, so there is nothing to invert: [`Net::discrete`].
#[derive(Debug, Clone, PartialEq)]
pub struct Transformer {
    config: ModelConfig,
}

impl Transformer {
    /// For windows of so many characters out of a vocabulary. `width` is that of the residual stream, a multiple of twice the
    /// heads; the feed-forward part is 8/3 as wide, rounded up to a multiple of 8 (Shazeer, "GLU Variants Improve
    /// Transformer", 2020).
    ///
    /// # Errors
    /// [`ModelError::Field`] where no model can have this shape.
    pub fn new(vocabulary: usize, window: usize, [width, layers, heads]: [usize; 3]) -> Result<Self, ModelError> {
        let config = ModelConfig {
            vocab_size: vocabulary,
            hidden_size: width,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: heads,
            intermediate_size: (8 * width).div_ceil(3).next_multiple_of(8),
            rope_theta: 10_000.0,
            rms_norm_eps: 1e-5,
            max_position_embeddings: window,
            tie_word_embeddings: false,
        };
        config.validate_shape()?;
        Ok(Self { config })
    }
}

impl Net for Transformer {
    fn name(&self) -> &str {
        "transformer"
    }

    fn input(&self) -> Vec<i64> {
        vec![self.config.max_position_embeddings as i64]
    }

    fn classes(&self) -> usize {
        self.config.vocab_size
    }

    fn parameters(&self) -> usize {
        self.config.parameters() as usize
    }

    /// As the language models have it: [`weights::Weights::init`].
    fn init(&self, seed: u64) -> Vec<f32> {
        weights::initial(&self.config, seed)
    }

    fn discrete(&self) -> bool {
        true
    }

    fn instance(&self) -> Result<Box<dyn Instance + '_>, TchError> {
        Ok(Box::new(Decoder { config: &self.config, policy: None }))
    }
}

struct Decoder<'a> {
    config: &'a ModelConfig,
    policy: Option<Policy>,
}

impl Instance for Decoder<'_> {
    /// One, which the model itself divides.
    fn leaves(&mut self, flat: &Tensor) -> Result<Vec<Tensor>, TchError> {
        let leaf = flat.f_detach()?.f_set_requires_grad(true)?;
        let leaves = vec![leaf.shallow_clone()];
        self.policy = Some(Policy::over(self.config, leaf)?);
        Ok(leaves)
    }

    fn logits(&self, _leaves: &[Tensor], x: &Tensor, _training: Option<u64>) -> Result<Tensor, TchError> {
        match &self.policy {
            Some(policy) => policy.next(&x.f_to_kind(Kind::Int64)?),
            None => Err(TchError::Kind("the decoder has no parameters yet".into())),
        }
    }
}

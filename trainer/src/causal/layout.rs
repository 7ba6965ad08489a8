//! Which part of a model a rank holds, and where each piece of it lies in one flat buffer.
//!
//! A rank of a pipeline holds some layers; one of a tensor-parallel group holds of each of them the heads and the inner
//! columns that are its own. Parameters, gradients and moments share one order: the embedding, layer after layer, the last
//! normalisation with the output layer. What becomes ready together in the backward pass is a [`Bucket`].

use std::ops::Range;

use crate::layout::{EMBEDDING, FINAL_NORM, HEAD, in_layer};
use crate::model::ModelConfig;

/// The part of a model that one rank holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Layers by chunk, each a contiguous range of the model's, in the order of the pipeline's virtual stages.
    pub chunks: Vec<Range<usize>>,
    /// Whether the embedding is here.
    pub first: bool,
    /// Whether the output layer is here.
    pub last: bool,
    /// This rank of its tensor-parallel group.
    pub tensor_rank: usize,
    /// Ranks that share each layer.
    pub tensor_ranks: usize,
}

/// Why a model cannot be cut so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SliceError {
    /// Layers that the model does not have, or in another order.
    #[error("layers {0:?} are no ascending parts of a model with {1} layers")]
    Layers(Vec<Range<usize>>, usize),
    /// Heads or columns that do not split evenly.
    #[error("{what} is {value}, which {ranks} tensor-parallel ranks cannot share evenly")]
    Uneven {
        /// The configuration's field.
        what: &'static str,
        /// Its value.
        value: usize,
        /// How many ranks.
        ranks: usize,
    },
    /// A rank that is not of its group.
    #[error("rank {0} of {1} tensor-parallel ranks")]
    Rank(usize, usize),
}

impl Slice {
    /// All of a model.
    pub fn whole(config: &ModelConfig) -> Self {
        let layers = 0..config.num_hidden_layers;
        Self { chunks: vec![layers], first: true, last: true, tensor_rank: 0, tensor_ranks: 1 }
    }

    /// Whether a model can be cut so.
    ///
    /// # Errors
    /// [`SliceError`].
    pub fn check(&self, config: &ModelConfig) -> Result<(), SliceError> {
        let mut at = 0;
        for chunk in &self.chunks {
            if chunk.start < at || chunk.end < chunk.start || chunk.end > config.num_hidden_layers {
                return Err(SliceError::Layers(self.chunks.clone(), config.num_hidden_layers));
            }
            at = chunk.end;
        }
        let ranks = self.tensor_ranks;
        if self.tensor_rank >= ranks {
            return Err(SliceError::Rank(self.tensor_rank, ranks));
        }
        let shared = [
            ("num_attention_heads", config.num_attention_heads),
            ("num_key_value_heads", config.num_key_value_heads),
            ("intermediate_size", config.intermediate_size),
        ];
        match shared.into_iter().find(|(_, value)| !value.is_multiple_of(ranks)) {
            Some((what, value)) => Err(SliceError::Uneven { what, value, ranks }),
            None => Ok(()),
        }
    }

    /// All layers, one after the other.
    pub fn layers(&self) -> impl Iterator<Item = usize> + '_ {
        self.chunks.iter().cloned().flatten()
    }
}

/// A tensor of the model, or the part of it that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its name in a Hugging Face checkpoint.
    pub name: String,
    /// The whole tensor's shape: `[out, in]`, `[vocabulary, hidden]` or `[hidden]`.
    pub shape: Vec<usize>,
    /// Rows that are here: elements, of a vector.
    pub rows: Range<usize>,
    /// Columns that are here; `0..1` of a vector.
    pub columns: Range<usize>,
    /// Its first element in the flat buffer.
    pub offset: usize,
    /// Whether weight decay applies: to matrices, not to normalisation weights.
    pub decays: bool,
    /// Whether every tensor-parallel rank holds the same.
    pub replicated: bool,
}

impl Piece {
    /// Elements that are here.
    pub fn len(&self) -> usize {
        self.rows.len() * self.columns.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its elements in the flat buffer.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len()
    }

    /// Columns of the whole tensor; 1 of a vector.
    pub fn width(&self) -> usize {
        self.shape.get(1).copied().unwrap_or(1)
    }
}

/// What the backward pass finishes together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// What it is of.
    pub part: Part,
    /// Its elements in the flat buffer.
    pub range: Range<usize>,
}

/// What a bucket is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The embedding; with a tied output layer, that too.
    Embedding,
    /// A layer, counted over this rank's own.
    Layer(usize),
    /// The last normalisation and the output layer.
    Head,
}

/// Pieces and buckets of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// In the order of the buffer, without gaps.
    pub pieces: Vec<Piece>,
    /// In the order of the buffer.
    pub buckets: Vec<Bucket>,
}

impl Layout {
    /// Of a slice that [`Slice::check`] accepts.
    pub fn new(config: &ModelConfig, slice: &Slice) -> Self {
        let mut made = Builder { layout: Self { pieces: Vec::new(), buckets: Vec::new() }, at: 0, from: 0 };
        let (hidden, vocabulary) = (config.hidden_size, config.vocab_size);
        let tied_head = config.tie_word_embeddings && slice.last;
        if slice.first || tied_head {
            made.matrix(EMBEDDING.into(), (vocabulary, hidden), (0..vocabulary, 0..hidden), true);
            made.close(Part::Embedding);
        }
        let share = |width: usize| {
            let each = width / slice.tensor_ranks;
            slice.tensor_rank * each..(slice.tensor_rank + 1) * each
        };
        let (kv, inner) = (config.kv_width(), config.intermediate_size);
        let replicated = slice.tensor_ranks == 1;
        for (own, layer) in slice.layers().enumerate() {
            let mut put = |part: &str, (out, within): (usize, usize), here: (Range<usize>, Range<usize>)| {
                made.matrix(in_layer(layer, part), (out, within), here, replicated);
            };
            put("self_attn.q_proj", (hidden, hidden), (share(hidden), 0..hidden));
            put("self_attn.k_proj", (kv, hidden), (share(kv), 0..hidden));
            put("self_attn.v_proj", (kv, hidden), (share(kv), 0..hidden));
            put("self_attn.o_proj", (hidden, hidden), (0..hidden, share(hidden)));
            put("mlp.gate_proj", (inner, hidden), (share(inner), 0..hidden));
            put("mlp.up_proj", (inner, hidden), (share(inner), 0..hidden));
            put("mlp.down_proj", (hidden, inner), (0..hidden, share(inner)));
            made.vector(in_layer(layer, "input_layernorm"), hidden);
            made.vector(in_layer(layer, "post_attention_layernorm"), hidden);
            made.close(Part::Layer(own));
        }
        if slice.last {
            made.vector(FINAL_NORM.into(), hidden);
            if !config.tie_word_embeddings {
                made.matrix(HEAD.into(), (vocabulary, hidden), (0..vocabulary, 0..hidden), true);
            }
            made.close(Part::Head);
        }
        made.layout
    }

    /// Elements of the buffer.
    pub fn len(&self) -> usize {
        self.pieces.last().map_or(0, |last| last.range().end)
    }

    /// Whether nothing is here.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The piece of that name.
    pub fn piece(&self, name: &str) -> Option<&Piece> {
        self.pieces.iter().find(|piece| piece.name == name)
    }

    /// Copies what is here out of a whole tensor, row-major.
    ///
    /// # Panics
    /// If `whole` or `flat` have other lengths than the piece says.
    pub fn take(piece: &Piece, whole: &[f32], flat: &mut [f32]) {
        let (width, into) = (piece.width(), &mut flat[piece.range()]);
        for (row, into) in piece.rows.clone().zip(into.chunks_exact_mut(piece.columns.len().max(1))) {
            into.copy_from_slice(&whole[row * width + piece.columns.start..row * width + piece.columns.end]);
        }
    }
}

struct Builder {
    layout: Layout,
    at: usize,
    /// Where the bucket at hand begins.
    from: usize,
}

impl Builder {
    fn matrix(
        &mut self,
        name: String,
        (out, within): (usize, usize),
        (rows, columns): (Range<usize>, Range<usize>),
        replicated: bool,
    ) {
        self.put(Piece { name, shape: vec![out, within], rows, columns, offset: 0, decays: true, replicated });
    }

    fn vector(&mut self, name: String, len: usize) {
        let (shape, rows) = (vec![len], 0..len);
        self.put(Piece { name, shape, rows, columns: 0..1, offset: 0, decays: false, replicated: true });
    }

    fn put(&mut self, piece: Piece) {
        let piece = Piece { offset: self.at, ..piece };
        self.at += piece.len();
        self.layout.pieces.push(piece);
    }

    fn close(&mut self, part: Part) {
        self.layout.buckets.push(Bucket { part, range: self.from..self.at });
        self.from = self.at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::preset;

    #[test]
    fn slices_of_every_mesh_hold_each_element_of_the_model_as_often_as_they_should() {
        for tied in [false, true] {
            let config = ModelConfig { tie_word_embeddings: tied, ..preset("small").expect("small") };
            for (chunks, ranks) in [(vec![vec![0..6]], 1), (vec![vec![0..2, 3..5], vec![2..3, 5..6]], 2)] {
                let mut held: std::collections::BTreeMap<String, Vec<u32>> = std::collections::BTreeMap::new();
                let stages = chunks.len();
                for (stage, chunks) in chunks.into_iter().enumerate() {
                    for tensor_rank in 0..ranks {
                        let (first, last) = (stage == 0, stage + 1 == stages);
                        let slice = Slice { chunks: chunks.clone(), first, last, tensor_rank, tensor_ranks: ranks };
                        slice.check(&config).expect("sound");
                        let layout = Layout::new(&config, &slice);
                        assert_eq!(layout.buckets.last().expect("a bucket").range.end, layout.len());
                        let mut end = 0;
                        for piece in &layout.pieces {
                            assert_eq!(piece.offset, end);
                            end += piece.len();
                            let width = piece.width();
                            let whole: usize = piece.shape.iter().product();
                            let count = held.entry(piece.name.clone()).or_insert_with(|| vec![0; whole]);
                            for row in piece.rows.clone() {
                                piece.columns.clone().for_each(|column| count[row * width + column] += 1);
                            }
                        }
                    }
                }
                let elements: usize = held.values().map(Vec::len).sum();
                assert_eq!(elements as u64, config.parameters());
                for (name, count) in held {
                    let copies = match name.as_str() {
                        EMBEDDING if tied && stages > 1 => 2 * ranks,
                        EMBEDDING | HEAD => ranks,
                        name if name.contains("norm") => ranks,
                        _ => 1,
                    };
                    assert!(count.iter().all(|found| *found == copies as u32), "{name}: {copies}");
                }
            }
        }
    }

    #[test]
    fn what_does_not_split_is_refused() {
        let config = preset("small").expect("small");
        let slice = |tensor_ranks| Slice { tensor_ranks, ..Slice::whole(&config) };
        let error = slice(8).check(&config).expect_err("4 key heads").to_string();
        assert_eq!(error, "num_key_value_heads is 4, which 8 tensor-parallel ranks cannot share evenly");
        let wrong = Slice { chunks: vec![3..5, 0..2], ..Slice::whole(&config) };
        assert!(matches!(wrong.check(&config), Err(SliceError::Layers(..))));
        assert_eq!(
            Slice { tensor_rank: 2, ..slice(2) }.check(&config).expect_err("no such rank").to_string(),
            "rank 2 of 2 tensor-parallel ranks"
        );
    }

    #[test]
    fn columns_are_taken_row_by_row() {
        let piece = Piece {
            name: "x".into(),
            shape: vec![2, 4],
            rows: 0..2,
            columns: 1..3,
            offset: 1,
            decays: true,
            replicated: false,
        };
        let mut flat = [0.0; 5];
        Layout::take(&piece, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], &mut flat);
        assert_eq!(flat, [0.0, 1.0, 2.0, 5.0, 6.0]);
    }
}

//! The ops that a model is made of, as one trait that the CPU and the GPU implement.
//!
//! A forward pass (`model/forward.rs`) is a flat list of calls of these methods. Activations are f32, row-major
//! `[n_tokens, width]`, in buffers that are allocated once; ids and positions of the tokens at hand live with the
//! back end ([`Backend::begin`]), so that a recorded list of ops ([`Backend::step`]) can be replayed for the next token.
//!
//! Shapes are checked by the model's loader before any op runs: an op that meets a wrong shape found a fault of this
//! program and panics with both numbers.

pub mod cpu;
pub mod gpu;

use std::ops::Range;
use std::sync::Arc;

use crate::gguf::{GgmlType, MappedFile};
use crate::sampler::Sampler;

/// What a back end needs in order to run models. Destination first, then sources, then numbers.
pub trait Backend: Send {
    /// A weight matrix `[n_rows, n_cols]` in its packed form; a row is contiguous in the file.
    type Matrix: Send + Sync;
    /// A short f32 tensor that stays: a norm's weight, a bias, the rotation table.
    type Vector: Send + Sync;
    /// f32 activations.
    type Buffer: Send + Sync;
    /// Keys and values of one layer, each `[n_kv_heads, n_ctx, head_dim]`.
    type KvLayer: Send + Sync;

    /// Steps that [`Backend::choose_greedy`] and [`Backend::choose`] may be ahead of [`Backend::chosen`] with profit: 0 where a step is over when
    /// its call returns.
    const STEPS_AHEAD: usize;

    // What a model is made of.

    /// A name for messages: "cpu", "cuda:0 NVIDIA H100".
    fn name(&self) -> String;

    /// Whether matrices of this type can be multiplied with.
    ///
    /// # Errors
    /// [`Error::UnsupportedType`] naming the tensor.
    fn check_matrix_type(&self, tensor: &str, ty: GgmlType) -> Result<(), Error>;

    /// Bytes that a matrix of this type and shape takes here.
    fn matrix_bytes(&self, ty: GgmlType, n_rows: usize, n_cols: usize) -> u64 {
        let blocks = n_rows as u64 * (n_cols as u64 / ty.block_elements());
        blocks * ty.block_bytes()
    }

    /// Bytes that one layer's keys and values take here; none if that is no number of 64 bits.
    fn kv_layer_bytes(&self, shape: KvShape) -> Option<u64>;

    /// Refuses what will not fit, before anything is loaded. `need` is computed with `matrix_bytes` and `kv_layer_bytes`.
    fn admit(&mut self, need: &Memory) -> Result<(), Error>;

    /// Takes over one weight matrix. It may still be on its way when this returns: see `finish_loading`.
    fn load_matrix(&mut self, source: MatrixSource<'_>) -> Result<Self::Matrix, Error>;

    /// Takes over a weight vector.
    fn load_vector(&mut self, values: &[f32]) -> Result<Self::Vector, Error>;

    /// Waits until everything loaded so far is in place. The file is not needed by the back end after this, except where
    /// it keeps its own handle on [`FileBytes`].
    fn finish_loading(&mut self) -> Result<(), Error>;

    /// Allocates an activation buffer of `len` zeros.
    fn new_buffer(&mut self, len: usize) -> Result<Self::Buffer, Error>;

    /// Bytes that [`Backend::reserve`] takes; none if that is no number of 64 bits.
    fn workspace_bytes(&self, _: BatchShape) -> Option<u64> {
        Some(0)
    }

    /// Allocates what ops on so many tokens need beside their arguments. Counted as activations.
    fn reserve(&mut self, _: BatchShape) -> Result<(), Error> {
        Ok(())
    }

    /// Tokens of a prompt that are best computed at once.
    fn best_batch(&self) -> usize {
        512
    }

    /// Allocates the cache of one layer.
    fn new_kv_layer(&mut self, shape: KvShape) -> Result<Self::KvLayer, Error>;

    /// Bytes held now, by purpose.
    fn memory(&self) -> Memory;

    // One step.

    /// The ids of the tokens that the following ops work on, at positions `first_position..`. Ids are below the
    /// vocabulary's size and positions below `n_ctx`: the caller has checked.
    fn begin(&mut self, tokens: &[u32], first_position: usize) -> Result<(), Error>;

    /// Runs `ops`. A back end may record them and, when a `step` of equal shape comes again, replay the record instead:
    /// so `ops` calls nothing but this back end's ops, never reads results, and is the same list for the same step.
    fn step(
        &mut self,
        step: Step,
        ops: impl FnOnce(&mut Self) -> Result<(), Error> + Send,
    ) -> Result<(), Error>;

    /// Copies the first `out.len()` elements of `buffer` to the host, after all ops before this call.
    fn read(&mut self, out: &mut [f32], buffer: &Self::Buffer) -> Result<(), Error>;

    // The ops.

    /// `y[t] = w[token[t]]`, as f32. y: `[n_tokens, n_cols]`.
    fn embedding(&mut self, y: &mut Self::Buffer, w: &Self::Matrix, n_tokens: usize) -> Result<(), Error>;

    /// y = x / sqrt(mean(x²) + eps) · w for each row. x, y: `[n_tokens, dim]`; w: `[dim]`.
    fn rmsnorm(
        &mut self,
        y: &mut Self::Buffer,
        x: &Self::Buffer,
        w: &Self::Vector,
        eps: f32,
        n_tokens: usize,
    ) -> Result<(), Error>;

    /// x += branch, then y = rmsnorm(x). All `[n_tokens, dim]`.
    fn rmsnorm_add(
        &mut self,
        y: &mut Self::Buffer,
        x: &mut Self::Buffer,
        branch: &Self::Buffer,
        w: &Self::Vector,
        eps: f32,
        n_tokens: usize,
    ) -> Result<(), Error>;

    /// `y[t, r] = Σ_c w[r, c] · x[t, c]`. x: `[n_tokens, n_cols]`; y: `[n_tokens, n_rows]`.
    fn matmul(
        &mut self,
        y: &mut Self::Buffer,
        w: &Self::Matrix,
        x: &Self::Buffer,
        n_tokens: usize,
    ) -> Result<(), Error>;

    /// Several matrices applied to one input; a back end may do them at once.
    fn matmul_each<const N: usize>(
        &mut self,
        ys: [&mut Self::Buffer; N],
        ws: [&Self::Matrix; N],
        x: &Self::Buffer,
        n_tokens: usize,
    ) -> Result<(), Error> {
        for (y, w) in ys.into_iter().zip(ws) {
            self.matmul(y, w, x, n_tokens)?;
        }
        Ok(())
    }

    /// `y[t] += b`. y: `[n_tokens, dim]`; b: `[dim]`.
    fn bias_add(&mut self, y: &mut Self::Buffer, b: &Self::Vector, n_tokens: usize) -> Result<(), Error>;

    /// Turns each head's pairs in place by the angles of the tokens' positions. x: `[n_tokens, n_heads, head_dim]`.
    fn rope(
        &mut self,
        x: &mut Self::Buffer,
        table: &Self::Vector,
        shape: RopeShape,
        n_tokens: usize,
    ) -> Result<(), Error>;

    /// Stores the tokens' keys and values at their positions. k, v: `[n_tokens, n_kv_heads, head_dim]`.
    fn kv_write(
        &mut self,
        cache: &mut Self::KvLayer,
        k: &Self::Buffer,
        v: &Self::Buffer,
        n_tokens: usize,
    ) -> Result<(), Error>;

    /// y = softmax(q·kᵀ · scale) v over the positions up to each token's own. q, y: `[n_tokens, n_heads, head_dim]`.
    fn attention(
        &mut self,
        y: &mut Self::Buffer,
        q: &Self::Buffer,
        cache: &Self::KvLayer,
        shape: AttentionShape,
        n_tokens: usize,
    ) -> Result<(), Error>;

    /// y = gate · σ(gate) · up. All `[n_tokens, dim]`.
    fn swiglu(
        &mut self,
        y: &mut Self::Buffer,
        gate: &Self::Buffer,
        up: &Self::Buffer,
        dim: usize,
        n_tokens: usize,
    ) -> Result<(), Error>;

    /// Rows `rows` of x become rows 0.. of y. x: `[_, dim]`.
    fn copy_rows(
        &mut self,
        y: &mut Self::Buffer,
        x: &Self::Buffer,
        dim: usize,
        rows: Range<usize>,
    ) -> Result<(), Error>;

    /// Makes the largest of `logits[..n_vocab]` (the lowest id of equals) the token of the next step, at the next
    /// position, without a round trip through the host; [`Backend::chosen`] will report it.
    fn choose_greedy(&mut self, logits: &Self::Buffer, n_vocab: usize) -> Result<(), Error>;

    /// Whether [`Backend::choose`] can choose from so many logits.
    fn can_choose(&self, n_vocab: usize) -> bool;

    /// Prepares for steps with [`Backend::choose`] that follow `tokens`, of which there will be no more than `n_ctx`.
    fn begin_choosing(
        &mut self,
        sampler: &Sampler,
        tokens: &[u32],
        n_ctx: usize,
        n_vocab: usize,
    ) -> Result<(), Error>;

    /// As [`Backend::choose_greedy`], by the sampler's stages.
    fn choose(&mut self, logits: &Self::Buffer, n_vocab: usize) -> Result<(), Error>;

    /// Waits for the oldest token that was chosen and this method has not reported; none if no logit was
    /// a number to choose by (one is NaN, or none is finite).
    fn chosen(&mut self) -> Result<Option<u32>, Error>;
}

/// What makes two lists of ops equal, for back ends that record them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    pub ops: StepOps,
    /// Rows of the activations that the ops work on.
    pub n_tokens: usize,
    /// Position of the first token. A record may serve other positions too: ops read theirs from the back end.
    pub first_position: usize,
}

/// Which part of a forward pass a step holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepOps {
    /// All layers; no logits.
    Layers,
    /// All layers and the last token's logits.
    LastLogits,
    /// As `LastLogits`, and the next token is chosen from them.
    LastLogitsGreedy,
    /// As `LastLogitsGreedy`, by a sampler's stages.
    LastLogitsSampled,
    /// Logits of the rows from `first_row`, after a step of `Layers`.
    Head { first_row: usize },
}

/// Sizes that the batches of a model have at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchShape {
    pub n_tokens: usize,
    /// Columns of the widest matrix.
    pub n_cols: usize,
    /// Elements of a token's queries.
    pub q_dim: usize,
}

/// Shape of one layer's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvShape {
    pub n_kv_heads: usize,
    pub n_ctx: usize,
    pub head_dim: usize,
}

impl KvShape {
    /// Elements of keys and values together.
    pub fn elements(&self) -> Option<u64> {
        [self.n_kv_heads, self.n_ctx, self.head_dim]
            .into_iter()
            .try_fold(2u64, |product, factor| product.checked_mul(factor as u64))
    }
}

/// Which elements of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopePairs {
    /// Elements 2i and 2i + 1.
    Adjacent,
    /// Elements i and i + rope_dim / 2.
    Half,
}

/// How [`Backend::rope`] turns a row of heads. The table is `[n_ctx, rope_dim / 2, 2]`: cosine, sine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RopeShape {
    pub pairs: RopePairs,
    pub n_heads: usize,
    pub head_dim: usize,
    /// The first elements of a head that turn; the others stay. Even, at most `head_dim`.
    pub rope_dim: usize,
}

/// Shape of one attention: `n_heads / n_kv_heads` query heads share one head of keys and values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    /// Factor on q·k, usually 1 / sqrt(head_dim).
    pub scale: f32,
}

/// A checked weight matrix in the file: `bytes` is exactly `n_rows` rows of `n_cols` elements of `ty`.
pub struct MatrixSource<'a> {
    /// The tensor's name, for messages.
    pub name: &'a str,
    pub ty: GgmlType,
    pub n_rows: usize,
    pub n_cols: usize,
    pub bytes: FileBytes,
}

/// A range of a model file that stays readable as long as this handle lives, without a copy.
#[derive(Clone, Debug)]
pub struct FileBytes {
    file: Arc<MappedFile>,
    range: Range<usize>,
}

impl FileBytes {
    /// # Panics
    /// When the range is not inside the file.
    pub fn new(file: Arc<MappedFile>, range: Range<usize>) -> Self {
        let n_bytes = file.bytes().len();
        assert!(range.start <= range.end && range.end <= n_bytes, "{range:?} in a file of {n_bytes} bytes");
        FileBytes { file, range }
    }

    /// The bytes, where they lie in the map.
    pub fn as_slice(&self) -> &[u8] {
        &self.file.bytes()[self.range.clone()]
    }

    /// The file, for back ends that read it by themselves.
    pub fn file(&self) -> &Arc<MappedFile> {
        &self.file
    }

    /// Bytes from the start of the file.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }
}

/// Bytes by purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Packed weights, and the small f32 vectors beside them. On the CPU these are pages of the file.
    pub weights: u64,
    pub kv_cache: u64,
    pub activations: u64,
}

impl Memory {
    /// The sum; saturating, so that absurd needs stay absurd.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.kv_cache).saturating_add(self.activations)
    }
}

/// What a back end can fail at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{device}: the model needs {} bytes (weights {}, KV cache {}, activations {}), available are {available}",
        need.total(), need.weights, need.kv_cache, need.activations)]
    DoesNotFit { device: String, need: Memory, available: u64 },
    #[error("{device}: out of memory: {bytes} more bytes for {purpose}")]
    OutOfMemory { device: String, purpose: &'static str, bytes: u64 },
    #[error("tensor `{tensor}`: type {ty} is not supported on {device} (supported: {supported})")]
    UnsupportedType { device: String, tensor: String, ty: &'static str, supported: String },
    #[error("{device}: attention with {n_heads} heads of {head_dim} elements is not supported: {why}")]
    UnsupportedAttention { device: String, n_heads: usize, head_dim: usize, why: String },
    /// A failed call of the device's driver.
    #[error(transparent)]
    Device(Box<dyn std::error::Error + Send + Sync>),
}

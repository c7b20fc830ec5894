//! What the host says to launch it.

use super::{TILE_QUERIES, attention_wgmma_f16_d64, attention_wgmma_f16_d96, attention_wgmma_f16_d128};
use crate::launch::{Device, DeviceSlice, Grid, Matrix};
use crate::simt::f16;

/// Attention of the new tokens of one sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prefill {
    /// New tokens.
    pub n_tokens: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Heads of keys and values, which divide those of queries.
    pub n_kv_heads: usize,
    /// Elements of a head: one of [`Prefill::HEAD_DIMS`].
    pub head_dim: usize,
    /// Places of a cache.
    pub n_ctx: usize,
    /// Factor of scores, usually 1 / √head_dim.
    pub scale: f32,
}

/// What attention reads.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// Queries `[n_tokens, n_heads · head_dim]`.
    pub q: &'a DeviceSlice<f16>,
    /// Keys `[n_kv_heads · n_ctx, head_dim]`.
    pub k_cache: &'a DeviceSlice<f16>,
    /// Values, like keys.
    pub v_cache: &'a DeviceSlice<f16>,
    /// Positions of the tokens, ascending.
    pub positions: &'a DeviceSlice<u32>,
}

impl Prefill {
    /// Sizes of heads that there are kernels for.
    pub const HEAD_DIMS: [usize; 3] = [64, 96, 128];

    /// Heads whose keys and values have room in the second-level cache together: some heads of keys, with all their heads of
    /// queries.
    fn heads_at_once(&self) -> u32 {
        /// Of the H100's 50 MiB a multiprocessor is near to one half.
        const CACHE_BYTES: usize = 20 << 20;
        let kv_head_bytes = 2 * size_of::<f16>() * self.n_ctx * self.head_dim;
        let n_kv_heads = (CACHE_BYTES / kv_head_bytes).clamp(1, self.n_kv_heads);
        (n_kv_heads * self.n_heads / self.n_kv_heads) as u32
    }

    /// Bytes that a launch over a prompt from an empty cache must move at least: queries, keys, values and results once.
    pub const fn bytes(&self) -> u64 {
        let results = size_of::<f32>() * self.n_heads;
        let inputs = size_of::<f16>() * (self.n_heads + 2 * self.n_kv_heads);
        (results + inputs) as u64 * (self.n_tokens * self.head_dim) as u64
    }

    /// Launches the kernel on a GPU with so many multiprocessors: see [`attention_wgmma_f16_d64`] for shapes. `next` is a
    /// zero, and is one again afterwards.
    ///
    /// # Errors
    /// Those of the device.
    ///
    /// # Panics
    /// If a span is too small, or there is no kernel for such heads.
    pub fn launch<D: Device>(
        &self,
        device: &D,
        n_multiprocessors: u32,
        y: &mut DeviceSlice<f32>,
        inputs: Inputs<'_>,
        next: &mut DeviceSlice<u32>,
    ) -> Result<(), D::Error> {
        let Self { n_tokens, n_heads, n_kv_heads, head_dim, n_ctx, scale } = *self;
        assert!(n_heads.is_multiple_of(n_kv_heads), "{n_heads} query heads over {n_kv_heads} heads");
        let Inputs { q, k_cache, v_cache, positions } = inputs;
        let len = n_tokens * n_heads * head_dim;
        assert!(y.len() >= len, "y has {} elements, not {len}", y.len());
        assert!(positions.len() >= n_tokens, "{} positions of {n_tokens} tokens", positions.len());
        let q = Matrix::new(q, n_tokens, n_heads * head_dim);
        let k_cache = Matrix::new(k_cache, n_kv_heads * n_ctx, head_dim);
        let v_cache = Matrix::new(v_cache, n_kv_heads * n_ctx, head_dim);
        let n_pieces = n_heads * n_tokens.div_ceil(TILE_QUERIES as usize);
        let grid = Grid::x((n_pieces as u32).min(n_multiprocessors));
        let heads_at_once = self.heads_at_once();
        let (n_tokens, n_heads) = (n_tokens as u32, n_heads as u32);
        let (n_kv_heads, n_ctx) = (n_kv_heads as u32, n_ctx as u32);
        macro_rules! launch {
            ($kernel:ident) => {
                device.launch(
                    $kernel {
                        y,
                        q,
                        k_cache,
                        v_cache,
                        positions,
                        next,
                        n_tokens,
                        n_heads,
                        n_kv_heads,
                        n_ctx,
                        heads_at_once,
                        scale,
                    },
                    grid,
                )
            };
        }
        match head_dim {
            64 => launch!(attention_wgmma_f16_d64),
            96 => launch!(attention_wgmma_f16_d96),
            128 => launch!(attention_wgmma_f16_d128),
            _ => panic!("no kernel for heads of {head_dim} elements, only of {:?}", Self::HEAD_DIMS),
        }
    }
}

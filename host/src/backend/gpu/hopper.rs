//! Prompts on Hopper's tensor cores: their kernels take activations in f16, which are made here.

use kernels_gpu::attention_wgmma::prefill::{Inputs, Prefill};
use kernels_gpu::convert::{round_blocks, round_f32_f16};
use kernels_gpu::gemm_quant::plan::{Plan, Shape};
use kernels_gpu::launch::{Device, DeviceBuffer, DeviceSlice, Grid, Purpose};
use kernels_gpu::narrow::narrow_f16;
use kernels_gpu::simt::f16;

use super::accelerator::{Accelerator, device_error};
use super::format::u32_of;
use super::{Gpu, GpuKvLayer, GpuMatrix};
use crate::backend::{AttentionShape, BatchShape, Error};

/// Up to so many tokens, reading a matrix once for all of them with the kernels for few vectors is faster.
const FEW_TOKENS: usize = 8;

/// Tokens of a batch. With more of them products are hardly faster.
pub(super) const BEST_BATCH: usize = 2048;

/// What kernels read and write beside the activations.
pub(super) struct Workspace {
    /// The input of a product, in the order and the size that it takes.
    x: DeviceBuffer<f16>, // [n_tokens, n_cols]
    x_scales: DeviceBuffer<f32>, // [n_tokens]
    /// Sums of parts of a product's columns.
    parts: DeviceBuffer<f32>,
    q: DeviceBuffer<f16>, // [n_tokens, q_dim]
    /// The next piece of attention's work.
    next: DeviceBuffer<u32>, // [1]
}

/// Elements of each buffer: x, x_scales, parts, q.
fn lens(shape: BatchShape, n_multiprocessors: usize) -> Option<[usize; 4]> {
    let BatchShape { n_tokens, n_cols, q_dim } = shape;
    let parts = n_multiprocessors * Plan::ROUND_LEN;
    Some([n_tokens.checked_mul(n_cols)?, n_tokens, parts, n_tokens.checked_mul(q_dim)?])
}

/// Bytes of a [`Workspace`]; none if that is no number of 64 bits.
pub(super) fn workspace_bytes(shape: BatchShape, n_multiprocessors: usize) -> Option<u64> {
    let [x, x_scales, parts, q] = lens(shape, n_multiprocessors)?.map(|n| n as u64);
    let halves = x.checked_add(q)?.checked_mul(size_of::<f16>() as u64)?;
    let floats = x_scales.checked_add(parts)?.checked_mul(size_of::<f32>() as u64)?;
    halves.checked_add(floats)?.checked_add(size_of::<u32>() as u64)
}

impl Workspace {
    pub(super) fn new<D: Device>(
        device: &D,
        shape: BatchShape,
        n_multiprocessors: usize,
    ) -> Result<Self, D::Error> {
        let [x, x_scales, parts, q] = lens(shape, n_multiprocessors).expect("a size that was admitted");
        Ok(Workspace {
            x: device.alloc(x, Purpose::Activations)?,
            x_scales: device.alloc(x_scales, Purpose::Activations)?,
            parts: device.alloc(parts, Purpose::Activations)?,
            q: device.alloc(q, Purpose::Activations)?,
            next: device.zeros(1, Purpose::Activations)?,
        })
    }
}

impl<D: Accelerator> Gpu<D> {
    /// Whether a product of so many vectors goes through the tensor cores.
    pub(super) fn is_prompt_product(&self, w: &GpuMatrix, n_tokens: usize) -> bool {
        self.hopper.is_some()
            && n_tokens > FEW_TOKENS
            && w.format.has_gemm_quant()
            && Plan::takes(w.n_rows, w.n_cols)
    }

    /// Makes x the input of the products that follow.
    pub(super) fn narrow(&mut self, x: &DeviceSlice<f32>, n_tokens: usize) -> Result<(), Error> {
        let n_cols = x.len() / n_tokens;
        let Gpu { device, hopper, .. } = self;
        let Workspace { x: y, x_scales, .. } = hopper.as_mut().expect("where prompts go this way");
        let (y, scales) = (y.slice_mut(0..x.len()), x_scales.slice_mut(0..n_tokens));
        let narrow = narrow_f16 { y, scales, x, dim: u32_of(n_cols) };
        device.launch(narrow, Grid::x(u32_of(n_tokens))).map_err(device_error)
    }

    /// y = w · the input that [`Gpu::narrow`] was given last.
    pub(super) fn prompt_product(
        &mut self,
        y: &mut DeviceSlice<f32>,
        w: &GpuMatrix,
        n_tokens: usize,
    ) -> Result<(), Error> {
        let GpuMatrix { piece, format, n_rows, n_cols } = w;
        let Gpu { device, hopper, .. } = self;
        let Workspace { x, x_scales, parts, .. } = hopper.as_mut().expect("where prompts go this way");
        let shape = Shape { n_tokens, n_rows: *n_rows, n_cols: *n_cols };
        let plan = Plan::within(shape, u32_of(device.n_multiprocessors()), parts.len());
        let x = (x.slice(0..n_tokens * n_cols), x_scales.slice(0..n_tokens));
        format.gemm_quant(device, plan, y, piece.bytes(), x, parts).map_err(device_error)
    }

    /// Whether attention of so many tokens goes through the tensor cores.
    pub(super) fn is_prompt_attention(&self, head_dim: usize, n_tokens: usize) -> bool {
        self.hopper.is_some() && n_tokens > FEW_TOKENS && Prefill::HEAD_DIMS.contains(&head_dim)
    }

    /// Attention of many tokens, its queries rounded to f16.
    pub(super) fn prompt_attention(
        &mut self,
        y: &mut DeviceSlice<f32>,
        q: &DeviceSlice<f32>,
        cache: &GpuKvLayer,
        shape: AttentionShape,
        n_tokens: usize,
    ) -> Result<(), Error> {
        let AttentionShape { n_heads, n_kv_heads, head_dim, scale } = shape;
        let Gpu { device, hopper, inputs, .. } = self;
        let Workspace { q: rounded, next, .. } = hopper.as_mut().expect("where prompts go this way");
        let n = q.len();
        let round = round_f32_f16 { y: rounded.slice_mut(0..n), x: q, n: u32_of(n) };
        device.launch(round, Grid::x(u32_of(round_blocks(n)))).map_err(device_error)?;
        let prefill = Prefill { n_tokens, n_heads, n_kv_heads, head_dim, n_ctx: cache.shape.n_ctx, scale };
        let inputs = Inputs {
            q: rounded.slice(0..n),
            k_cache: &cache.k,
            v_cache: &cache.v,
            positions: inputs.positions(n_tokens),
        };
        prefill.launch(device, u32_of(device.n_multiprocessors()), y, inputs, next).map_err(device_error)
    }
}

//! Prompts on the tensor cores: their kernels take activations in f16, which are made here.

use kernels_gpu::attention_wgmma::prefill::{Inputs, Prefill};
use kernels_gpu::convert::{round_blocks, round_f32_f16};
use kernels_gpu::gemm_quant::plan::{Plan, Shape};
use kernels_gpu::gemm_quant_mma::product::Product;
use kernels_gpu::launch::{Device, DeviceBuffer, DeviceSlice, Grid, Purpose};
use kernels_gpu::narrow::narrow_f16;
use kernels_gpu::simt::f16;

use super::accelerator::{Accelerator, device_error};
use super::format::u32_of;
use super::{Gpu, GpuKvLayer, GpuMatrix};
use crate::backend::{AttentionShape, BatchShape, Error};

/// Up to so many tokens, reading a matrix once for all of them with the kernels for few vectors is faster than those for Hopper.
const FEW_TOKENS: usize = 8;

/// Tokens of a batch. With more of them products are hardly faster.
pub(super) const BEST_BATCH: usize = 2048;

/// What kernels read and write beside the activations.
pub(super) struct Workspace {
    /// The input of a product, in the order and the size that it takes.
    x: DeviceBuffer<f16>, // [n_tokens, n_cols]
    x_scales: DeviceBuffer<f32>, // [n_tokens]
    /// Where there are kernels for Hopper.
    hopper: Option<HopperWorkspace>,
}

struct HopperWorkspace {
    /// Sums of parts of a product's columns.
    parts: DeviceBuffer<f32>,
    q: DeviceBuffer<f16>, // [n_tokens, q_dim]
    /// The next piece of attention's work.
    next: DeviceBuffer<u32>, // [1]
}

/// Elements of each buffer: x, x_scales; parts and q, on a Hopper with so many multiprocessors.
fn lens(shape: BatchShape, hopper: Option<usize>) -> Option<([usize; 2], Option<[usize; 2]>)> {
    let BatchShape { n_tokens, n_cols, q_dim } = shape;
    let of_hopper = match hopper {
        Some(n_multiprocessors) => Some([n_multiprocessors * Plan::ROUND_LEN, n_tokens.checked_mul(q_dim)?]),
        None => None,
    };
    Some(([n_tokens.checked_mul(n_cols)?, n_tokens], of_hopper))
}

/// Bytes of a [`Workspace`]; none if that is no number of 64 bits. `hopper` is the number of multiprocessors of one.
pub(super) fn workspace_bytes(shape: BatchShape, hopper: Option<usize>) -> Option<u64> {
    let ([x, x_scales], of_hopper) = lens(shape, hopper)?;
    let bytes = |halves: usize, floats: usize| {
        let floats = (floats as u64).checked_mul(size_of::<f32>() as u64)?;
        (halves as u64).checked_mul(size_of::<f16>() as u64)?.checked_add(floats)
    };
    let always = bytes(x, x_scales)?;
    match of_hopper {
        Some([parts, q]) => always.checked_add(bytes(q, parts)?)?.checked_add(size_of::<u32>() as u64),
        None => Some(always),
    }
}

impl Workspace {
    pub(super) fn new<D: Device>(
        device: &D,
        shape: BatchShape,
        hopper: Option<usize>,
    ) -> Result<Self, D::Error> {
        let ([x, x_scales], of_hopper) = lens(shape, hopper).expect("a size that was admitted");
        Ok(Workspace {
            x: device.alloc(x, Purpose::Activations)?,
            x_scales: device.alloc(x_scales, Purpose::Activations)?,
            hopper: match of_hopper {
                Some([parts, q]) => Some(HopperWorkspace {
                    parts: device.alloc(parts, Purpose::Activations)?,
                    q: device.alloc(q, Purpose::Activations)?,
                    next: device.zeros(1, Purpose::Activations)?,
                }),
                None => None,
            },
        })
    }
}

impl<D: Accelerator> Gpu<D> {
    /// Whether a product of so many vectors goes through the kernels for Hopper.
    fn is_hopper_product(&self, w: &GpuMatrix, n_tokens: usize) -> bool {
        self.is_hopper()
            && w.format.has_gemm_quant()
            && n_tokens > FEW_TOKENS
            && Plan::takes(w.n_rows, w.n_cols)
    }

    /// Whether a product of so many vectors goes through the tensor cores with activations in f16.
    pub(super) fn is_prompt_product(&self, w: &GpuMatrix, n_tokens: usize) -> bool {
        let is_for_any_gpu = || {
            w.format.has_gemm_quant_mma() && n_tokens > w.format.gemv_vectors() && Product::takes(w.n_cols)
        };
        self.prompts.is_some() && (self.is_hopper_product(w, n_tokens) || is_for_any_gpu())
    }

    /// Makes x the input of the products that follow.
    pub(super) fn narrow(&mut self, x: &DeviceSlice<f32>, n_tokens: usize) -> Result<(), Error> {
        let n_cols = x.len() / n_tokens;
        let Gpu { device, prompts, .. } = self;
        let Workspace { x: y, x_scales, .. } = prompts.as_mut().expect("where prompts go this way");
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
        let is_for_hopper = self.is_hopper_product(w, n_tokens);
        let GpuMatrix { piece, format, n_rows, n_cols } = w;
        let Gpu { device, prompts, .. } = self;
        let Workspace { x, x_scales, hopper } = prompts.as_mut().expect("where prompts go this way");
        let x = (x.slice(0..n_tokens * n_cols), x_scales.slice(0..n_tokens));
        if !is_for_hopper {
            let product = Product::new(n_tokens, *n_rows, *n_cols);
            return format.gemm_quant_mma(device, product, y, piece.bytes(), x).map_err(device_error);
        }
        let HopperWorkspace { parts, .. } = hopper.as_mut().expect("on Hopper");
        let shape = Shape { n_tokens, n_rows: *n_rows, n_cols: *n_cols };
        let plan = Plan::within(shape, u32_of(device.n_multiprocessors()), parts.len());
        format.gemm_quant(device, plan, y, piece.bytes(), x, parts).map_err(device_error)
    }

    /// Whether attention of so many tokens goes through the kernels for Hopper.
    pub(super) fn is_prompt_attention(&self, head_dim: usize, n_tokens: usize) -> bool {
        self.prompts.is_some()
            && self.is_hopper()
            && n_tokens > FEW_TOKENS
            && Prefill::HEAD_DIMS.contains(&head_dim)
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
        let Gpu { device, prompts, inputs, .. } = self;
        let workspace = prompts.as_mut().and_then(|workspace| workspace.hopper.as_mut());
        let HopperWorkspace { q: rounded, next, .. } = workspace.expect("where prompts go this way");
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

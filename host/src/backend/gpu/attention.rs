//! Attention of few tokens, whose keys are dealt to several blocks.

use kernels_gpu::attention_decode::{
    attention_decode_f16, attention_merge_f32, attention_merge_f32_converted,
};
use kernels_gpu::attention_decode_mma::{self, *};
use kernels_gpu::gemv::XOrder;
use kernels_gpu::launch::{Device, DeviceBuffer, DeviceSlice, Grid, Purpose};

use super::accelerator::{Accelerator, device_error};
use super::buffer::{Place, State};
use super::format::u32_of;
use super::{Gpu, GpuKvLayer};
use crate::backend::{AttentionShape, Error};

/// Keys that make a part worth a block of [`attention_decode_f16`].
const SPLIT_KEYS_MIN: usize = 64;

/// Whether there is a kernel for the tensor cores. The other kernel takes any shape.
fn has_mma(shape: AttentionShape) -> bool {
    shape.n_heads / shape.n_kv_heads <= attention_decode_mma::max_group(shape.head_dim)
}

impl<D: Accelerator> Gpu<D> {
    /// Parts of an attention's keys. It depends on no position, so that one list of launches serves every step.
    fn n_splits(&self, shape: AttentionShape, n_tokens: usize, n_ctx: usize) -> usize {
        let n_multiprocessors = self.device.n_multiprocessors();
        if has_mma(shape) {
            return attention_decode_mma::n_splits(n_multiprocessors, shape.n_kv_heads, n_tokens, n_ctx);
        }
        let blocks_wanted = 2 * n_multiprocessors;
        blocks_wanted.div_ceil(shape.n_heads * n_tokens).min(n_ctx.div_ceil(SPLIT_KEYS_MIN)).max(1)
    }

    /// Attention whose keys are dealt to several blocks.
    pub(super) fn attention_split(
        &mut self,
        (y, written): (&mut DeviceSlice<f32>, State),
        q: &DeviceSlice<f32>,
        cache: &GpuKvLayer,
        shape: AttentionShape,
        n_tokens: usize,
    ) -> Result<(), Error> {
        let AttentionShape { n_heads, n_kv_heads, head_dim, scale } = shape;
        let n_splits = self.n_splits(shape, n_tokens, cache.shape.n_ctx);
        let n_parts = n_tokens * n_heads * n_splits;
        let Gpu { device, scratch, converted, inputs, .. } = self;
        let part_out = grown(device, &mut scratch.part_out, &mut scratch.outgrown, n_parts * head_dim)?;
        let part_ml = grown(device, &mut scratch.part_ml, &mut scratch.outgrown, n_parts * 2)?;
        let (k_cache, v_cache, positions) = (&*cache.k, &*cache.v, inputs.positions(n_tokens));
        let group = n_heads / n_kv_heads;
        let dim = head_dim;
        let [n_heads, n_kv_heads, head_dim] = [n_heads, n_kv_heads, head_dim].map(u32_of);
        let [n_splits, n_tokens, n_ctx] = [n_splits, n_tokens, cache.shape.n_ctx].map(u32_of);
        macro_rules! launch {
            ($kernel:ident, $n_heads:ident $(, $field:ident)*) => {
                device.launch(
                    $kernel {
                        part_out: &mut *part_out,
                        part_ml: &mut *part_ml,
                        q,
                        k_cache,
                        v_cache,
                        positions,
                        n_heads,
                        n_kv_heads,
                        $($field,)*
                        n_ctx,
                        scale,
                        window: n_ctx,
                    },
                    Grid::xyz($n_heads, n_splits, n_tokens),
                )
            };
        }
        match (dim, group <= NARROW_HEADS) {
            _ if !has_mma(shape) => launch!(attention_decode_f16, n_heads, head_dim),
            (64, true) => launch!(attention_decode_mma_f16_d64, n_kv_heads),
            (80, true) => launch!(attention_decode_mma_f16_d80, n_kv_heads),
            (96, true) => launch!(attention_decode_mma_f16_d96, n_kv_heads),
            (128, true) => launch!(attention_decode_mma_f16_d128, n_kv_heads),
            (256, true) => launch!(attention_decode_mma_f16_d256, n_kv_heads),
            (64, false) => launch!(attention_decode_mma_wide_f16_d64, n_kv_heads),
            (80, false) => launch!(attention_decode_mma_wide_f16_d80, n_kv_heads),
            (96, false) => launch!(attention_decode_mma_wide_f16_d96, n_kv_heads),
            (128, false) => launch!(attention_decode_mma_wide_f16_d128, n_kv_heads),
            _ => unreachable!("has_mma({shape:?})"),
        }
        .map_err(device_error)?;
        let has_kernel = |order: XOrder| dim.is_multiple_of(order.group_cols());
        let place =
            converted[written.id].row(written, [n_tokens as usize, n_heads as usize * dim], has_kernel);
        let grid = Grid::xy(n_heads, n_tokens);
        match place {
            None => {
                let merge = attention_merge_f32 { y, part_out, part_ml, n_heads, n_splits, head_dim };
                device.launch(merge, grid)
            }
            Some(Place { order, words, numbers }) => {
                let order = order.code();
                let merge = attention_merge_f32_converted {
                    y,
                    words,
                    numbers,
                    part_out,
                    part_ml,
                    n_heads,
                    n_splits,
                    head_dim,
                    order,
                };
                device.launch(merge, grid)
            }
        }
        .map_err(device_error)
    }
}

/// A buffer of `n` elements: what is there, or a new one. The old one stays until the step's launches have run.
pub(super) fn grown<'a, D: Device>(
    device: &D,
    buffer: &'a mut Option<DeviceBuffer<f32>>,
    outgrown: &mut Vec<DeviceBuffer<f32>>,
    n: usize,
) -> Result<&'a mut DeviceSlice<f32>, Error>
where
    D::Error: 'static,
{
    if buffer.as_ref().is_none_or(|buffer| buffer.len() < n) {
        let new = device.alloc(n, Purpose::Other).map_err(device_error)?;
        outgrown.extend(buffer.replace(new));
    }
    Ok(buffer.as_mut().expect("made above").slice_mut(0..n))
}

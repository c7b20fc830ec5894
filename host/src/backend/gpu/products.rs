//! Products of matrices and activations: which kernels they go to.

use kernels_gpu::launch::{DeviceBuffer, DeviceSlice};

use super::accelerator::{Accelerator, device_error};
use super::ops::{FEW_TOKENS, rows, rows_mut};
use super::{Gpu, GpuMatrix};
use crate::backend::Error;

/// Blocks of a GEMV for each multiprocessor: one has enough loads in flight, and leaves room for the next kernel's.
const GEMV_BLOCKS_PER_MULTIPROCESSOR: usize = 1;

impl<D: Accelerator> Gpu<D> {
    /// Several matrices applied to one input, which is rounded once for all that want it so.
    pub(super) fn products<const N: usize>(
        &mut self,
        ys: [&mut DeviceBuffer<f32>; N],
        ws: [&GpuMatrix; N],
        x: &DeviceBuffer<f32>,
        n_tokens: usize,
    ) -> Result<(), Error> {
        let x = rows(x, n_tokens, ws[0].n_cols);
        if ws.iter().any(|w| self.is_prompt_product(w, n_tokens)) {
            self.narrow(x, n_tokens)?;
        }
        for (y, w) in ys.into_iter().zip(ws) {
            assert!(w.n_cols == ws[0].n_cols, "{} and {} columns of one input", w.n_cols, ws[0].n_cols);
            let y = rows_mut(y, n_tokens, w.n_rows);
            if self.is_prompt_product(w, n_tokens) {
                self.prompt_product(y, w, n_tokens)?;
            } else {
                self.product(y, w, x, n_tokens)?;
            }
        }
        Ok(())
    }

    /// y = w · x by the kernels for every GPU.
    fn product(
        &self,
        y: &mut DeviceSlice<f32>,
        w: &GpuMatrix,
        x: &DeviceSlice<f32>,
        n_tokens: usize,
    ) -> Result<(), Error> {
        let GpuMatrix { piece, format, n_rows, n_cols } = w;
        let (bytes, shape) = (piece.bytes(), [*n_rows, *n_cols]);
        let vectors = format.gemv_vectors();
        if n_tokens > vectors.max(FEW_TOKENS) {
            return format.gemm(&self.device, y, bytes, x, shape, n_tokens).map_err(device_error);
        }
        let max_blocks = GEMV_BLOCKS_PER_MULTIPROCESSOR * self.device.n_multiprocessors();
        for first in (0..n_tokens).step_by(vectors) {
            let tokens = first..n_tokens.min(first + vectors);
            let y = y.slice_mut(tokens.start * n_rows..tokens.end * n_rows);
            let x = x.slice(tokens.start * n_cols..tokens.end * n_cols);
            let shape = [tokens.len(), *n_rows, *n_cols];
            format.gemv(&self.device, y, bytes, x, shape, max_blocks).map_err(device_error)?;
        }
        Ok(())
    }
}

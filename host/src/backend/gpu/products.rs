//! Products of matrices and activations: which kernels they go to.

use kernels_gpu::gemv::{MATRICES, XOrder};
use kernels_gpu::launch::DeviceSlice;

use super::accelerator::{Accelerator, device_error};
use super::buffer::{State, rows, rows_mut};
use super::format::Format;
use super::ops::FEW_TOKENS;
use super::{Gpu, GpuBuffer, GpuMatrix};
use crate::backend::Error;

impl<D: Accelerator> Gpu<D> {
    /// Several matrices applied to one input, which is rounded once for all that want it so.
    pub(super) fn products<const N: usize>(
        &mut self,
        ys: [&mut GpuBuffer; N],
        ws: [&GpuMatrix; N],
        x: &GpuBuffer,
        n_tokens: usize,
    ) -> Result<(), Error> {
        for w in ws {
            assert!(w.n_cols == ws[0].n_cols, "{} and {} columns of one input", w.n_cols, ws[0].n_cols);
        }
        let (state, x) = (x.state(), rows(x, n_tokens, ws[0].n_cols));
        if ws.iter().any(|w| self.is_prompt_product(w, n_tokens)) {
            self.narrow(x, n_tokens)?;
        }
        let mut products = ys.into_iter().zip(ws).peekable();
        while let Some((y, w)) = products.next() {
            let y = rows_mut(y, n_tokens, w.n_rows);
            if self.is_prompt_product(w, n_tokens) {
                self.prompt_product(y, w, n_tokens)?;
            } else if n_tokens > w.format.gemv_vectors().max(FEW_TOKENS) {
                let (bytes, shape) = (w.piece.bytes(), [w.n_rows, w.n_cols]);
                w.format.gemm(&self.device, y, bytes, x, shape, n_tokens).map_err(device_error)?;
            } else if let Some(order) = w.format.x_order(n_tokens) {
                let mut group = vec![(y, w)];
                // One launch for neighbours of one format.
                while n_tokens == 1 && group.len() < MATRICES {
                    let Some((y, w)) = products.next_if(|(_, next)| next.format == w.format) else { break };
                    group.push((rows_mut(y, 1, w.n_rows), w));
                }
                self.matmul_few(group, (x, state), order, n_tokens)?;
            } else {
                self.matmul_f32_few(y, w, x, n_tokens)?;
            }
        }
        Ok(())
    }

    /// Products with a few vectors, converted now or before: of several matrices of one format with one vector, or of
    /// one with several.
    fn matmul_few(
        &mut self,
        products: Vec<(&mut DeviceSlice<f32>, &GpuMatrix)>,
        x: (&DeviceSlice<f32>, State),
        order: XOrder,
        n_tokens: usize,
    ) -> Result<(), Error> {
        let Gpu { device, scratch, converted, .. } = self;
        let (format, n_cols) = (products[0].1.format, products[0].1.n_cols);
        let x = converted[x.1.id].of(device, &mut scratch.outgrown, order, x, [n_tokens, n_cols])?;
        let max_blocks = format.gemv_blocks_at_once(n_tokens) * device.n_multiprocessors();
        if n_tokens == 1 {
            let products = products.into_iter().map(|(y, w)| (y, w.piece.bytes(), w.n_rows));
            return format.gemv_one(device, products, x, n_cols, max_blocks).map_err(device_error);
        }
        for (y, w) in products {
            let shape = [w.n_rows, n_cols];
            format.gemv(device, y, w.piece.bytes(), x, shape, max_blocks).map_err(device_error)?;
        }
        Ok(())
    }

    /// A product with a few vectors and weights in f32, which are read for each of them.
    fn matmul_f32_few(
        &self,
        y: &mut DeviceSlice<f32>,
        w: &GpuMatrix,
        x: &DeviceSlice<f32>,
        n_tokens: usize,
    ) -> Result<(), Error> {
        let (shape, max_blocks) = ([w.n_rows, w.n_cols], self.device.n_multiprocessors());
        for token in 0..n_tokens {
            let y = y.slice_mut(token * w.n_rows..(token + 1) * w.n_rows);
            let x = x.slice(token * w.n_cols..(token + 1) * w.n_cols);
            Format::gemv_f32(&self.device, y, w.piece.bytes(), x, shape, max_blocks).map_err(device_error)?;
        }
        Ok(())
    }
}

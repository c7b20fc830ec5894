//! The ops: each checks its shapes and launches its kernels.

use std::ops::Range;

use kernels_gpu::attention_decode;
use kernels_gpu::attention_prefill::{
    self, attention_prefill_f16_d64, attention_prefill_f16_d128, attention_prefill_f16_d256,
};
use kernels_gpu::bias::{self, bias_add_f32, bias_blocks};
use kernels_gpu::copy::{copy_blocks, copy_f32};
use kernels_gpu::gemv::gemv_x_blocks;
use kernels_gpu::kv_cache::{kv_write_blocks, kv_write_f16};
use kernels_gpu::launch::{DeviceSlice, Grid, Launch, Purpose};
use kernels_gpu::rmsnorm::{
    CONVERTED_DIM, rmsnorm_add_f32, rmsnorm_add_f32_converted, rmsnorm_f32, rmsnorm_f32_converted,
};
use kernels_gpu::rope::{rope_adjacent_f32, rope_blocks, rope_half_f32};
use kernels_gpu::swiglu::{swiglu_blocks, swiglu_f32, swiglu_f32_converted};

use super::accelerator::{Accelerator, device_error};
use super::buffer::{Converted, Place, rows, rows_mut};
use super::choose::can_choose;
use super::format::u32_of;
use super::weights::Arena;
use super::{Gpu, GpuBuffer, GpuKvLayer, GpuMatrix, GpuVector, prompts};
use crate::backend::{
    AttentionShape, Backend, BatchShape, Error, KvShape, MatrixSource, Memory, RopePairs, RopeShape, Step,
};
use crate::gguf::GgmlType;
use crate::sampler::Sampler;

/// Most elements of a head.
pub(super) const HEAD_DIM_MAX: usize = attention_decode::MAX_HEAD_DIM;

/// Up to so many tokens have their attention split over the keys, and f32 matrices read for each of them. More share the
/// reading, in tiles of 64 tokens and of 32 queries, most of which a few tokens would leave empty.
pub(super) const FEW_TOKENS: usize = 8;

/// Tokens of a batch where attention of prompts is computed in f32.
const BEST_BATCH: usize = 512;

impl<D: Accelerator> Gpu<D> {
    fn launch<K: Launch>(&self, kernel: K, grid: Grid) -> Result<(), Error> {
        self.device.launch(kernel, grid).map_err(device_error)
    }

    /// Attention of many tokens.
    fn attention_tiled(
        &self,
        y: &mut DeviceSlice<f32>,
        q: &DeviceSlice<f32>,
        cache: &GpuKvLayer,
        shape: AttentionShape,
        n_tokens: usize,
    ) -> Result<(), Error> {
        let AttentionShape { n_heads, n_kv_heads, head_dim, scale } = shape;
        let (k_cache, v_cache) = (&*cache.k, &*cache.v);
        let positions = self.inputs.positions(n_tokens);
        let grid = Grid::xy(u32_of(n_tokens.div_ceil(attention_prefill::TILE_QUERIES)), u32_of(n_heads));
        let n_ctx = u32_of(cache.shape.n_ctx);
        let n_tokens = u32_of(n_tokens);
        let [n_heads, n_kv_heads, head_dim] = [n_heads, n_kv_heads, head_dim].map(u32_of);
        macro_rules! launch {
            ($kernel:ident) => {
                self.launch(
                    $kernel {
                        y,
                        q,
                        k_cache,
                        v_cache,
                        positions,
                        n_tokens,
                        n_heads,
                        n_kv_heads,
                        head_dim,
                        n_ctx,
                        scale,
                    },
                    grid,
                )
            };
        }
        match head_dim {
            ..=64 => launch!(attention_prefill_f16_d64),
            65..=128 => launch!(attention_prefill_f16_d128),
            _ => launch!(attention_prefill_f16_d256),
        }
    }
}

/// Whether there are kernels that also convert a norm's row.
fn can_convert_norm(dim: usize) -> bool {
    dim.is_multiple_of(4) && dim <= CONVERTED_DIM
}

impl GpuVector {
    fn values(&self) -> &DeviceSlice<f32> {
        self.0.bytes().cast()
    }
}

impl<D: Accelerator> Backend for Gpu<D> {
    type Matrix = GpuMatrix;
    type Vector = GpuVector;
    type Buffer = GpuBuffer;
    type KvLayer = GpuKvLayer;

    const STEPS_AHEAD: usize = D::STEPS_AHEAD;

    fn name(&self) -> String {
        self.device.name()
    }

    fn check_matrix_type(&self, tensor: &str, ty: GgmlType) -> Result<(), Error> {
        self.format(tensor, ty).map(|_| ())
    }

    fn matrix_bytes(&self, ty: GgmlType, n_rows: usize, n_cols: usize) -> u64 {
        match self.format("", ty) {
            Ok(format) => Arena::piece_bytes(format.matrix_bytes([n_rows, n_cols])) as u64,
            Err(error) => panic!("bytes of a matrix that was not checked: {error}"),
        }
    }

    fn kv_layer_bytes(&self, shape: KvShape) -> Option<u64> {
        shape.elements()?.checked_mul(2)
    }

    fn admit(&mut self, need: &Memory) -> Result<(), Error> {
        self.make_room(need)
    }

    fn load_matrix(&mut self, source: MatrixSource<'_>) -> Result<GpuMatrix, Error> {
        self.start_matrix(source)
    }

    fn load_vector(&mut self, values: &[f32]) -> Result<GpuVector, Error> {
        self.new_vector(values)
    }

    fn finish_loading(&mut self) -> Result<(), Error> {
        self.finish_uploads()
    }

    fn new_buffer(&mut self, len: usize) -> Result<GpuBuffer, Error> {
        let buffer = self.device.zeros(len, Purpose::Activations).map_err(device_error)?;
        self.activation_bytes += buffer.size_bytes() as u64;
        self.converted.push(Converted::default());
        Ok(GpuBuffer::new(buffer, self.converted.len() - 1))
    }

    fn workspace_bytes(&self, shape: BatchShape) -> Option<u64> {
        prompts::workspace_bytes(shape, self.hopper_multiprocessors())
    }

    fn reserve(&mut self, shape: BatchShape) -> Result<(), Error> {
        let workspace = prompts::Workspace::new(&self.device, shape, self.hopper_multiprocessors());
        self.prompts = Some(workspace.map_err(device_error)?);
        self.activation_bytes += self.workspace_bytes(shape).expect("a size that was admitted");
        Ok(())
    }

    fn best_batch(&self) -> usize {
        if self.is_hopper() { prompts::BEST_BATCH } else { BEST_BATCH }
    }

    fn new_kv_layer(&mut self, shape: KvShape) -> Result<GpuKvLayer, Error> {
        self.new_kv(shape)
    }

    fn memory(&self) -> Memory {
        Memory {
            weights: self.arena.n_bytes(),
            kv_cache: self.kv_cache_bytes,
            activations: self.activation_bytes,
        }
    }

    fn begin(&mut self, tokens: &[u32], first_position: usize) -> Result<(), Error> {
        self.set_inputs(tokens, first_position)
    }

    fn step(
        &mut self,
        step: Step,
        ops: impl FnOnce(&mut Self) -> Result<(), Error> + Send,
    ) -> Result<(), Error> {
        self.run_step(step, ops)
    }

    fn read(&mut self, out: &mut [f32], buffer: &GpuBuffer) -> Result<(), Error> {
        self.device.copy_out(buffer.values.slice(0..out.len()), out).map_err(device_error)
    }

    fn embedding(&mut self, y: &mut GpuBuffer, w: &GpuMatrix, n_tokens: usize) -> Result<(), Error> {
        let y = rows_mut(y, n_tokens, w.n_cols);
        let tokens = self.inputs.tokens(n_tokens);
        let shape = [w.n_rows, w.n_cols];
        w.format.embedding(&self.device, y, w.piece.bytes(), tokens, shape).map_err(device_error)
    }

    fn rmsnorm(
        &mut self,
        y: &mut GpuBuffer,
        x: &GpuBuffer,
        w: &GpuVector,
        eps: f32,
        n_tokens: usize,
    ) -> Result<(), Error> {
        let (w, dim, written) = (w.values(), w.values().len(), y.next_state());
        let (y, x) = (rows_mut(y, n_tokens, dim), rows(x, n_tokens, dim));
        let Gpu { device, converted, .. } = self;
        let place = converted[written.id].row(written, [n_tokens, dim], |_| can_convert_norm(dim));
        let (dim, grid) = (u32_of(dim), Grid::x(u32_of(n_tokens)));
        match place {
            None => device.launch(rmsnorm_f32 { y, x, w, dim, eps }, grid),
            Some(Place { order, words, numbers }) => {
                let order = order.code();
                device.launch(rmsnorm_f32_converted { y, words, numbers, x, w, dim, eps, order }, grid)
            }
        }
        .map_err(device_error)
    }

    fn rmsnorm_add(
        &mut self,
        y: &mut GpuBuffer,
        x: &mut GpuBuffer,
        branch: &GpuBuffer,
        w: &GpuVector,
        eps: f32,
        n_tokens: usize,
    ) -> Result<(), Error> {
        let (w, dim, written) = (w.values(), w.values().len(), y.next_state());
        let (y, x) = (rows_mut(y, n_tokens, dim), rows_mut(x, n_tokens, dim));
        let branch = rows(branch, n_tokens, dim);
        let Gpu { device, converted, .. } = self;
        let place = converted[written.id].row(written, [n_tokens, dim], |_| can_convert_norm(dim));
        let (dim, grid) = (u32_of(dim), Grid::x(u32_of(n_tokens)));
        match place {
            None => device.launch(rmsnorm_add_f32 { y, x, branch, w, dim, eps }, grid),
            Some(Place { order, words, numbers }) => {
                let order = order.code();
                let norm = rmsnorm_add_f32_converted { y, words, numbers, x, branch, w, dim, eps, order };
                device.launch(norm, grid)
            }
        }
        .map_err(device_error)
    }

    fn matmul(
        &mut self,
        y: &mut GpuBuffer,
        w: &GpuMatrix,
        x: &GpuBuffer,
        n_tokens: usize,
    ) -> Result<(), Error> {
        self.matmul_each([y], [w], x, n_tokens)
    }

    fn matmul_each<const N: usize>(
        &mut self,
        ys: [&mut GpuBuffer; N],
        ws: [&GpuMatrix; N],
        x: &GpuBuffer,
        n_tokens: usize,
    ) -> Result<(), Error> {
        self.products(ys, ws, x, n_tokens)
    }

    fn bias_add(&mut self, y: &mut GpuBuffer, b: &GpuVector, n_tokens: usize) -> Result<(), Error> {
        let b = b.values();
        let y = rows_mut(y, n_tokens, b.len());
        let grid = Grid::xy(u32_of(bias_blocks(b.len())), u32_of(n_tokens.div_ceil(bias::ROWS)));
        self.launch(bias_add_f32 { y, b, n_tokens: u32_of(n_tokens), dim: u32_of(b.len()) }, grid)
    }

    fn rope(
        &mut self,
        x: &mut GpuBuffer,
        table: &GpuVector,
        shape: RopeShape,
        n_tokens: usize,
    ) -> Result<(), Error> {
        let RopeShape { pairs, n_heads, head_dim, rope_dim } = shape;
        let x = rows_mut(x, n_tokens, n_heads * head_dim);
        let (table, positions) = (table.values(), self.inputs.positions(n_tokens));
        let grid = Grid::xy(u32_of(rope_blocks(n_heads, head_dim, rope_dim)), u32_of(n_tokens));
        let [n_heads, head_dim, rope_dim] = [n_heads, head_dim, rope_dim].map(u32_of);
        match pairs {
            RopePairs::Adjacent => {
                self.launch(rope_adjacent_f32 { x, table, positions, n_heads, head_dim, rope_dim }, grid)
            }
            RopePairs::Half => {
                self.launch(rope_half_f32 { x, table, positions, n_heads, head_dim, rope_dim }, grid)
            }
        }
    }

    fn kv_write(
        &mut self,
        cache: &mut GpuKvLayer,
        k: &GpuBuffer,
        v: &GpuBuffer,
        n_tokens: usize,
    ) -> Result<(), Error> {
        let KvShape { n_kv_heads, n_ctx, head_dim } = cache.shape;
        let width = n_kv_heads * head_dim;
        let write = kv_write_f16 {
            k_cache: &mut cache.k,
            v_cache: &mut cache.v,
            k: rows(k, n_tokens, width),
            v: rows(v, n_tokens, width),
            positions: self.inputs.positions(n_tokens),
            n_kv_heads: u32_of(n_kv_heads),
            head_dim: u32_of(head_dim),
            n_ctx: u32_of(n_ctx),
        };
        self.launch(write, Grid::xy(u32_of(kv_write_blocks(n_kv_heads, head_dim)), u32_of(n_tokens)))
    }

    fn attention(
        &mut self,
        y: &mut GpuBuffer,
        q: &GpuBuffer,
        cache: &GpuKvLayer,
        shape: AttentionShape,
        n_tokens: usize,
    ) -> Result<(), Error> {
        assert!(
            (shape.n_kv_heads, shape.head_dim) == (cache.shape.n_kv_heads, cache.shape.head_dim),
            "attention {shape:?} over a cache {:?}",
            cache.shape
        );
        let width = shape.n_heads * shape.head_dim;
        let written = y.next_state();
        let (y, q) = (rows_mut(y, n_tokens, width), rows(q, n_tokens, width));
        match n_tokens {
            ..=FEW_TOKENS => self.attention_split((y, written), q, cache, shape, n_tokens),
            _ if self.is_prompt_attention(shape.head_dim, n_tokens) => {
                self.prompt_attention(y, q, cache, shape, n_tokens)
            }
            _ => self.attention_tiled(y, q, cache, shape, n_tokens),
        }
    }

    fn swiglu(
        &mut self,
        y: &mut GpuBuffer,
        gate: &GpuBuffer,
        up: &GpuBuffer,
        dim: usize,
        n_tokens: usize,
    ) -> Result<(), Error> {
        let (n, written) = (n_tokens * dim, y.next_state());
        let (gate, up) = (rows(gate, n_tokens, dim), rows(up, n_tokens, dim));
        let y = rows_mut(y, n_tokens, dim);
        let Gpu { device, converted, .. } = self;
        match converted[written.id].row(written, [n_tokens, dim], |_| dim.is_multiple_of(4)) {
            None => {
                let gated = swiglu_f32 { y, gate, up, n: u32_of(n) };
                device.launch(gated, Grid::x(u32_of(swiglu_blocks(n))))
            }
            Some(Place { order, words, numbers }) => {
                let order = order.code();
                let gated = swiglu_f32_converted { y, words, numbers, gate, up, n: u32_of(n), order };
                device.launch(gated, Grid::x(u32_of(gemv_x_blocks(1, n))))
            }
        }
        .map_err(device_error)
    }

    fn copy_rows(
        &mut self,
        y: &mut GpuBuffer,
        x: &GpuBuffer,
        dim: usize,
        rows: Range<usize>,
    ) -> Result<(), Error> {
        let n = rows.len() * dim;
        let x = x.values.slice(rows.start * dim..rows.end * dim);
        let copy = copy_f32 { y: rows_mut(y, rows.len(), dim), x, n: u32_of(n) };
        self.launch(copy, Grid::x(u32_of(copy_blocks(n))))
    }

    fn choose_greedy(&mut self, logits: &GpuBuffer, n_vocab: usize) -> Result<(), Error> {
        self.launch_greedy(&logits.values, n_vocab)
    }

    fn can_choose(&self, n_vocab: usize) -> bool {
        can_choose(n_vocab)
    }

    fn begin_choosing(
        &mut self,
        sampler: &Sampler,
        tokens: &[u32],
        n_ctx: usize,
        n_vocab: usize,
    ) -> Result<(), Error> {
        self.prepare_choosing(sampler.chain(u32_of(tokens.len())), tokens, n_ctx, n_vocab)
    }

    fn choose(&mut self, logits: &GpuBuffer, n_vocab: usize) -> Result<(), Error> {
        self.launch_choice(&logits.values, n_vocab)
    }

    fn chosen(&mut self) -> Result<Option<u32>, Error> {
        let [token, status] = self.next_choice()?;
        Ok((status == 0).then_some(token))
    }
}

//! [`Cpu`]: the ops of [`Backend`] over threads.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use rayon::ThreadPool;
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::{ParallelSlice, ParallelSliceMut};

use crate::backend::{
    AttentionShape, Backend, Error, KvShape, MatrixSource, Memory, RopePairs, RopeShape, Step,
};
use crate::gguf::GgmlType;
use crate::sampler::Sampler;

use super::attention::AttendHead;
use super::matrix::{Matrix, check_type, run_gemv};
use super::memory::{Zeros, physical_memory};
use super::rows::{Rmsnorm, Swiglu};
use super::vector::{Isa, LANES};

/// How to set up a [`Cpu`].
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuOptions {
    /// Threads to compute with; by default one for each core that the process may use.
    pub n_threads: Option<usize>,
    /// Instructions to compute with; by default the best that the machine has.
    pub isa: Option<Isa>,
}

/// The CPU.
pub struct Cpu {
    pool: Arc<ThreadPool>,
    isa: Isa,
    tokens: Vec<u32>,
    first_position: usize,
    chosen: VecDeque<Option<u32>>,
    /// What chooses tokens, and all tokens so far.
    choosing: Option<Box<(Sampler, Vec<u32>)>>,
    memory: Memory,
}

/// Keys and values of one layer.
pub struct KvLayer {
    shape: KvShape,
    k: Zeros, // [n_kv_heads, n_ctx, head_dim]
    v: Zeros, // [n_kv_heads, n_ctx, head_dim]
}

impl KvLayer {
    /// The rows of head `head` up to position `n_keys`.
    fn head<'a>(&self, cache: &'a Zeros, head: usize, n_keys: usize) -> &'a [f32] {
        let KvShape { n_ctx, head_dim, .. } = self.shape;
        &cache.as_slice()[head * n_ctx * head_dim..][..n_keys * head_dim]
    }
}

impl Cpu {
    /// Starts the threads.
    ///
    /// # Errors
    /// The system has no threads to give.
    pub fn new(options: CpuOptions) -> Result<Self, Error> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(options.n_threads.unwrap_or(0))
            .thread_name(|thread| format!("oxwarp-cpu-{thread}"))
            .build()
            .map_err(|error| Error::Device(Box::new(error)))?;
        Ok(Cpu {
            pool: Arc::new(pool),
            isa: options.isa.unwrap_or_else(Isa::detect),
            tokens: Vec::new(),
            first_position: 0,
            chosen: VecDeque::new(),
            choosing: None,
            memory: Memory::default(),
        })
    }
}

impl Cpu {
    /// Makes a choice the token of the next step.
    fn take(&mut self, choice: Option<u32>) {
        self.chosen.push_back(choice);
        self.tokens = vec![choice.unwrap_or(0)];
        self.first_position += 1;
    }
}

/// Each row of y from that of x, on all threads if there are several rows.
fn each_row(y: &mut [f32], y_dim: usize, x: &[f32], x_dim: usize, op: impl Fn(&mut [f32], &[f32]) + Sync) {
    assert!(
        y.len() / y_dim == x.len() / x_dim,
        "rows of {y_dim} in {} and of {x_dim} in {}",
        y.len(),
        x.len()
    );
    if y.len() == y_dim {
        return op(y, x);
    }
    y.par_chunks_exact_mut(y_dim).zip(x.par_chunks_exact(x_dim)).for_each(|(y, x)| op(y, x));
}

impl Backend for Cpu {
    type Matrix = Matrix;
    type Vector = Vec<f32>;
    type Buffer = Zeros;
    type KvLayer = KvLayer;

    const STEPS_AHEAD: usize = 0;

    fn name(&self) -> String {
        let n_threads = self.pool.current_num_threads();
        format!("cpu, {n_threads} thread{} of {}", if n_threads == 1 { "" } else { "s" }, self.isa.name())
    }

    fn check_matrix_type(&self, tensor: &str, ty: GgmlType) -> Result<(), Error> {
        check_type(tensor, ty)
    }

    fn kv_layer_bytes(&self, shape: KvShape) -> Option<u64> {
        shape.elements()?.checked_mul(size_of::<f32>() as u64)
    }

    /// Weights are pages of the file, which the system may drop and read again; the rest must have a place in memory,
    /// though it takes it up only as it is used.
    fn admit(&mut self, need: &Memory) -> Result<(), Error> {
        let available = physical_memory().unwrap_or(isize::MAX as u64);
        match need.kv_cache.saturating_add(need.activations) <= available {
            true => Ok(()),
            false => Err(Error::DoesNotFit { device: self.name(), need: *need, available }),
        }
    }

    fn load_matrix(&mut self, source: MatrixSource<'_>) -> Result<Matrix, Error> {
        let matrix = Matrix::new(source)?;
        self.memory.weights += matrix.bytes();
        Ok(matrix)
    }

    fn load_vector(&mut self, values: &[f32]) -> Result<Vec<f32>, Error> {
        self.memory.weights += size_of_val(values) as u64;
        Ok(values.to_vec())
    }

    fn finish_loading(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn new_buffer(&mut self, len: usize) -> Result<Zeros, Error> {
        let buffer = Zeros::new(len, "activations")?;
        self.memory.activations += buffer.bytes();
        Ok(buffer)
    }

    fn new_kv_layer(&mut self, shape: KvShape) -> Result<KvLayer, Error> {
        let len = shape.n_kv_heads * shape.n_ctx * shape.head_dim;
        let layer = KvLayer { shape, k: Zeros::new(len, "KV cache")?, v: Zeros::new(len, "KV cache")? };
        self.memory.kv_cache += layer.k.bytes() + layer.v.bytes();
        Ok(layer)
    }

    fn memory(&self) -> Memory {
        self.memory
    }

    fn begin(&mut self, tokens: &[u32], first_position: usize) -> Result<(), Error> {
        self.tokens.clear();
        self.tokens.extend_from_slice(tokens);
        self.first_position = first_position;
        self.chosen.clear();
        Ok(())
    }

    /// All ops of a step run inside the pool: none waits for another thread to wake up first.
    fn step(
        &mut self,
        _: Step,
        ops: impl FnOnce(&mut Self) -> Result<(), Error> + Send,
    ) -> Result<(), Error> {
        let pool = Arc::clone(&self.pool);
        pool.install(|| ops(self))
    }

    fn read(&mut self, out: &mut [f32], buffer: &Zeros) -> Result<(), Error> {
        out.copy_from_slice(&buffer.as_slice()[..out.len()]);
        Ok(())
    }

    fn embedding(&mut self, y: &mut Zeros, w: &Matrix, n_tokens: usize) -> Result<(), Error> {
        let mut row = vec![0.0; w.n_cols.next_multiple_of(LANES)];
        let y = &mut y.as_mut_slice()[..n_tokens * w.n_cols];
        for (y, &token) in y.chunks_exact_mut(w.n_cols).zip(&self.tokens) {
            w.decode_row(self.isa, token as usize, &mut row);
            y.copy_from_slice(&row[..w.n_cols]);
        }
        Ok(())
    }

    fn rmsnorm(
        &mut self,
        y: &mut Zeros,
        x: &Zeros,
        w: &Vec<f32>,
        eps: f32,
        n_tokens: usize,
    ) -> Result<(), Error> {
        let dim = w.len();
        let (y, x) = (&mut y.as_mut_slice()[..n_tokens * dim], &x.as_slice()[..n_tokens * dim]);
        each_row(y, dim, x, dim, |y, x| self.isa.run(Rmsnorm { y, x, w, eps }));
        Ok(())
    }

    fn rmsnorm_add(
        &mut self,
        y: &mut Zeros,
        x: &mut Zeros,
        branch: &Zeros,
        w: &Vec<f32>,
        eps: f32,
        n_tokens: usize,
    ) -> Result<(), Error> {
        let dim = w.len();
        let (sum, part) = (&mut x.as_mut_slice()[..n_tokens * dim], &branch.as_slice()[..n_tokens * dim]);
        each_row(sum, dim, part, dim, add);
        self.rmsnorm(y, x, w, eps, n_tokens)
    }

    fn matmul(&mut self, y: &mut Zeros, w: &Matrix, x: &Zeros, n_tokens: usize) -> Result<(), Error> {
        self.matmul_each([y], [w], x, n_tokens)
    }

    fn matmul_each<const N: usize>(
        &mut self,
        ys: [&mut Zeros; N],
        ws: [&Matrix; N],
        x: &Zeros,
        n_tokens: usize,
    ) -> Result<(), Error> {
        let outputs = ys.into_iter().zip(ws).map(|(y, w)| (&mut y.as_mut_slice()[..n_tokens * w.n_rows], w));
        let x_of = |w: &Matrix| &x.as_slice()[..n_tokens * w.n_cols];
        if n_tokens == 1 {
            let x = x_of(ws[0]);
            assert!(
                ws.iter().all(|w| w.n_cols == x.len()),
                "matrices of one input have equally many columns"
            );
            run_gemv(self.isa, outputs.flat_map(|(y, w)| w.gemv_tasks(y)), x);
        } else {
            outputs.for_each(|(y, w)| w.gemm(self.isa, y, x_of(w)));
        }
        Ok(())
    }

    fn bias_add(&mut self, y: &mut Zeros, b: &Vec<f32>, n_tokens: usize) -> Result<(), Error> {
        y.as_mut_slice()[..n_tokens * b.len()].chunks_exact_mut(b.len()).for_each(|y| add(y, b));
        Ok(())
    }

    fn rope(
        &mut self,
        x: &mut Zeros,
        table: &Vec<f32>,
        shape: RopeShape,
        n_tokens: usize,
    ) -> Result<(), Error> {
        let RopeShape { pairs, n_heads, head_dim, rope_dim } = shape;
        let width = n_heads * head_dim;
        let angles = &table[self.first_position * rope_dim..][..n_tokens * rope_dim];
        each_row(&mut x.as_mut_slice()[..n_tokens * width], width, angles, rope_dim, |x, angles| {
            for head in x.chunks_exact_mut(head_dim) {
                for (pair, &[cos, sin]) in angles.as_chunks::<2>().0.iter().enumerate() {
                    let (first, second) = match pairs {
                        RopePairs::Adjacent => (2 * pair, 2 * pair + 1),
                        RopePairs::Half => (pair, pair + rope_dim / 2),
                    };
                    let (a, b) = (head[first], head[second]);
                    head[first] = a * cos - b * sin;
                    head[second] = a * sin + b * cos;
                }
            }
        });
        Ok(())
    }

    fn kv_write(&mut self, cache: &mut KvLayer, k: &Zeros, v: &Zeros, n_tokens: usize) -> Result<(), Error> {
        let KvShape { n_kv_heads, n_ctx, head_dim } = cache.shape;
        for (cache, new) in [(&mut cache.k, k), (&mut cache.v, v)] {
            let new = new.as_slice()[..n_tokens * n_kv_heads * head_dim].chunks_exact(n_kv_heads * head_dim);
            for (position, new) in (self.first_position..).zip(new) {
                for (head, new) in new.chunks_exact(head_dim).enumerate() {
                    cache.as_mut_slice()[(head * n_ctx + position) * head_dim..][..head_dim]
                        .copy_from_slice(new);
                }
            }
        }
        Ok(())
    }

    fn attention(
        &mut self,
        y: &mut Zeros,
        q: &Zeros,
        cache: &KvLayer,
        shape: AttentionShape,
        n_tokens: usize,
    ) -> Result<(), Error> {
        let AttentionShape { n_heads, n_kv_heads, head_dim, scale } = shape;
        let len = n_tokens * n_heads * head_dim;
        let heads = y.as_mut_slice()[..len].par_chunks_exact_mut(head_dim);
        let heads = heads.zip(q.as_slice()[..len].par_chunks_exact(head_dim)).enumerate();
        let n_keys_last = self.first_position + n_tokens;
        heads.for_each_init(
            || vec![0.0f32; n_keys_last],
            |weights, (idx, (y, q))| {
                let n_keys = self.first_position + idx / n_heads + 1;
                let kv_head = idx % n_heads / (n_heads / n_kv_heads);
                let [k, v] = [&cache.k, &cache.v].map(|cached| cache.head(cached, kv_head, n_keys));
                self.isa.run(AttendHead { y, q, k, v, scale, weights: &mut weights[..n_keys] });
            },
        );
        Ok(())
    }

    fn swiglu(
        &mut self,
        y: &mut Zeros,
        gate: &Zeros,
        up: &Zeros,
        dim: usize,
        n_tokens: usize,
    ) -> Result<(), Error> {
        let [gate, up] = [gate, up].map(|buffer| &buffer.as_slice()[..n_tokens * dim]);
        let y = &mut y.as_mut_slice()[..n_tokens * dim];
        y.par_chunks_exact_mut(dim)
            .zip(gate.par_chunks_exact(dim).zip(up.par_chunks_exact(dim)))
            .for_each(|(y, (gate, up))| self.isa.run(Swiglu { y, gate, up }));
        Ok(())
    }

    fn copy_rows(&mut self, y: &mut Zeros, x: &Zeros, dim: usize, rows: Range<usize>) -> Result<(), Error> {
        let x = &x.as_slice()[rows.start * dim..rows.end * dim];
        y.as_mut_slice()[..x.len()].copy_from_slice(x);
        Ok(())
    }

    fn choose_greedy(&mut self, logits: &Zeros, n_vocab: usize) -> Result<(), Error> {
        self.take(largest(&logits.as_slice()[..n_vocab]));
        Ok(())
    }

    fn can_choose(&self, _: usize) -> bool {
        true
    }

    fn begin_choosing(
        &mut self,
        sampler: &Sampler,
        tokens: &[u32],
        _n_ctx: usize,
        _n_vocab: usize,
    ) -> Result<(), Error> {
        self.choosing = Some(Box::new((sampler.clone(), tokens.to_vec())));
        Ok(())
    }

    fn choose(&mut self, logits: &Zeros, n_vocab: usize) -> Result<(), Error> {
        let (sampler, tokens) = self.choosing.as_deref_mut().expect("`begin_choosing` comes first");
        let choice = sampler.sample(&logits.as_slice()[..n_vocab], tokens).ok();
        tokens.extend(choice);
        self.take(choice);
        Ok(())
    }

    fn chosen(&mut self) -> Result<Option<u32>, Error> {
        Ok(self.chosen.pop_front().expect("as many choices are asked for as were made"))
    }
}

fn add(y: &mut [f32], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

/// The index of the largest, the first of equals; none if one is NaN or positive infinity, or none is finite.
fn largest(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(u32, f32)> = None;
    for (token, &logit) in (0..).zip(logits) {
        if logit.is_nan() || logit == f32::INFINITY {
            return None;
        }
        if logit.is_finite() && best.is_none_or(|(_, largest)| logit > largest) {
            best = Some((token, logit));
        }
    }
    best.map(|(token, _)| token)
}

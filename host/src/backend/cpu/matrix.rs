//! A packed weight matrix in the file's map, and what its type decides.

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use kernels_gpu::quant::{IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};

use crate::backend::{Error, FileBytes, MatrixSource};
use crate::gguf::GgmlType;

use super::block::{BF16x16, Block, F16x16, F32x16};
use super::columns::column_strips;
use super::matmul::{DecodeRow, Gemm, Gemv, Rows};
use super::vector::{Isa, LANES};

/// Bytes of packed weights that one task of a matrix-vector product reads at least: enough to pay for the hand-over.
const MIN_TASK_BYTES: usize = 32 << 10;

/// Bytes of decoded rows that a product of matrices works on at once: they stay in a core's second-level cache.
const TILE_BYTES: usize = 256 << 10;

/// Tasks a thread, so that none waits long for the last.
const TASKS_PER_THREAD: usize = 4;

/// `n_rows` rows of `n_cols` weights.
pub struct Matrix {
    bytes: FileBytes,
    ty: GgmlType,
    pub n_rows: usize,
    pub n_cols: usize,
    row_bytes: usize,
}

/// Runs `$body` with `$block` standing for the block of a type.
macro_rules! with_block {
    ($ty:expr, $block:ident => $body:expr) => {
        with_block!(@ $ty, $block => $body;
            F32 F32x16, F16 F16x16, BF16 BF16x16, Q4_0 Q4_0, Q4_1 Q4_1, Q5_0 Q5_0, Q5_1 Q5_1, Q8_0 Q8_0, Q2_K Q2_K,
            Q3_K Q3_K, Q4_K Q4_K, Q5_K Q5_K, Q6_K Q6_K, IQ4_NL IQ4_NL, IQ4_XS IQ4_XS, MXFP4 MXFP4)
    };
    (@ $ty:expr, $block:ident => $body:expr; $($variant:ident $format:ty),+) => {
        match $ty {
            $(GgmlType::$variant => { type $block = $format; $body })+
            other => unreachable!("a matrix of type {other} was loaded"),
        }
    };
}

/// The types that [`Matrix`] can be.
pub const SUPPORTED: &[GgmlType] = {
    use GgmlType::*;
    &[F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4]
};

/// Whether matrices of type `ty` can be multiplied with.
pub fn check_type(tensor: &str, ty: GgmlType) -> Result<(), Error> {
    match SUPPORTED.contains(&ty) {
        true => Ok(()),
        false => Err(Error::UnsupportedType {
            device: "the CPU".to_owned(),
            tensor: tensor.to_owned(),
            ty: ty.name(),
            supported: SUPPORTED.iter().map(|ty| ty.name()).collect::<Vec<_>>().join(", "),
        }),
    }
}

impl Matrix {
    pub fn new(source: MatrixSource<'_>) -> Result<Self, Error> {
        let MatrixSource { name, ty, n_rows, n_cols, bytes } = source;
        check_type(name, ty)?;
        let row_bytes = ty.row_bytes(n_cols as u64).and_then(|bytes| usize::try_from(bytes).ok());
        let row_bytes =
            row_bytes.unwrap_or_else(|| panic!("tensor {name}: rows of {n_cols} elements of {ty}"));
        let n_bytes = bytes.as_slice().len();
        assert!(
            Some(n_bytes) == n_rows.checked_mul(row_bytes),
            "{name}: {n_rows} x {row_bytes} of {n_bytes} bytes"
        );
        Ok(Matrix { bytes, ty, n_rows, n_cols, row_bytes })
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.as_slice().len() as u64
    }

    fn rows<B: Block>(&self, first_row: usize, n_rows: usize) -> Rows<'_, B> {
        let bytes = &self.bytes.as_slice()[first_row * self.row_bytes..][..n_rows * self.row_bytes];
        Rows::new(bytes, self.row_bytes, self.n_cols)
    }

    /// out = row `row`, and zeros up to a whole number of vectors.
    pub fn decode_row(&self, isa: Isa, row: usize, out: &mut [f32]) {
        with_block!(self.ty, B => isa.run(DecodeRow { out, w: self.rows::<B>(row, 1), row: 0 }));
    }

    /// The parts of y = w x that one thread each can compute.
    pub fn gemv_tasks<'a>(&'a self, y: &'a mut [f32]) -> impl Iterator<Item = GemvTask<'a>> {
        assert!(y.len() == self.n_rows, "{} outputs of {} rows", y.len(), self.n_rows);
        let wanted = self.n_rows.div_ceil(TASKS_PER_THREAD * rayon::current_num_threads());
        let n_rows =
            wanted.max(MIN_TASK_BYTES / self.row_bytes).max(1).next_multiple_of(super::matmul::GEMV_ROWS);
        y.chunks_mut(n_rows).enumerate().map(move |(task, y)| GemvTask {
            matrix: self,
            first_row: task * n_rows,
            y,
        })
    }

    /// `y[t] = w x[t]` for each token. x: `[n_tokens, n_cols]`; y: `[n_tokens, n_rows]`.
    pub fn gemm(&self, isa: Isa, y: &mut [f32], x: &[f32]) {
        let stride = self.n_cols.next_multiple_of(LANES);
        let wanted = self.n_rows.div_ceil(TASKS_PER_THREAD * rayon::current_num_threads());
        let largest = (TILE_BYTES / (stride * size_of::<f32>())).max(4);
        let tile_rows = wanted.clamp(4, largest).next_multiple_of(4);
        column_strips(y, self.n_rows, tile_rows).enumerate().for_each_init(
            || vec![0.0f32; tile_rows * stride],
            |tile, (strip_idx, y)| {
                let w = &mut tile[..y.width() * stride];
                for (row, w) in w.chunks_exact_mut(stride).enumerate() {
                    self.decode_row(isa, strip_idx * tile_rows + row, w);
                }
                isa.run(Gemm { y, w, x, n_cols: self.n_cols });
            },
        );
    }
}

/// Some neighbouring outputs of a matrix-vector product.
pub struct GemvTask<'a> {
    matrix: &'a Matrix,
    first_row: usize,
    y: &'a mut [f32],
}

impl GemvTask<'_> {
    pub fn run(self, isa: Isa, x: &[f32]) {
        let GemvTask { matrix, first_row, y } = self;
        with_block!(matrix.ty, B => {
            let w = matrix.rows::<B>(first_row, y.len());
            isa.run(Gemv { y, w, x });
        });
    }
}

/// Runs tasks of one or several matrices on all threads.
pub fn run_gemv<'a>(isa: Isa, tasks: impl Iterator<Item = GemvTask<'a>>, x: &[f32]) {
    let tasks: Vec<GemvTask<'_>> = tasks.collect();
    tasks.into_par_iter().with_max_len(1).for_each(|task| task.run(isa, x));
}

//! Matrix times vector for each assignment of a mixture of experts: its experts' linear layers over one token or a few.
//!
//! A row of the grid has one assignment and is the kernel of [`crate::gemv`] for one vector, with the expert's matrix. Which
//! one that is, the kernel reads itself: experts' numbers never leave the device. The previous kernel has chosen them, so
//! the first weights can be fetched only after it has ended, and what a launch costs beside its bytes is not hidden.
//!
//! Assignments that share an expert each read its matrix, at about the same time: from memory it comes once as long as the
//! second-level cache holds what lies between. So it works for as many assignments as a grid has rows, 65535, and is best for
//! few: products of many are [`crate::moe_gemm`]'s and [`crate::moe_gemm_mma`]'s.

use crate::gemv::one::{self, Matrix};
use crate::gemv::{Product, THREADS, X};
use crate::quant::fragments::{Fragments, TILE_ROWS};
use crate::quant::{F16, MXFP4, Q4_0, Q4_K, Q5_K, Q6_K, Q8_0, QuantBlock};
use crate::simt::prelude::*;

macro_rules! entries {
    ($($block:ident: $kernel:ident, $name:literal;)+) => {$(
        #[doc = concat!("`y[j, o] = Σ w[experts[j], o, k] · x[j / n_used, k]`, with weights in ", $name, "; for up to two")]
        /// tensors that share x: gate and up.
        ///
        /// `y [n_assigned, n_rows]`, `w [n_experts, n_rows, n_cols]`, each expert's matrix by itself in the GPU's layout, and
        /// so on with `_b`, which may have no rows; `experts [n_assigned]`; `x [n_assigned / n_used, n_cols]`, every row
        /// converted for itself by the kernel for one vector ([`crate::gemv::gemv_x`]). With `experts` as
        /// [`crate::moe::moe_route_f32`] writes it, `n_used` is the model's for the tokens' rows, and 1 for rows of
        /// assignments. The order of additions depends on `n_cols` alone.
        ///
        /// Grid: any number of blocks, best [`moe_gemv_blocks`], × n_assigned. Requires: every expert below n_experts; what
        /// the kernel for one vector requires.
        /// Fast because: (1) a block is one of [`crate::gemv`], with all that makes it fast but the fetch before the
        /// previous kernel has ended; (2) it has one assignment, so x comes to shared memory once.
        #[kernel(threads = THREADS, shared = one::shared_bytes::<$block>(), min_blocks = 2, pdl)]
        pub fn $kernel(
            y: InOut<f32>,
            y_b: InOut<f32>,
            w: In<u8>,
            w_b: In<u8>,
            x: In<u32>,
            x_numbers: In<f32>,
            experts: In<u32>,
            n_used: u32,
            n_rows: u32,
            n_rows_b: u32,
            n_cols: u32,
        ) {
            // Before the expert is known nothing can be fetched.
            pdl::launch_dependents();
            pdl::wait();
            let assignment = thread::block_idx_y();
            let expert = experts.get(assignment as usize);
            let x = X::one_of::<$block>(x, x_numbers, assignment / n_used, n_cols);
            let [a, b] = [(y, w, n_rows), (y_b, w_b, n_rows_b)]
                .map(|tensor| matrix_of::<$block>(tensor, assignment, expert, n_cols));
            one::gemv::<$block>([a, b, Matrix { n_rows: 0, ..b }], x);
        }
    )+};
}

entries! {
    F16: moe_gemv_f16, "f16";
    Q4_0: moe_gemv_q4_0, "Q4_0";
    Q8_0: moe_gemv_q8_0, "Q8_0";
    Q4_K: moe_gemv_q4_k, "Q4_K";
    Q5_K: moe_gemv_q5_k, "Q5_K";
    Q6_K: moe_gemv_q6_k, "Q6_K";
    MXFP4: moe_gemv_mxfp4, "MXFP4";
}

/// An expert's matrix of a tensor, and the row of results of an assignment.
#[inline(always)]
fn matrix_of<Q: Product>(
    (y, w, n_rows): (InOut<f32>, In<u8>, u32),
    assignment: u32,
    expert: u32,
    n_cols: u32,
) -> Matrix {
    let y_start = assignment as usize * n_rows as usize;
    let w_start = expert as usize * <Q as Fragments>::matrix_bytes(n_rows as usize, n_cols as usize);
    Matrix { y, w, n_rows, y_start, w_start }
}

/// Blocks in x of a launch, the tensors' rows together: for each assignment its part of `max_blocks`, two for each
/// multiprocessor, but no more than there are tiles of 16 rows.
pub const fn moe_gemv_blocks(n_assigned: usize, n_rows: usize, max_blocks: usize) -> usize {
    let (tiles, part) = (n_rows.div_ceil(TILE_ROWS), max_blocks / n_assigned);
    let part = if part > 0 { part } else { 1 };
    if tiles < part { tiles } else { part }
}

/// Bytes that a launch must move, the tensors' rows together: the matrices of so many different experts, `n_x` rows of x
/// and the results once.
pub const fn moe_gemv_bytes<Q: QuantBlock>(
    n_experts: usize,
    n_assigned: usize,
    n_x: usize,
    n_rows: usize,
    n_cols: usize,
) -> usize {
    n_experts * n_rows * n_cols / Q::ELEMENTS * Q::BYTES + 4 * (n_x * n_cols + n_assigned * n_rows)
}

/// Floating-point operations of a launch: a product and a sum for each weight and assignment.
pub const fn moe_gemv_flops(n_assigned: usize, n_rows: usize, n_cols: usize) -> usize {
    2 * n_assigned * n_rows * n_cols
}

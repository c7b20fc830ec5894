//! The Gaussian error linear unit (Hendrycks and Gimpel 2016, <https://arxiv.org/abs/1606.08415>), plain and as a gate
//! (Shazeer 2020, <https://arxiv.org/abs/2002.05202>).

use crate::elementwise::{self, map, zip};
use crate::simt::prelude::*;

/// Threads of a block; one thread computes sixteen elements, eight of the gated forms.
pub const THREADS: u32 = elementwise::THREADS;

macro_rules! entries {
    ($($plain:ident, $gated:ident, $y:ty, $gelu:ident, $formula:literal;)+) => {$(
        #[doc = concat!("y = gelu(x) with gelu(x) = ", $formula, ", element by element.")]
        ///
        /// Both have n elements.
        ///
        /// Grid: [`gelu_blocks`]. Requires: both on 16 bytes.
        /// Fast because: 16-byte loads, four of a thread in flight, one pass; no branch in the formula.
        #[kernel(threads = THREADS, pdl)]
        pub fn $plain(y: Out<$y>, x: In<f32>, n: u32) {
            pdl::launch_dependents();
            pdl::wait();
            map(y, x, n as usize, $gelu);
        }

        #[doc = concat!("y = gelu(gate) · up with gelu(x) = ", $formula, ", element by element.")]
        ///
        /// All three have n elements.
        ///
        /// Grid: [`geglu_blocks`]. Requires, Fast because: as the plain form.
        #[kernel(threads = THREADS, pdl)]
        pub fn $gated(y: Out<$y>, gate: In<f32>, up: In<f32>, n: u32) {
            pdl::launch_dependents();
            pdl::wait();
            zip(y, gate, up, n as usize, |g, u| $gelu(g) * u);
        }
    )+};
}

entries! {
    gelu_f32, geglu_f32, f32, gelu, "x · Φ(x), Φ(x) = (1 + erf(x / √2)) / 2";
    gelu_f32_f16, geglu_f32_f16, f16, gelu, "x · Φ(x), Φ(x) = (1 + erf(x / √2)) / 2, rounded to f16";
    gelu_tanh_f32, geglu_tanh_f32, f32, gelu_tanh, "x · (1 + tanh(√(2/π) · (x + 0.044715·x³))) / 2";
    gelu_tanh_f32_f16, geglu_tanh_f32_f16, f16, gelu_tanh,
        "x · (1 + tanh(√(2/π) · (x + 0.044715·x³))) / 2, rounded to f16";
}

#[inline(always)]
fn gelu(x: f32) -> f32 {
    x * math::normal_cdf(x)
}

/// 2 · √(2/π).
const SLOPE: f32 = 1.595_769;
/// 2 · √(2/π) · 0.044715.
const CUBIC: f32 = 0.071_354_82;

/// (1 + tanh(z)) / 2 is σ(2z), in which nothing cancels.
#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    x * math::sigmoid(x * math::fma(x * x, CUBIC, SLOPE))
}

/// Blocks that a launch of a plain form needs.
pub const fn gelu_blocks(n: usize) -> usize {
    elementwise::map_blocks(n)
}

/// Blocks that a launch of a gated form needs.
pub const fn geglu_blocks(n: usize) -> usize {
    elementwise::zip_blocks(n)
}

/// Bytes that a launch of a plain form must move, `y_bytes` for each result.
pub const fn gelu_bytes(n: usize, y_bytes: usize) -> usize {
    (4 + y_bytes) * n
}

/// Bytes that a launch of a gated form must move, `y_bytes` for each result.
pub const fn geglu_bytes(n: usize, y_bytes: usize) -> usize {
    (2 * 4 + y_bytes) * n
}

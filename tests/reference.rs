//! What every op computes: naive, in f64, destination first.
//!
//! These functions are the specification. They follow the formula and nothing else: no blocking, no reordering,
//! no shared subexpressions. Tensors are row-major slices; the number of rows follows from the slices' lengths.

mod activation;
mod attention;
pub mod moe;
mod norm;
mod rope_scaling;

use half::f16;

pub use activation::{Gelu, geglu, gelu, normal_cdf, swiglu_clamped};
pub use attention::{Attention, Variant, attention, attention_variant};
pub use norm::{layernorm, layernorm_add, position_add};
pub use rope_scaling::{Yarn, divided_frequencies, scaled_table, yarn_frequencies};

/// f64 copies of f32 values, as the ops here take them. Exact.
pub fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

/// Row t of `y` is row `tokens[t]` of `table`, both `dim` wide.
pub fn embedding(y: &mut [f64], table: &[f64], tokens: &[u32], dim: usize) {
    assert_eq!(y.len(), tokens.len() * dim, "embedding: y");
    for (row, &token) in y.chunks_exact_mut(dim).zip(tokens) {
        row.copy_from_slice(&table[token as usize * dim..][..dim]);
    }
}

/// y = x / sqrt(mean(x²) + eps) · w, for each row of `w.len()` elements.
pub fn rmsnorm(y: &mut [f64], x: &[f64], w: &[f64], eps: f64) {
    let dim = w.len();
    assert!(
        x.len().is_multiple_of(dim) && y.len() == x.len(),
        "rmsnorm: y {}, x {}, w {dim}",
        y.len(),
        x.len()
    );
    for (y, x) in y.chunks_exact_mut(dim).zip(x.chunks_exact(dim)) {
        let mean_square = x.iter().map(|x| x * x).sum::<f64>() / dim as f64;
        let scale = 1.0 / (mean_square + eps).sqrt();
        for i in 0..dim {
            y[i] = x[i] * scale * w[i];
        }
    }
}

/// x += branch, then y = rmsnorm(x).
pub fn rmsnorm_add(y: &mut [f64], x: &mut [f64], branch: &[f64], w: &[f64], eps: f64) {
    add(x, branch);
    rmsnorm(y, x, w, eps);
}

/// x += branch.
pub fn add(x: &mut [f64], branch: &[f64]) {
    assert_eq!(x.len(), branch.len(), "add");
    for (x, branch) in x.iter_mut().zip(branch) {
        *x += branch;
    }
}

/// x += bias, for each row of `bias.len()` elements.
pub fn bias_add(x: &mut [f64], bias: &[f64]) {
    assert!(x.len().is_multiple_of(bias.len()), "bias_add: x {}, bias {}", x.len(), bias.len());
    for row in x.chunks_exact_mut(bias.len()) {
        add(row, bias);
    }
}

/// y[t, o] = Σ_k w[o, k] · x[t, k]: `w` holds rows of `n_cols`, as GGUF tensors do.
pub fn linear(y: &mut [f64], w: &[f64], x: &[f64], n_cols: usize) {
    let (n_rows, n_tokens) = (w.len() / n_cols, x.len() / n_cols);
    assert_eq!(
        (w.len(), x.len(), y.len()),
        (n_rows * n_cols, n_tokens * n_cols, n_tokens * n_rows),
        "linear"
    );
    for t in 0..n_tokens {
        for o in 0..n_rows {
            y[t * n_rows + o] = (0..n_cols).map(|k| w[o * n_cols + k] * x[t * n_cols + k]).sum();
        }
    }
}

/// y = x / scale for each row of `dim` elements, where scale is the power of two that brings the row's largest element to
/// 2^14 up to 2^15, but at least 2^-100. Not rounded, not permuted.
pub fn narrow(y: &mut [f64], scales: &mut [f64], x: &[f64], dim: usize) {
    assert!(x.len() == y.len() && x.len() == scales.len() * dim, "narrow");
    for ((y, scale), x) in y.chunks_exact_mut(dim).zip(scales).zip(x.chunks_exact(dim)) {
        let largest = x.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
        let mut shift = 100;
        while largest * 2f64.powi(shift) >= 32768.0 {
            shift -= 1;
        }
        *scale = 2f64.powi(-shift);
        y.iter_mut().zip(x).for_each(|(y, x)| *y = x / *scale);
    }
}

/// y = silu(gate) · up, silu(g) = g / (1 + e^−g).
pub fn swiglu(y: &mut [f64], gate: &[f64], up: &[f64]) {
    assert!(y.len() == gate.len() && y.len() == up.len(), "swiglu");
    for i in 0..y.len() {
        y[i] = gate[i] / (1.0 + (-gate[i]).exp()) * up[i];
    }
}

/// Which two elements of a head rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairs {
    /// 2i and 2i + 1.
    Adjacent,
    /// i and i + rope_dim / 2.
    Half,
}

/// The rotations of plain RoPE: `[n_ctx, rope_dim / 2, 2]`, (cos, sin) of position · base^(−2i / rope_dim).
pub fn rope_table(n_ctx: usize, rope_dim: usize, base: f64) -> Vec<f64> {
    let mut table = Vec::with_capacity(n_ctx * rope_dim);
    for position in 0..n_ctx {
        for i in 0..rope_dim / 2 {
            let angle = position as f64 * base.powf(-2.0 * i as f64 / rope_dim as f64);
            table.extend([angle.cos(), angle.sin()]);
        }
    }
    table
}

/// Rotates pair i of the first `rope_dim` elements of every head by row `positions[t]` of `table`, element i of
/// that row: (a, b) becomes (a cos − b sin, a sin + b cos). `x` is `[n_tokens, n_heads, head_dim]`.
pub fn rope(
    x: &mut [f64],
    table: &[f64],
    positions: &[u32],
    n_heads: usize,
    head_dim: usize,
    rope_dim: usize,
    pairs: RopePairs,
) {
    assert!(rope_dim <= head_dim && rope_dim.is_multiple_of(2), "rope: {rope_dim} of {head_dim} elements");
    assert_eq!(x.len(), positions.len() * n_heads * head_dim, "rope: x");
    for (token, &position) in x.chunks_exact_mut(n_heads * head_dim).zip(positions) {
        let rotations = &table[position as usize * rope_dim..][..rope_dim];
        for head in token.chunks_exact_mut(head_dim) {
            for i in 0..rope_dim / 2 {
                let (first, second) = match pairs {
                    RopePairs::Adjacent => (2 * i, 2 * i + 1),
                    RopePairs::Half => (i, i + rope_dim / 2),
                };
                let (a, b) = (head[first], head[second]);
                let (cos, sin) = (rotations[2 * i], rotations[2 * i + 1]);
                head[first] = a * cos - b * sin;
                head[second] = a * sin + b * cos;
            }
        }
    }
}

/// Rounds the keys (or values) of some tokens to f16 and puts them into a layer's cache.
///
/// `cache` is `[n_kv_heads, n_ctx, head_dim]`, `x` is `[n_tokens, n_kv_heads, head_dim]`; token t goes to place
/// `positions[t]`.
pub fn kv_write(
    cache: &mut [f16],
    x: &[f32],
    positions: &[u32],
    n_kv_heads: usize,
    head_dim: usize,
    n_ctx: usize,
) {
    assert_eq!(cache.len(), n_kv_heads * n_ctx * head_dim, "kv_write: cache");
    assert_eq!(x.len(), positions.len() * n_kv_heads * head_dim, "kv_write: x");
    for (t, &position) in positions.iter().enumerate() {
        for head in 0..n_kv_heads {
            for i in 0..head_dim {
                cache[(head * n_ctx + position as usize) * head_dim + i] =
                    f16::from_f32(x[(t * n_kv_heads + head) * head_dim + i]);
            }
        }
    }
}

/// y = e^x / Σ e^x, over all of `x`.
pub fn softmax(y: &mut [f64], x: &[f64]) {
    y.copy_from_slice(x);
    softmax_in_place(y);
}

fn softmax_in_place(x: &mut [f64]) {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    for x in x.iter_mut() {
        *x = (*x - max).exp();
    }
    let sum: f64 = x.iter().sum();
    for x in x.iter_mut() {
        *x /= sum;
    }
}

/// Index of the largest value, of equals the lowest; `None` if any value is NaN or there is none.
pub fn argmax(x: &[f64]) -> Option<usize> {
    if x.iter().any(|x| x.is_nan()) {
        return None;
    }
    (0..x.len()).reduce(|best, i| if x[i] > x[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values worked out by hand, so that the specification itself has a check.
    #[test]
    fn rope_pairs_differ_at_position_one() {
        // Quarter turns: (a, b) becomes (−b, a).
        let table = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0];
        let x = [1.0, 2.0, 3.0, 4.0, 9.0];
        let mut adjacent = x;
        rope(&mut adjacent, &table, &[1], 1, 5, 4, RopePairs::Adjacent);
        assert_eq!(adjacent, [-2.0, 1.0, -4.0, 3.0, 9.0]);
        let mut half = x;
        rope(&mut half, &table, &[1], 1, 5, 4, RopePairs::Half);
        assert_eq!(half, [-3.0, -4.0, 1.0, 2.0, 9.0]);
    }

    #[test]
    fn rmsnorm_of_three_and_four() {
        let mut y = [0.0; 2];
        rmsnorm(&mut y, &[3.0, 4.0], &[1.0, 2.0], 0.0);
        let scale = 1.0 / 12.5f64.sqrt();
        assert_eq!(y, [3.0 * scale, 8.0 * scale]);
    }

    #[test]
    fn linear_reads_rows_of_weights() {
        let mut y = [0.0; 4];
        linear(&mut y, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[1.0, 0.0, 0.0, 0.0, 1.0, 10.0], 3);
        assert_eq!(y, [1.0, 4.0, 32.0, 65.0]);
    }

    #[test]
    fn argmax_takes_the_first_of_equals() {
        assert_eq!(argmax(&[1.0, 2.0, 2.0]), Some(1));
        assert_eq!(argmax(&[1.0, f64::NAN]), None);
    }
}

//! Normalisation by mean and variance.

use super::add;

/// y = (x − m) / sqrt(v + eps) · w + b for each row of `w.len()` elements, m = mean(x) and v = mean((x − m)²).
pub fn layernorm(y: &mut [f64], x: &[f64], w: &[f64], b: &[f64], eps: f64) {
    let dim = w.len();
    assert!(
        x.len().is_multiple_of(dim) && y.len() == x.len() && b.len() == dim,
        "layernorm: y {}, x {}, w {dim}, b {}",
        y.len(),
        x.len(),
        b.len()
    );
    for (y, x) in y.chunks_exact_mut(dim).zip(x.chunks_exact(dim)) {
        let mean = x.iter().sum::<f64>() / dim as f64;
        let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / dim as f64;
        for i in 0..dim {
            y[i] = (x[i] - mean) / (variance + eps).sqrt() * w[i] + b[i];
        }
    }
}

/// x += branch, then y = layernorm(x).
pub fn layernorm_add(y: &mut [f64], x: &mut [f64], branch: &[f64], w: &[f64], b: &[f64], eps: f64) {
    add(x, branch);
    layernorm(y, x, w, b, eps);
}

/// x\[t\] += row `positions[t]` of `table`, rows of `dim` elements.
pub fn position_add(x: &mut [f64], table: &[f64], positions: &[u32], dim: usize) {
    assert_eq!(x.len(), positions.len() * dim, "position_add: x");
    for (row, &position) in x.chunks_exact_mut(dim).zip(positions) {
        add(row, &table[position as usize * dim..][..dim]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layernorm_of_one_and_five() {
        let mut y = [0.0; 2];
        layernorm(&mut y, &[1.0, 5.0], &[1.0, 3.0], &[0.5, 0.0], 0.0);
        assert_eq!(y, [-0.5, 3.0]);
    }
}

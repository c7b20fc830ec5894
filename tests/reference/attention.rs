//! Attention.

use super::softmax_in_place;

/// The shape of an attention.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; query head h reads head h / (n_heads / n_kv_heads).
    pub n_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Places of the cache.
    pub n_ctx: usize,
    /// What a score is multiplied by, usually 1 / sqrt(head_dim).
    pub scale: f64,
}

/// What some models do differently; the default is plain attention.
#[derive(Clone, Debug, Default)]
pub struct Variant {
    /// A query sees the last so many keys only, its own included.
    pub window: Option<usize>,
    /// A score s becomes cap · tanh(s / cap).
    pub softcap: Option<f64>,
    /// One more logit for each query head, in the denominator of the softmax only.
    pub sinks: Option<Vec<f64>>,
}

/// Causal attention: the query at position p sees the keys at places 0 to p.
///
/// `y` and `q` are `[n_tokens, n_heads, head_dim]`, `k` and `v` a layer's cache `[n_kv_heads, n_ctx, head_dim]`.
pub fn attention(y: &mut [f64], q: &[f64], k: &[f64], v: &[f64], positions: &[u32], shape: Attention) {
    attention_variant(y, q, k, v, positions, shape, &Variant::default());
}

/// [`attention`] with a window, soft-capped scores and sinks.
pub fn attention_variant(
    y: &mut [f64],
    q: &[f64],
    k: &[f64],
    v: &[f64],
    positions: &[u32],
    shape: Attention,
    variant: &Variant,
) {
    let Attention { n_heads, n_kv_heads, head_dim, n_ctx, scale } = shape;
    assert!(n_heads.is_multiple_of(n_kv_heads), "{n_heads} query heads over {n_kv_heads} heads");
    assert_eq!(q.len(), positions.len() * n_heads * head_dim, "attention: q");
    assert_eq!(
        (k.len(), v.len()),
        (n_kv_heads * n_ctx * head_dim, n_kv_heads * n_ctx * head_dim),
        "attention: cache"
    );
    for (t, &position) in positions.iter().enumerate() {
        let last = position as usize;
        let first = variant.window.map_or(0, |window| (last + 1).saturating_sub(window));
        for head in 0..n_heads {
            let row = (t * n_heads + head) * head_dim;
            let cache = head / (n_heads / n_kv_heads) * n_ctx * head_dim;
            let q = &q[row..][..head_dim];
            let score = |key: usize| {
                let score = scale * dot(q, &k[cache + key * head_dim..][..head_dim]);
                variant.softcap.map_or(score, |cap| cap * (score / cap).tanh())
            };
            let mut weights: Vec<f64> = (first..=last).map(score).collect();
            weights.extend(variant.sinks.iter().map(|sinks| sinks[head]));
            softmax_in_place(&mut weights);
            for i in 0..head_dim {
                let value = |key: usize| v[cache + key * head_dim + i];
                y[row + i] = (first..=last).zip(&weights).map(|(key, weight)| weight * value(key)).sum();
            }
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Attention = Attention { n_heads: 1, n_kv_heads: 1, head_dim: 1, n_ctx: 4, scale: 1.0 };

    /// Scores 0, ln 2, ln 3, ln 4 of the query 1.
    fn run(variant: &Variant) -> f64 {
        let mut y = [0.0];
        let k = [1.0, 2.0, 3.0, 4.0].map(f64::ln);
        attention_variant(&mut y, &[1.0], &k, &[10.0, 20.0, 30.0, 40.0], &[3], SHAPE, variant);
        y[0]
    }

    #[test]
    fn attention_with_equal_scores_is_the_mean_of_the_past() {
        let shape = Attention { n_heads: 2, n_ctx: 3, ..SHAPE };
        let mut y = [0.0; 2];
        attention(&mut y, &[0.0, 0.0], &[5.0, 6.0, 7.0], &[1.0, 3.0, 100.0], &[1], shape);
        assert_eq!(y, [2.0, 2.0]);
    }

    #[test]
    fn windows_and_sinks_by_hand() {
        let close =
            |found: f64, expected: f64| assert!((found - expected).abs() < 1e-13, "{found}, {expected}");
        close(run(&Variant::default()), (10.0 + 40.0 + 90.0 + 160.0) / 10.0);
        close(run(&Variant { window: Some(2), ..Variant::default() }), (90.0 + 160.0) / 7.0);
        close(run(&Variant { window: Some(9), ..Variant::default() }), 30.0);
        let sinks = Some(vec![5.0f64.ln()]);
        close(run(&Variant { sinks: sinks.clone(), ..Variant::default() }), 300.0 / 15.0);
        close(run(&Variant { window: Some(1), sinks, ..Variant::default() }), 160.0 / 9.0);
    }

    #[test]
    fn a_tight_cap_makes_all_scores_alike_and_a_wide_one_changes_nothing() {
        let capped = |cap| run(&Variant { softcap: Some(cap), ..Variant::default() });
        assert!((capped(1e-9) - 25.0).abs() < 1e-6 && (capped(1e9) - 30.0).abs() < 1e-6);
        // Scores tanh(0), tanh(ln 2) = 3/5, tanh(ln 3) = 4/5, tanh(ln 4) = 15/17.
        let weights = [0.0, 0.6, 0.8, 15.0 / 17.0].map(f64::exp);
        let expected = weights.iter().zip([10.0, 20.0, 30.0, 40.0]).map(|(w, v)| w * v).sum::<f64>()
            / weights.iter().sum::<f64>();
        assert!((capped(1.0) - expected).abs() < 1e-13);
    }
}

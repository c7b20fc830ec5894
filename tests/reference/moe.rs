//! Mixtures of experts: which experts a token goes to, and what comes back.

/// What the weights of a token's experts are shares of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shares {
    /// softmax over the chosen experts (gpt-oss).
    OfChosen,
    /// softmax over all experts, divided by the sum of the chosen ones' (Mixtral, Qwen3).
    OfAllRenormalised,
    /// softmax over all experts (Qwen2).
    OfAll,
}

/// The `n_used` experts of a token with the largest logits, of equals the lowest, and their weights; the largest first.
///
/// # Panics
/// If a logit is NaN.
pub fn route(logits: &[f64], n_used: usize, shares: Shares) -> (Vec<u32>, Vec<f64>) {
    let mut experts: Vec<usize> = (0..logits.len()).collect();
    experts.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).expect("no NaN").then(a.cmp(&b)));
    experts.truncate(n_used);
    let chosen = |values: &[f64]| experts.iter().map(|&expert| values[expert]).collect::<Vec<_>>();
    let softmax = |logits: &[f64]| {
        let mut shares = vec![0.0; logits.len()];
        super::softmax(&mut shares, logits);
        shares
    };
    let weights = match shares {
        Shares::OfChosen => softmax(&chosen(logits)),
        Shares::OfAll => chosen(&softmax(logits)),
        Shares::OfAllRenormalised => {
            let shares = chosen(&softmax(logits));
            let sum: f64 = shares.iter().sum();
            shares.iter().map(|share| share / sum).collect()
        }
    };
    (experts.into_iter().map(|expert| expert as u32).collect(), weights)
}

/// Assignments by experts: those of expert e are `assignments[offsets[e]..offsets[e + 1]]`, in their own order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    /// `[n_experts + 1]`.
    pub offsets: Vec<u32>,
    /// Indices into `experts`.
    pub assignments: Vec<u32>,
}

/// Groups the assignments `experts`, `[n_tokens, n_used]`.
pub fn group(experts: &[u32], n_experts: usize) -> Groups {
    let mut groups = Groups { offsets: vec![0], assignments: Vec::new() };
    for expert in 0..n_experts as u32 {
        groups.assignments.extend((0..experts.len() as u32).filter(|&a| experts[a as usize] == expert));
        groups.offsets.push(groups.assignments.len() as u32);
    }
    groups
}

/// `y[j, o] = Σ_k w[experts[j], o, k] · x[j / n_used, k]`: each assignment's product with its expert's matrix,
/// `w [n_experts, n_rows, n_cols]`.
pub fn linear(
    y: &mut [f64],
    w: &[f64],
    x: &[f64],
    experts: &[u32],
    n_used: usize,
    [n_rows, n_cols]: [usize; 2],
) {
    assert_eq!((y.len(), x.len() * n_used), (experts.len() * n_rows, experts.len() * n_cols), "linear");
    for (j, y) in y.chunks_exact_mut(n_rows).enumerate() {
        let w = &w[experts[j] as usize * n_rows * n_cols..][..n_rows * n_cols];
        super::linear(y, w, &x[j / n_used * n_cols..][..n_cols], n_cols);
    }
}

/// `y[t] = Σ_j weights[t, j] · x[t, j]`: `x` holds the experts' rows by assignments, `[n_tokens, n_used, dim]`.
pub fn combine(y: &mut [f64], x: &[f64], weights: &[f64], n_used: usize, dim: usize) {
    assert_eq!((x.len(), y.len() * n_used), (weights.len() * dim, x.len()), "combine");
    for (t, y) in y.chunks_exact_mut(dim).enumerate() {
        for (i, y) in y.iter_mut().enumerate() {
            *y = (0..n_used).map(|j| weights[t * n_used + j] * x[(t * n_used + j) * dim + i]).sum();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shares worked out by hand: the logits are logarithms of 1, 4, 1, 2.
    #[test]
    fn routes_by_hand() {
        let logits = [1.0, 4.0, 1.0, 2.0].map(f64::ln);
        let close =
            |found: &[f64], expected: &[f64]| found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15);
        for (shares, expected) in [
            (Shares::OfChosen, [4.0 / 7.0, 2.0 / 7.0, 1.0 / 7.0]),
            (Shares::OfAllRenormalised, [4.0 / 7.0, 2.0 / 7.0, 1.0 / 7.0]),
            (Shares::OfAll, [0.5, 0.25, 0.125]),
        ] {
            let (experts, weights) = route(&logits, 3, shares);
            assert_eq!(experts, [1, 3, 0]);
            assert!(close(&weights, &expected), "{shares:?}: {weights:?}");
        }
    }

    #[test]
    fn groups_keep_the_order_of_tokens() {
        let groups = group(&[2, 0, 0, 2, 2, 3], 5);
        assert_eq!(groups, Groups { offsets: vec![0, 2, 2, 5, 6, 6], assignments: vec![1, 2, 0, 3, 4, 5] });
    }

    #[test]
    fn linear_takes_the_experts_matrix() {
        let mut y = [0.0; 4];
        linear(&mut y, &[1.0, 2.0, 10.0], &[3.0, 4.0], &[2, 0, 1, 2], 2, [1, 1]);
        assert_eq!(y, [30.0, 3.0, 8.0, 40.0]);
    }

    #[test]
    fn combine_weighs_rows() {
        let mut y = [0.0; 2];
        combine(&mut y, &[1.0, 2.0, 10.0, 20.0], &[3.0, 0.5], 2, 2);
        assert_eq!(y, [8.0, 16.0]);
    }
}

//! The chain from logits to a token, in f64: full sorts, full sums, one loop per stage.

use std::ops::Range;

/// What the stages do; a stage is off at the value in brackets.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Divides positive logits of recent tokens and multiplies the others (1).
    pub repeat_penalty: f32,
    /// Is taken from the logit of a recent token for each time that it occurs (0).
    pub frequency_penalty: f32,
    /// Is taken from the logit of a recent token (0).
    pub presence_penalty: f32,
    /// How many of the last tokens count as recent (0).
    pub n_recent: usize,
    /// How many of the largest logits stay (0).
    pub top_k: usize,
    /// The share of the probability that the most probable ones that stay have at least (1).
    pub top_p: f32,
    /// How probable, relative to the best one, a token that stays is (0).
    pub min_p: f32,
    /// What logits are divided by before the draw.
    pub temperature: f32,
}

/// Within which distance of a border a token may fall on either side of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slack {
    /// Of a sum of probabilities from `top_p`.
    pub top_p: f64,
    /// Of a logit from the one that is just probable enough for `min_p`.
    pub min_p: f64,
}

/// A token that may be drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    pub id: u32,
    /// Its part of [0, 1): empty if it is not left, though it nearly is.
    pub range: Range<f64>,
    /// Whether it is left for certain.
    pub is_certain: bool,
}

/// Who may be drawn.
#[derive(Clone, Debug)]
pub struct Distribution {
    /// In the order of ids.
    pub parts: Vec<Part>,
    /// The probability that all uncertain tokens would have together.
    pub uncertain: f64,
    /// Of all logits, the distance of the largest to the least.
    pub spread: f64,
}

/// A token under consideration.
struct Candidate {
    id: u32,
    logit: f64,
    is_left: bool,
    is_certain: bool,
}

/// The logit of a token that occurs `count` times among the recent ones. Each step is rounded to f32, which is part of
/// the definition: two tokens with equal results are equal.
fn penalised(chain: &Chain, logit: f32, count: u32) -> f32 {
    let scaled = match logit > 0.0 {
        true => logit / chain.repeat_penalty,
        false => logit * chain.repeat_penalty,
    };
    let taken = (count as f32).mul_add(chain.frequency_penalty, chain.presence_penalty);
    (scaled.min(f32::MAX) - taken).min(f32::MAX)
}

/// The tokens that the stages leave of `logits`, after the tokens `history`.
///
/// Equal logits are ranked by id, the lowest first, in every stage.
///
/// # Panics
/// If no logit is finite.
pub fn distribution(chain: &Chain, logits: &[f32], history: &[u32], slack: Slack) -> Distribution {
    let recent = &history[history.len() - history.len().min(chain.n_recent)..];
    let penalises =
        (chain.repeat_penalty, chain.frequency_penalty, chain.presence_penalty) != (1.0, 0.0, 0.0);
    let mut ranked: Vec<Candidate> = Vec::new();
    for (id, &logit) in (0..).zip(logits) {
        let count = recent.iter().filter(|&&token| token == id).count() as u32;
        let logit = if count > 0 && penalises { penalised(chain, logit, count) } else { logit };
        if logit > f32::NEG_INFINITY {
            // The sum turns -0 into its equal 0.
            ranked.push(Candidate { id, logit: f64::from(logit) + 0.0, is_left: true, is_certain: true });
        }
    }
    ranked.sort_by(|a, b| b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id)));
    let best = ranked.first().expect("no logit is finite").logit;
    let spread = best - ranked.last().expect("there is one").logit;
    if chain.top_k > 0 {
        ranked.truncate(chain.top_k);
    }
    if chain.top_p < 1.0 {
        let total: f64 = ranked.iter().map(|candidate| (candidate.logit - best).exp()).sum();
        let mut before = 0.0;
        for (index, candidate) in ranked.iter_mut().enumerate() {
            let missing = f64::from(chain.top_p) - before / total;
            candidate.is_left &= index == 0 || missing > 0.0;
            candidate.is_certain &= index == 0 || missing.abs() > slack.top_p;
            before += (candidate.logit - best).exp();
        }
    }
    if chain.min_p > 0.0 {
        for candidate in &mut ranked {
            let distance = candidate.logit - best;
            let above = distance - f64::from(chain.min_p).ln();
            candidate.is_left &= above >= 0.0;
            // The best ones themselves are at a distance of exactly zero.
            candidate.is_certain &= distance == 0.0 || above.abs() > slack.min_p;
        }
    }

    ranked.retain(|candidate| candidate.is_left || !candidate.is_certain);
    ranked.sort_by_key(|candidate| candidate.id);
    let weight = |logit: f64| ((logit - best) / f64::from(chain.temperature)).exp();
    let left = ranked.iter().filter(|candidate| candidate.is_left);
    let total: f64 = left.map(|candidate| weight(candidate.logit)).sum();
    let mut start = 0.0;
    let mut uncertain = 0.0;
    let mut parts = Vec::new();
    for Candidate { id, logit, is_left, is_certain } in ranked {
        let probability = weight(logit) / total;
        let end = if is_left { start + probability } else { start };
        uncertain += if is_certain { 0.0 } else { probability };
        parts.push(Part { id, range: start..end, is_certain });
        start = end;
    }
    Distribution { parts, uncertain, spread }
}

impl Distribution {
    /// The token in whose part of [0, 1) a uniform number lies, if it lies farther than `distance` from any other token's
    /// part.
    pub fn certain(&self, unit: f64, distance: f64) -> Option<u32> {
        let near = |part: &&Part| part.range.start - distance <= unit && unit < part.range.end + distance;
        let mut near = self.parts.iter().filter(near);
        let first = near.next().filter(|part| part.is_certain)?;
        near.next().is_none().then_some(first.id)
    }

    /// Whether a token's part of [0, 1) comes within a distance of a uniform number.
    pub fn may_be(&self, id: u32, unit: f64, distance: f64) -> bool {
        let near = |range: &Range<f64>| range.start - distance <= unit && unit < range.end + distance;
        self.parts.iter().any(|part| part.id == id && near(&part.range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Chain = Chain {
        repeat_penalty: 1.0,
        frequency_penalty: 0.0,
        presence_penalty: 0.0,
        n_recent: 0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        temperature: 1.0,
    };

    fn ids(chain: &Chain, logits: &[f32], history: &[u32]) -> Vec<u32> {
        distribution(chain, logits, history, Slack::default()).parts.iter().map(|part| part.id).collect()
    }

    /// Values worked out by hand, so that the specification itself has a check.
    #[test]
    fn parts_tile_the_unit_interval() {
        let logits = [0.0, 3.0f32.ln(), f32::NEG_INFINITY, 0.0];
        let found = distribution(&PLAIN, &logits, &[], Slack::default());
        for (part, (id, expected)) in found.parts.iter().zip([(0, 0.0..0.2), (1, 0.2..0.8), (3, 0.8..1.0)]) {
            assert_eq!(part.id, id);
            let distance = |a: f64, b: f64| (a - b).abs();
            assert!(distance(part.range.start, expected.start) < 1e-7);
            assert!(distance(part.range.end, expected.end) < 1e-7);
        }
        assert_eq!([0.1, 0.5, 0.9].map(|unit| found.certain(unit, 0.01)), [Some(0), Some(1), Some(3)]);
        assert_eq!(found.certain(0.75, 0.06), None);
        assert!(found.may_be(1, 0.75, 0.0) && found.may_be(3, 0.75, 0.06) && !found.may_be(3, 0.75, 0.04));
    }

    #[test]
    fn tokens_near_a_border_are_uncertain() {
        let logits = [0.0, 3.0f32.ln(), 0.0];
        // Sums before the tokens, best first, are 0, 0.6 and 0.8.
        let chain = Chain { top_p: 0.79, ..PLAIN };
        let found = |slack| distribution(&chain, &logits, &[], Slack { top_p: slack, min_p: 0.0 });
        assert_eq!(found(0.0).parts.len(), 2);
        let uncertain = found(0.02);
        assert_eq!(uncertain.parts.iter().map(|part| part.is_certain).collect::<Vec<_>>(), [true, true, false]);
        assert!((uncertain.uncertain - 0.25).abs() < 1e-7 && uncertain.parts[2].range.is_empty());
    }

    #[test]
    fn stages_keep_the_best_and_of_equals_the_lowest_ids() {
        let logits = [1.0, 2.0, 2.0, 0.0, 2.0];
        assert_eq!(ids(&Chain { top_k: 2, ..PLAIN }, &logits, &[]), [1, 2]);
        assert_eq!(ids(&Chain { top_p: 0.0, ..PLAIN }, &logits, &[]), [1]);
        assert_eq!(ids(&Chain { top_p: 0.5, ..PLAIN }, &logits, &[]), [1, 2]);
        assert_eq!(ids(&Chain { min_p: 0.3, ..PLAIN }, &logits, &[]), [0, 1, 2, 4]);
    }

    #[test]
    fn penalties_count_the_recent_tokens() {
        let chain = Chain { repeat_penalty: 2.0, n_recent: 3, top_k: 1, ..PLAIN };
        assert_eq!(ids(&chain, &[8.0, 4.5, -1.0], &[0, 2, 2, 2]), [0], "token 0 is out of the window");
        assert_eq!(ids(&chain, &[8.0, 4.5, -1.0], &[0, 2, 2]), [1], "8 / 2 is less than 4.5");
        let chain = Chain { frequency_penalty: 1.0, presence_penalty: 0.5, n_recent: 9, top_k: 1, ..PLAIN };
        assert_eq!(ids(&chain, &[3.0, 0.4], &[0, 0]), [0], "3 − 2 · 1 − 0.5 is 0.5");
        assert_eq!(ids(&chain, &[3.0, 0.6], &[0, 0]), [1]);
    }
}

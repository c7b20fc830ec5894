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

/// How far an implementation may be off, and so at which distance from a border a token may fall on either side of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slack {
    /// Of a sum of probabilities: this, ...
    pub sum: f64,
    /// ... and this times the mean of the exponents x of its weights 2⁻ˣ.
    pub per_exponent: f64,
    /// Of a logit's distance from the largest.
    pub logit: f64,
}

impl Slack {
    /// Of a sum of probabilities e^(−distance).
    fn of_sum(&self, distances: impl Iterator<Item = f64> + Clone) -> f64 {
        let total: f64 = distances.clone().map(|distance| (-distance).exp()).sum();
        let weighted: f64 = distances.map(|distance| distance * (-distance).exp()).sum();
        self.sum + self.per_exponent * std::f64::consts::LOG2_E * weighted / total
    }
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
    /// How far the parts' borders may be from where they should be.
    pub slack: f64,
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
    if chain.top_k > 0 {
        ranked.truncate(chain.top_k);
    }
    if chain.top_p < 1.0 {
        let total: f64 = ranked.iter().map(|candidate| (candidate.logit - best).exp()).sum();
        let slack = slack.of_sum(ranked.iter().map(|candidate| best - candidate.logit));
        let mut before = 0.0;
        for (index, candidate) in ranked.iter_mut().enumerate() {
            let missing = f64::from(chain.top_p) - before / total;
            candidate.is_left &= index == 0 || missing > 0.0;
            candidate.is_certain &= index == 0 || missing.abs() > slack;
            before += (candidate.logit - best).exp();
        }
    }
    if chain.min_p > 0.0 {
        for candidate in &mut ranked {
            let distance = candidate.logit - best;
            let above = distance - f64::from(chain.min_p).ln();
            candidate.is_left &= above >= 0.0;
            // The best ones themselves are at a distance of exactly zero.
            candidate.is_certain &= distance == 0.0 || above.abs() > slack.logit;
        }
    }

    ranked.retain(|candidate| candidate.is_left || !candidate.is_certain);
    ranked.sort_by_key(|candidate| candidate.id);
    let distance = |logit: f64| (best - logit) / f64::from(chain.temperature);
    let weight = |logit: f64| (-distance(logit)).exp();
    let left = ranked.iter().filter(|candidate| candidate.is_left).map(|candidate| candidate.logit);
    let total: f64 = left.clone().map(weight).sum();
    let mut slack = slack.of_sum(left.map(distance));
    let mut start = 0.0;
    let mut parts = Vec::new();
    for Candidate { id, logit, is_left, is_certain } in ranked {
        let probability = weight(logit) / total;
        let end = if is_left { start + probability } else { start };
        // It moves those behind it, and changes the total.
        slack += if is_certain { 0.0 } else { 2.0 * probability };
        parts.push(Part { id, range: start..end, is_certain });
        start = end;
    }
    Distribution { parts, slack }
}

impl Distribution {
    fn is_near(&self, part: &Part, unit: f64) -> bool {
        part.range.start - self.slack <= unit && unit < part.range.end + self.slack
    }

    /// The token that a uniform number draws, unless it is so near to a border that it may be another one.
    pub fn certain(&self, unit: f64) -> Option<u32> {
        let mut near = self.parts.iter().filter(|part| self.is_near(part, unit));
        let first = near.next().filter(|part| part.is_certain)?;
        near.next().is_none().then_some(first.id)
    }

    /// Whether a uniform number may draw a token.
    pub fn may_be(&self, id: u32, unit: f64) -> bool {
        self.parts.iter().any(|part| part.id == id && self.is_near(part, unit))
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
        assert_eq!([0.1, 0.5, 0.9].map(|unit| found.certain(unit)), [Some(0), Some(1), Some(3)]);
        assert!(found.may_be(1, 0.75) && !found.may_be(3, 0.75));
        let blurred = distribution(&PLAIN, &logits, &[], Slack { sum: 0.06, ..Slack::default() });
        assert_eq!((blurred.certain(0.75), blurred.certain(0.73)), (None, Some(1)));
        assert!(blurred.may_be(1, 0.75) && blurred.may_be(3, 0.75) && !blurred.may_be(0, 0.75));
    }

    #[test]
    fn tokens_near_a_border_are_uncertain() {
        let logits = [0.0, 3.0f32.ln(), 0.0];
        // Sums before the tokens, best first, are 0, 0.6 and 0.8.
        let chain = Chain { top_p: 0.79, ..PLAIN };
        let found = |sum| distribution(&chain, &logits, &[], Slack { sum, ..Slack::default() });
        assert_eq!(found(0.0).parts.len(), 2);
        let uncertain = found(0.02);
        assert_eq!(
            uncertain.parts.iter().map(|part| part.is_certain).collect::<Vec<_>>(),
            [true, true, false]
        );
        assert!(uncertain.parts[2].range.is_empty());
        assert!((uncertain.slack - (0.02 + 2.0 * 0.25)).abs() < 1e-7, "it would have a fifth of 4/5");
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

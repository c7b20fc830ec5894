//! The sampler against a literal f64 implementation of its description: full sorts and full sums.

use oxwarp::sampler::{Candidate, Error, Rng, Sampler, SamplerOptions, random_seed};

/// Every stage as the module's documentation states it. Returns (id, probability), ordered by id, and how near the
/// top-p sum came to its threshold on either side (relative to the total).
fn reference(options: &SamplerOptions, logits: &[f32], previous: &[u32]) -> (Vec<(u32, f64)>, f64) {
    let mut logits = logits.to_vec();
    let window = &previous[previous.len().saturating_sub(options.repeat_last_n)..];
    for (id, logit) in (0..).zip(&mut logits) {
        let count = window.iter().filter(|&&token| token == id).count();
        if count > 0 {
            // Each step is rounded to f32, which is part of the definition.
            let penalty = options.repeat_penalty;
            let scaled = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            let taken =
                count as f64 * f64::from(options.frequency_penalty) + f64::from(options.presence_penalty);
            *logit = scaled.min(f32::MAX) - taken as f32;
        }
    }
    let mut ranked: Vec<(u32, f64)> = (0..).zip(logits.iter().map(|&l| f64::from(l))).collect();
    ranked.retain(|(_, logit)| logit.is_finite());
    // A stable sort keeps equal logits in the order of their ids.
    ranked.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap());
    if options.top_k > 0 {
        ranked.truncate(options.top_k);
    }
    let probabilities = softmax(&ranked, 1.0);
    let mut margin = f64::INFINITY;
    let mut n_kept = ranked.len();
    if options.top_p < 1.0 {
        let mut cumulative = 0.0;
        for (n_before, probability) in probabilities.iter().enumerate() {
            cumulative += probability;
            margin = margin.min((cumulative - f64::from(options.top_p)).abs());
            if cumulative >= f64::from(options.top_p) {
                n_kept = n_before + 1;
                break;
            }
        }
    }
    let floor = f64::from(options.min_p) * probabilities[0];
    n_kept = n_kept.min(probabilities.iter().take_while(|&&p| p >= floor).count());
    ranked.truncate(n_kept);
    let probabilities = softmax(&ranked, f64::from(options.temperature));
    let mut distribution: Vec<(u32, f64)> = ranked.iter().map(|&(id, _)| id).zip(probabilities).collect();
    distribution.sort_by_key(|&(id, _)| id);
    (distribution, margin)
}

fn softmax(ranked: &[(u32, f64)], temperature: f64) -> Vec<f64> {
    let weights: Vec<f64> = ranked.iter().map(|(_, l)| ((l - ranked[0].1) / temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

/// What every comparison of a probability with the reference allows. Both sides sum n positive f64 numbers, in
/// different orders: each sum is off by at most n·2⁻⁵³ of itself; exp, the quotient in it (at most `spread` in size,
/// which its rounding multiplies) and the division add a few units more.
fn relative_bound(n_candidates: usize, spread: f64) -> f64 {
    (2.0 * n_candidates as f64 + 4.0 * spread + 8.0) * (-53f64).exp2()
}

#[track_caller]
fn assert_matches_reference(options: &SamplerOptions, logits: &[f32], previous: &[u32]) -> Vec<Candidate> {
    let mut sampler = Sampler::new(options.clone()).unwrap();
    let distribution = sampler.distribution(logits, previous).unwrap().to_vec();
    let (expected, margin) = reference(options, logits, previous);
    let finite = logits.iter().copied().filter(|l| l.is_finite());
    let (low, high) = finite.fold((f32::MAX, f32::MIN), |(low, high), l| (low.min(l), high.max(l)));
    let taken = previous.len() as f64 * f64::from(options.frequency_penalty.abs())
        + f64::from(options.presence_penalty.abs());
    let spread = (f64::from(high - low) * f64::from(options.repeat_penalty.max(1.0)) + taken)
        / f64::from(options.temperature);
    let bound = relative_bound(logits.len(), spread);
    assert!(margin > bound, "the test's own top-p sum is {margin} from its threshold: choose other logits");
    let ids: Vec<u32> = distribution.iter().map(|c| c.id).collect();
    let expected_ids: Vec<u32> = expected.iter().map(|e| e.0).collect();
    assert_eq!(ids, expected_ids, "{options:?}");
    for (candidate, (_, probability)) in distribution.iter().zip(&expected) {
        let error = (candidate.probability - probability).abs();
        assert!(error <= bound * probability, "{candidate:?}: {probability} expected, off by {error}");
    }
    let total: f64 = distribution.iter().map(|c| c.probability).sum();
    assert!((total - 1.0).abs() <= bound, "probabilities sum to {total}");
    distribution
}

/// Roughly normal logits of standard deviation `scale`, all different with near certainty.
fn random_logits(n_vocab: usize, scale: f64, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    (0..n_vocab)
        .map(|_| {
            let sum_of_twelve: f64 = (0..12).map(|_| rng.next_unit()).sum();
            ((sum_of_twelve - 6.0) * scale) as f32
        })
        .collect()
}

/// Every stage off but temperature 1.
fn plain() -> SamplerOptions {
    SamplerOptions {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        seed: Some(42),
        ..Default::default()
    }
}

fn ids(distribution: &[Candidate]) -> Vec<u32> {
    distribution.iter().map(|c| c.id).collect()
}

#[test]
fn defaults_are_the_usual_ones() {
    let expected = SamplerOptions {
        temperature: 0.8,
        top_k: 40,
        top_p: 0.95,
        min_p: 0.05,
        repeat_penalty: 1.0,
        frequency_penalty: 0.0,
        presence_penalty: 0.0,
        repeat_last_n: 64,
        seed: None,
    };
    assert_eq!(SamplerOptions::default(), expected);
}

#[test]
fn each_stage_and_all_of_them_match_the_reference() {
    let previous = [3, 9, 9, 3, 50, 0];
    for n_vocab in [51, 512, 32_064] {
        for seed in 0..4 {
            let logits = random_logits(n_vocab, 4.0, seed);
            let all = SamplerOptions {
                top_k: 40,
                top_p: 0.9,
                min_p: 0.02,
                temperature: 0.7,
                repeat_penalty: 1.3,
                ..plain()
            };
            for options in [
                plain(),
                SamplerOptions { temperature: 0.5, ..plain() },
                SamplerOptions { temperature: 2.0, ..plain() },
                SamplerOptions { top_k: 1, ..plain() },
                SamplerOptions { top_k: 7, ..plain() },
                SamplerOptions { top_k: n_vocab - 1, ..plain() },
                SamplerOptions { top_k: n_vocab, ..plain() },
                SamplerOptions { top_k: usize::MAX, ..plain() },
                SamplerOptions { top_p: 0.0, ..plain() },
                SamplerOptions { top_p: 0.5, ..plain() },
                SamplerOptions { top_p: 0.999, ..plain() },
                SamplerOptions { min_p: 0.1, ..plain() },
                SamplerOptions { min_p: 1.0, ..plain() },
                SamplerOptions { repeat_penalty: 1.5, ..plain() },
                SamplerOptions { repeat_penalty: 0.5, repeat_last_n: 2, ..plain() },
                SamplerOptions { frequency_penalty: 0.5, ..plain() },
                SamplerOptions { presence_penalty: -1.5, ..plain() },
                SamplerOptions { frequency_penalty: 0.3, presence_penalty: 0.25, ..all.clone() },
                SamplerOptions { seed: None, ..Default::default() },
                all,
            ] {
                assert_matches_reference(&options, &logits, &previous);
            }
        }
    }
}

/// The vocabularies of Qwen2 and gpt-oss: a sum over the first few thousand entries would be wrong by far, since the
/// logits are nearly flat and the largest come last.
#[test]
fn large_vocabularies_are_normalised_whole() {
    for n_vocab in [151_936, 201_088] {
        let mut logits = random_logits(n_vocab, 0.5, 1);
        logits[n_vocab - 1] = 3.1;
        for options in [
            plain(),
            SamplerOptions { top_p: 0.95, ..plain() },
            SamplerOptions { top_k: 100_000, top_p: 0.5, ..plain() },
            SamplerOptions { min_p: 0.05, ..plain() },
            SamplerOptions { seed: Some(1), ..Default::default() },
        ] {
            assert_matches_reference(&options, &logits, &[]);
        }
        let kept = assert_matches_reference(&SamplerOptions { top_p: 0.95, ..plain() }, &logits, &[]);
        assert!(
            kept.len() > n_vocab / 2,
            "flat logits: 95 % of the mass are most of the tokens, not {}",
            kept.len()
        );
    }
}

#[test]
fn greedy_takes_the_largest_logit_and_the_lowest_id_of_equals() {
    let mut greedy = Sampler::new(SamplerOptions::greedy()).unwrap();
    let mut choose = |logits: &[f32]| greedy.sample(logits, &[]).unwrap();
    assert_eq!(choose(&[5.0, 1.0, 2.0]), 0);
    assert_eq!(choose(&[1.0, 2.0, 5.0]), 2);
    assert_eq!(choose(&[-5.0, -1.0, -2.0]), 1);
    assert_eq!(choose(&[1.0, 7.0, 7.0, 7.0]), 1);
    assert_eq!(choose(&[-0.0, 0.0]), 0);
    assert_eq!(choose(&[f32::NEG_INFINITY, f32::MIN]), 1);
    let mut logits = random_logits(151_936, 2.0, 3);
    logits[151_935] = 40.0;
    assert_eq!(choose(&logits), 151_935);
}

/// Temperature 0 bypasses top-k, top-p and min-p, but not the penalty, and is never divided by.
#[test]
fn greedy_obeys_the_penalty_only() {
    let options = SamplerOptions { repeat_penalty: 4.0, top_k: 1, ..SamplerOptions::greedy() };
    let mut sampler = Sampler::new(options).unwrap();
    assert_eq!(sampler.sample(&[8.0, 4.0, 1.0], &[]).unwrap(), 0);
    assert_eq!(sampler.sample(&[8.0, 4.0, 1.0], &[0]).unwrap(), 1);
    assert_eq!(sampler.distribution(&[8.0, 4.0, 1.0], &[0]).unwrap()[0].probability, 1.0);
}

/// A logit of -inf is a token that is ruled out; huge finite logits are no trouble.
#[test]
fn extreme_logits() {
    let ruled_out = [f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY, 0.0];
    assert_eq!(ids(&assert_matches_reference(&plain(), &ruled_out, &[])), [1, 3]);
    let top_3 = SamplerOptions { top_k: 3, ..plain() };
    assert_eq!(ids(&assert_matches_reference(&top_3, &ruled_out, &[])), [1, 3]);
    assert_matches_reference(&plain(), &[1e4, 1e4 - 1.0, -1e4], &[]);

    let mut sampler = Sampler::new(SamplerOptions { temperature: 1e-30, ..plain() }).unwrap();
    assert_eq!(sampler.sample(&[1.0, 1.000_001, -f32::MAX], &[]).unwrap(), 1);
    let mut sampler = Sampler::new(SamplerOptions { repeat_penalty: 0.01, ..plain() }).unwrap();
    assert_eq!(sampler.sample(&[f32::MAX, 0.0], &[0]).unwrap(), 0, "a penalty may not overflow");
}

/// Equal logits: top-k and top-p keep the lowest ids, min-p keeps them all.
#[test]
fn ties_are_broken_by_id() {
    let logits = [1.0, 2.0, 2.0, 2.0, 0.0, 2.0];
    let top_2 = SamplerOptions { top_k: 2, ..plain() };
    assert_eq!(ids(&assert_matches_reference(&top_2, &logits, &[])), [1, 2]);
    let top_0 = SamplerOptions { top_p: 0.0, ..plain() };
    assert_eq!(ids(&assert_matches_reference(&top_0, &logits, &[])), [1]);
    let half = SamplerOptions { top_p: 0.6, ..plain() };
    assert_eq!(ids(&assert_matches_reference(&half, &logits, &[])), [1, 2, 3]);
    let best = SamplerOptions { min_p: 1.0, ..plain() };
    assert_eq!(ids(&assert_matches_reference(&best, &logits, &[])), [1, 2, 3, 5]);
    let signed_zeros = [-0.0, 0.0, -0.0, 0.0];
    assert_eq!(ids(&assert_matches_reference(&top_2, &signed_zeros, &[])), [0, 1]);
}

/// The window is the last n tokens; a token that occurs in it twice is penalised once.
#[test]
fn penalty_window() {
    let logits = [2.0, 2.0, 2.0, -2.0];
    let penalised = |repeat_last_n, previous: &[u32]| {
        let options = SamplerOptions { repeat_penalty: 2.0, repeat_last_n, ..plain() };
        let distribution = assert_matches_reference(&options, &logits, previous);
        distribution.iter().map(|c| c.logit).collect::<Vec<f32>>()
    };
    assert_eq!(penalised(64, &[]), logits);
    assert_eq!(penalised(0, &[0, 1, 2, 3]), logits);
    assert_eq!(penalised(2, &[0, 1, 3]), [2.0, 1.0, 2.0, -4.0]);
    assert_eq!(penalised(usize::MAX, &[0, 1, 2, 3]), [1.0, 1.0, 1.0, -4.0]);
    assert_eq!(penalised(64, &[1, 1, 1]), [2.0, 1.0, 2.0, -2.0]);
}

/// The frequency penalty counts, the presence penalty does not, and both come after the repeat penalty.
#[test]
fn frequency_and_presence_penalties() {
    let logits = [2.0, 2.0, 2.0, -2.0];
    let penalised = |repeat_penalty, frequency_penalty, presence_penalty| {
        let options = SamplerOptions {
            repeat_penalty,
            frequency_penalty,
            presence_penalty,
            repeat_last_n: 4,
            ..plain()
        };
        let distribution = assert_matches_reference(&options, &logits, &[2, 1, 0, 1, 3]);
        distribution.iter().map(|c| c.logit).collect::<Vec<f32>>()
    };
    assert_eq!(penalised(1.0, 0.5, 0.0), [1.5, 1.0, 2.0, -2.5]);
    assert_eq!(penalised(1.0, 0.0, 0.5), [1.5, 1.5, 2.0, -2.5]);
    assert_eq!(penalised(1.0, -0.5, 0.0), [2.5, 3.0, 2.0, -1.5]);
    assert_eq!(penalised(2.0, 0.25, 0.5), [0.25, 0.0, 2.0, -4.75]);
    let greedy = SamplerOptions { presence_penalty: 1.5, ..SamplerOptions::greedy() };
    assert!(!Sampler::new(greedy.clone()).unwrap().is_plain_greedy());
    assert_eq!(Sampler::new(greedy).unwrap().sample(&[3.0, 2.0], &[0]).unwrap(), 1);
    let enormous = SamplerOptions { frequency_penalty: -100.0, ..plain() };
    let logit = Sampler::new(enormous).unwrap().distribution(&[f32::MAX, 0.0], &[0; 9]).unwrap()[0].logit;
    assert_eq!(logit, f32::MAX, "a penalty may not overflow");
}

/// Each draw lands in the part of [0, 1) that its random number points at, found by a plain cumulative sum.
#[test]
fn draws_follow_the_cumulative_distribution() {
    let logits = random_logits(200, 2.0, 5);
    let mut sampler = Sampler::new(plain()).unwrap();
    let (expected, _) = reference(&plain(), &logits, &[]);
    let mut rng = Rng::new(42);
    let bound = relative_bound(logits.len(), 24.0);
    let mut n_checked = 0;
    for _ in 0..5_000 {
        let unit = rng.next_unit();
        let drawn = sampler.sample(&logits, &[]).unwrap();
        let upper: f64 = expected.iter().filter(|e| e.0 <= drawn).map(|e| e.1).sum();
        let lower = upper - expected[drawn as usize].1;
        assert!(lower - bound <= unit && unit < upper + bound, "{unit} drew {drawn} of [{lower}, {upper})");
        n_checked += 1;
    }
    assert_eq!(n_checked, 5_000);
}

/// Pearson's chi-square of 200 000 draws from 40 tokens.
#[test]
fn draws_have_the_right_frequencies() {
    let n_draws = 200_000;
    let logits = random_logits(40, 1.0, 8);
    let (expected, _) = reference(&plain(), &logits, &[]);
    let mut sampler = Sampler::new(plain()).unwrap();
    let mut counts = [0u32; 40];
    for _ in 0..n_draws {
        counts[sampler.sample(&logits, &[]).unwrap() as usize] += 1;
    }
    let chi_square: f64 = expected
        .iter()
        .map(|&(id, probability)| {
            let mean = probability * f64::from(n_draws);
            assert!(mean > 5.0, "chi-square needs a few draws of each token, not {mean}");
            (f64::from(counts[id as usize]) - mean).powi(2) / mean
        })
        .sum();
    let (low, high) = chi_square_bounds(39.0);
    assert!(low < chi_square && chi_square < high, "{chi_square} is not within {low} and {high}");
}

/// Where chi-square falls with a chance of 1 - 2·10⁻⁶ (Wilson and Hilferty's cube-root approximation, z = 4.75).
fn chi_square_bounds(degrees: f64) -> (f64, f64) {
    let at = |z: f64| degrees * (1.0 - 2.0 / (9.0 * degrees) + z * (2.0 / (9.0 * degrees)).sqrt()).powi(3);
    (at(-4.75), at(4.75))
}

#[test]
fn random_numbers_are_uniform_and_repeatable() {
    let n = 100_000;
    let mut rng = Rng::new(0);
    let units: Vec<f64> = (0..n).map(|_| rng.next_unit()).collect();
    assert!(units.iter().all(|unit| (0.0..1.0).contains(unit)));
    // Standard errors of a uniform sample: mean 1/√(12 n), variance 1/√(180 n); five of each.
    let mean = units.iter().sum::<f64>() / f64::from(n);
    assert!((mean - 0.5).abs() < 5.0 / (12.0 * f64::from(n)).sqrt(), "mean {mean}");
    let variance = units.iter().map(|unit| (unit - mean).powi(2)).sum::<f64>() / f64::from(n);
    assert!((variance - 1.0 / 12.0).abs() < 5.0 / (180.0 * f64::from(n)).sqrt(), "variance {variance}");

    let mut again = Rng::new(0);
    assert!(units.iter().all(|&unit| again.next_unit() == unit));
    let mut neighbour = Rng::new(1);
    assert!(units.iter().all(|&unit| neighbour.next_unit() != unit));
}

#[test]
fn the_seed_decides_the_draws() {
    let logits = random_logits(1000, 1.0, 2);
    let draw_some = |seed| {
        let mut sampler = Sampler::new(SamplerOptions { seed, ..plain() }).unwrap();
        let drawn: Vec<u32> = (0..50).map(|_| sampler.sample(&logits, &[]).unwrap()).collect();
        (sampler.seed(), drawn)
    };
    let (seed, drawn) = draw_some(None);
    assert_eq!(draw_some(Some(seed)).1, drawn, "the seed that a sampler tells repeats its draws");
    assert_ne!(draw_some(Some(7)).1, draw_some(Some(8)).1);
    assert_ne!(random_seed(), random_seed());
}

#[test]
fn broken_logits_are_refused() {
    for temperature in [0.0, 0.8] {
        let options = SamplerOptions { temperature, ..Default::default() };
        let mut sampler = Sampler::new(options).unwrap();
        let mut refusal = |logits: &[f32]| sampler.sample(logits, &[]).unwrap_err().to_string();
        assert_eq!(
            refusal(&[1.0, f32::NAN, f32::INFINITY]),
            "the logit of token 1 is NaN (2 of 3 logits are not finite): the model's arithmetic broke down"
        );
        assert_eq!(
            refusal(&[1.0, 0.0, f32::INFINITY]),
            "the logit of token 2 is inf (1 of 3 logits are not finite): the model's arithmetic broke down"
        );
        assert_eq!(refusal(&[f32::NEG_INFINITY; 4]), "all 4 logits are -inf: no token can follow");
        assert_eq!(refusal(&[]), "all 0 logits are -inf: no token can follow");
        // A refusal leaves the sampler as it was.
        assert_eq!(sampler.sample(&[9.0, -90.0], &[]).unwrap(), 0);
    }
}

#[test]
fn options_out_of_range_are_refused() {
    let default = SamplerOptions::default;
    let refusal = |options: SamplerOptions| match Sampler::new(options) {
        Err(error @ Error::Option { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let temperature = |temperature| refusal(SamplerOptions { temperature, ..default() });
    assert_eq!(temperature(-1.0), "temperature is -1; allowed: 0 to 2");
    assert_eq!(temperature(2.1), "temperature is 2.1; allowed: 0 to 2");
    assert_eq!(temperature(f32::NAN), "temperature is NaN; allowed: 0 to 2");
    assert_eq!(temperature(f32::INFINITY), "temperature is inf; allowed: 0 to 2");
    assert_eq!(refusal(SamplerOptions { top_p: 1.5, ..default() }), "top-p is 1.5; allowed: 0 to 1");
    assert_eq!(refusal(SamplerOptions { min_p: -0.1, ..default() }), "min-p is -0.1; allowed: 0 to 1");
    assert_eq!(
        refusal(SamplerOptions { repeat_penalty: 0.0, ..default() }),
        "repeat-penalty is 0; allowed: 0.01 to 100"
    );
    assert_eq!(
        refusal(SamplerOptions { frequency_penalty: f32::NAN, ..default() }),
        "frequency-penalty is NaN; allowed: -100 to 100"
    );
    assert_eq!(
        refusal(SamplerOptions { presence_penalty: 101.0, ..default() }),
        "presence-penalty is 101; allowed: -100 to 100"
    );
}

#[test]
fn the_chain_is_printed_in_its_order() {
    let print = |options| Sampler::new(options).unwrap().to_string();
    let all = SamplerOptions { repeat_penalty: 1.1, seed: Some(42), ..Default::default() };
    assert_eq!(
        print(all),
        "repeat-penalty 1.1 over the last 64 tokens → top-k 40 → top-p 0.95 → min-p 0.05 → temperature 0.8 → \
         draw with seed 42"
    );
    assert_eq!(print(SamplerOptions::greedy()), "largest logit");
    let counting =
        SamplerOptions { frequency_penalty: 0.5, presence_penalty: -1.0, ..SamplerOptions::greedy() };
    assert_eq!(
        print(counting),
        "frequency-penalty 0.5, presence-penalty -1 over the last 64 tokens → largest logit"
    );
    assert_eq!(print(plain()), "temperature 1 → draw with seed 42");
}

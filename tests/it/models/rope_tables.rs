//! The rotation tables of every kind of scaling against the definitions.

use oxwarp::backend::RopePairs;
use oxwarp::model::rope::{self, Llama3Scaling, LongRopeScaling, YarnScaling};
use oxwarp::model::{RopeConfig, RopeScaling};
use testkit::compare::{F32_ROUNDING, assert_within};
use testkit::reference::{self, Yarn};

fn config(dim: usize, base: f64, scaling: RopeScaling) -> RopeConfig {
    RopeConfig { pairs: RopePairs::Half, dim, base, scaling, has_factors: false }
}

/// The table at some positions. An angle's relative error of a few roundings of f64 moves cosine and sine by that of
/// the angle; the table's own rounding to f32 comes on top.
fn check(what: &str, table: &[f32], frequencies: &[f64], amplitude: f64) {
    let width = 2 * frequencies.len();
    let n_ctx = table.len() / width;
    let positions: Vec<usize> =
        [0, 1, 2, 77, n_ctx / 2, n_ctx - 1].into_iter().filter(|&p| p < n_ctx).collect();
    let found: Vec<f32> = positions.iter().flat_map(|&p| &table[p * width..][..width]).copied().collect();
    let expected = reference::scaled_table(&positions, frequencies, amplitude);
    let largest_angle = n_ctx as f64 * frequencies.iter().fold(0.0, |a: f64, &b| a.max(b));
    assert_within(what, &found, &expected, &[positions.len(), frequencies.len(), 2], |i| {
        F32_ROUNDING * expected[i].abs() + amplitude * largest_angle * 16.0 * f64::EPSILON
    });
}

#[test]
fn plain_and_linear_past_position_131072() {
    let n_ctx = 131_080;
    let table = rope::table(&config(16, 10_000.0, RopeScaling::None), None, n_ctx);
    check("plain", &table, &reference::divided_frequencies(16, 10_000.0, &[1.0; 8]), 1.0);
    let table = rope::table(&config(16, 10_000.0, RopeScaling::Linear { factor: 8.0 }), None, n_ctx);
    check("linear", &table, &reference::divided_frequencies(16, 10_000.0, &[8.0; 8]), 1.0);
}

#[test]
fn yarn() {
    for (dim, base, factor, original, truncate) in [
        (128, 1e4, 16.0, 4096.0, true),
        (128, 1e6, 4.0, 32768.0, true),
        (64, 150_000.0, 32.0, 4096.0, false),
        // So few pairs and so short a context that the ramp has no width.
        (4, 1e4, 4.0, 4.0, true),
        (8, 1e6, 2.0, 16.0, false),
    ] {
        let amplitude = YarnScaling::default_amplitude(factor);
        let scaling = YarnScaling {
            factor,
            original_context: original,
            beta_fast: 32.0,
            beta_slow: 1.0,
            whole_pairs: truncate,
            amplitude,
        };
        let yarn = Yarn { factor, original_context: original, beta_fast: 32.0, beta_slow: 1.0, truncate };
        let table = rope::table(&config(dim, base, RopeScaling::Yarn(scaling)), None, 1000);
        let frequencies = reference::yarn_frequencies(dim, base, yarn);
        check(&format!("{yarn:?}"), &table, &frequencies, amplitude);
    }
}

/// Values computed elsewhere.
#[test]
fn amplitudes() {
    for (found, expected) in [
        (YarnScaling::default_amplitude(16.0), 1.2772588722239782),
        (YarnScaling::default_amplitude(4.0), 1.138629436111989),
        (YarnScaling::default_amplitude(0.5), 1.0),
        (YarnScaling::amplitude_of_mscales(40.0, 0.707, 1.0), 0.9210423553163399),
        (YarnScaling::amplitude_of_mscales(40.0, 1.0, 1.0), 1.0),
        (LongRopeScaling::default_amplitude(131_072.0, 4096.0), 1.1902380714238083),
        (LongRopeScaling::default_amplitude(4096.0, 4096.0), 1.0),
    ] {
        assert!((found - expected).abs() < 1e-14, "{found}, not {expected}");
    }
}

#[test]
fn longrope_takes_its_factors_by_the_context() {
    let (short, long): (Vec<f32>, Vec<f32>) =
        (0..24).map(|i| (1.0 + 0.25 * i as f32, 1.5 + 2.0 * i as f32)).unzip();
    let scaling = LongRopeScaling {
        original_context: 256,
        amplitude: LongRopeScaling::default_amplitude(8192.0, 256.0),
    };
    for (n_ctx, expected) in [(256, &short), (257, &long)] {
        let factors = scaling.choose(&short, &long, n_ctx);
        let table = rope::table(&config(48, 1e4, RopeScaling::LongRope(scaling)), Some(factors), n_ctx);
        let frequencies = reference::divided_frequencies(48, 1e4, &reference::widen(expected));
        check(
            &format!("longrope, {n_ctx}"),
            &table,
            &frequencies,
            (1.0 + 32.0f64.ln() / 256.0f64.ln()).sqrt(),
        );
    }
}

/// By the definition: wavelengths below original / high keep their speed, those above original / low are divided by the
/// factor, and between the two the share kept falls linearly in the number of turns.
#[test]
fn llama_3_factors() {
    let scaling =
        Llama3Scaling { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192.0 };
    let factors = scaling.factors(500_000.0, 128);
    for (i, factor) in factors.iter().enumerate() {
        let wavelength = std::f64::consts::TAU * 500_000f64.powf(2.0 * i as f64 / 128.0);
        let expected = if wavelength < 8192.0 / 4.0 {
            1.0
        } else if wavelength > 8192.0 {
            8.0
        } else {
            let smooth = (8192.0 / wavelength - 1.0) / (4.0 - 1.0);
            1.0 / ((1.0 - smooth) / 8.0 + smooth)
        };
        assert!((f64::from(*factor) - expected).abs() <= expected * 4.0 * F32_ROUNDING, "pair {i}: {factor}");
    }
    let table = rope::table(&config(128, 500_000.0, RopeScaling::None), Some(&factors), 2000);
    check(
        "llama 3",
        &table,
        &reference::divided_frequencies(128, 500_000.0, &reference::widen(&factors)),
        1.0,
    );
}

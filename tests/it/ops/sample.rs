//! Choosing a token: exact for argmax, by the interval of the draw for sampling.

use kernels_gpu::launch::{Device, Grid, Purpose};
use kernels_gpu::sample::{
    STATUS_NAN, STATUS_NO_CANDIDATE, advance, argmax_f32, softmax_sample_f32, uniform,
};
use testkit::compare::{F32_ROUNDING, gamma};
use testkit::data::Rng;
use testkit::reference::{self, widen};

fn argmax<D: Device>(device: &D, logits: &[f32]) -> (u32, u32) {
    let mut token = device.alloc::<u32>(1, Purpose::Other).unwrap();
    let mut status = device.alloc::<u32>(1, Purpose::Other).unwrap();
    let device_logits = device.upload(logits, Purpose::Activations).unwrap();
    let n_vocab = logits.len() as u32;
    device
        .launch(
            argmax_f32 { token: &mut token, status: &mut status, logits: &device_logits, n_vocab },
            Grid::x(1),
        )
        .unwrap();
    (device.download(&token).unwrap()[0], device.download(&status).unwrap()[0])
}

fn sample<D: Device>(device: &D, logits: &[f32], temperature: f32, seed: u64, position: u32) -> (u32, u32) {
    let mut token = device.alloc::<u32>(1, Purpose::Other).unwrap();
    let mut status = device.alloc::<u32>(1, Purpose::Other).unwrap();
    let device_logits = device.upload(logits, Purpose::Activations).unwrap();
    let positions = device.upload(&[position], Purpose::Other).unwrap();
    let kernel = softmax_sample_f32 {
        token: &mut token,
        status: &mut status,
        logits: &device_logits,
        positions: &positions,
        n_vocab: logits.len() as u32,
        temperature,
        seed,
    };
    device.launch(kernel, Grid::x(1)).unwrap();
    (device.download(&token).unwrap()[0], device.download(&status).unwrap()[0])
}

#[test]
fn argmax_of_real_vocabularies() {
    for n_vocab in [1, 31, 1024, 1025, 151_936, 201_088] {
        let logits = Rng::new(n_vocab as u64).normal(n_vocab, 4.0);
        let expected = reference::argmax(&widen(&logits)).unwrap() as u32;
        on_every_device!(|device| assert_eq!(argmax(device, &logits), (expected, 0), "{n_vocab} tokens"));
    }
}

#[test]
fn argmax_first_last_and_negative() {
    let mut logits = vec![-5.0; 3000];
    for best in [0, 2999, 1500] {
        logits.fill(-5.0);
        logits[best] = -4.0;
        on_every_device!(|device| assert_eq!(argmax(device, &logits), (best as u32, 0)));
    }
}

#[test]
fn lowest_index_wins_a_tie() {
    let mut logits = vec![0.0; 5000];
    for i in [4097, 33, 4999, 1057] {
        logits[i] = 2.5;
    }
    on_every_device!(|device| assert_eq!(argmax(device, &logits), (33, 0)));
}

#[test]
fn nan_and_nothing_to_choose_are_told() {
    let mut logits = vec![1.0; 2000];
    logits[1999] = f32::NAN;
    on_every_device!(|device| {
        assert_eq!(argmax(device, &logits).1, STATUS_NAN);
        assert_eq!(sample(device, &logits, 1.0, 1, 1).1, STATUS_NAN);
        assert_eq!(argmax(device, &[f32::NEG_INFINITY; 40]).1, STATUS_NO_CANDIDATE);
        assert_eq!(sample(device, &[f32::NEG_INFINITY; 40], 1.0, 1, 1).1, STATUS_NO_CANDIDATE);
    });
}

/// The drawn token's interval, widened by what rounding can move its ends, must hold the uniform number.
///
/// Ends are sums of at most n_vocab weights over their total: chains of 32 additions in a lane, 5 in a warp and one for
/// each segment of 1024 and each row of 32; each weight is off by 2 + 1.2·|x| ulp and x itself by two roundings.
fn assert_drawn(logits: &[f32], temperature: f32, drawn: u32, u: f32) {
    let logits = widen(logits);
    let interval = reference::sample_interval(&logits, f64::from(temperature), drawn as usize);
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let min = logits.iter().copied().filter(|l| l.is_finite()).fold(f64::INFINITY, f64::min);
    let spread = (max - min) / f64::from(temperature);
    let weight = 2.0 * F32_ROUNDING * (2.0 + (1.2 + 2.0) * spread);
    let slack = 2.0 * (weight + gamma(32 + 5 + 5 + 32 + logits.len().div_ceil(1024)));
    let u = f64::from(u);
    assert!(
        interval.start - slack <= u && u < interval.end + slack,
        "token {drawn} owns {interval:?} ± {slack:e}, but {u} was drawn"
    );
}

#[test]
fn draws_follow_the_uniform_number() {
    for (n_vocab, temperature) in [(3, 1.0), (320, 0.5), (1024, 2.0), (5000, 1.0), (151_936, 0.8)] {
        let logits = Rng::new(6).normal(n_vocab, 2.0);
        for position in [0, 1, 2, 1000] {
            on_every_device!(|device| {
                let (token, status) = sample(device, &logits, temperature, 42, position);
                assert_eq!(status, 0);
                assert_drawn(&logits, temperature, token, uniform(42, position));
            });
        }
    }
}

#[test]
fn impossible_tokens_are_never_drawn() {
    let mut logits = vec![f32::NEG_INFINITY; 4000];
    logits[1234] = -3.0;
    logits[3999] = -200.0; // its weight is zero in f32
    on_every_device!(|device| {
        for position in 0..8 {
            assert_eq!(sample(device, &logits, 1.0, 7, position), (1234, 0));
        }
    });
}

#[test]
fn uniform_numbers_are_uniform() {
    let n = 100_000;
    let numbers: Vec<f64> = (0..n).map(|i| f64::from(uniform(9, i))).collect();
    assert!(numbers.iter().all(|u| (0.0..1.0).contains(u)));
    // The mean of n uniform numbers has a standard deviation of 1 / sqrt(12 n): five of them.
    let mean = numbers.iter().sum::<f64>() / f64::from(n);
    assert!((mean - 0.5).abs() < 5.0 / (12.0 * f64::from(n)).sqrt(), "mean {mean}");
    // Sixteen bins: each count is binomial; five standard deviations.
    let expected = f64::from(n) / 16.0;
    for bin in 0..16 {
        let count = numbers.iter().filter(|&&u| (u * 16.0) as usize == bin).count() as f64;
        assert!((count - expected).abs() < 5.0 * (expected * 15.0 / 16.0).sqrt(), "bin {bin}: {count}");
    }
}

#[test]
fn advance_moves_token_and_position() {
    on_every_device!(|device| {
        let mut tokens = device.upload(&[5u32], Purpose::Other).unwrap();
        let mut positions = device.upload(&[65_535u32], Purpose::Other).unwrap();
        let sampled = device.upload(&[77u32], Purpose::Other).unwrap();
        let kernel = advance { tokens: &mut tokens, positions: &mut positions, sampled: &sampled };
        device.launch(kernel, Grid::x(1)).unwrap();
        assert_eq!(device.download(&tokens).unwrap(), [77]);
        assert_eq!(device.download(&positions).unwrap(), [65_536]);
    });
}

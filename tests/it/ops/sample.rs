//! Choosing a token: exact for argmax; for the chain, the token that the f64 reference draws with the same random number.

use kernels_gpu::launch::{Device, Grid, Purpose};
use kernels_gpu::sample::*;
use kernels_gpu::simt::emulator::Emulator;
use testkit::compare::F32_ROUNDING;
use testkit::data::Rng;
use testkit::reference::{self, widen};
use testkit::sampling::{self, Distribution, Slack};

/// The token and the status; the token must also be the input of the next step.
fn argmax<D: Device>(device: &D, logits: &[f32]) -> [u32; 2] {
    let n_blocks = argmax_blocks(logits.len());
    let mut bests = device.alloc::<u32>(2 * n_blocks, Purpose::Other).unwrap();
    let mut chosen = device.alloc::<u32>(2, Purpose::Other).unwrap();
    let mut tokens = device.alloc::<u32>(1, Purpose::Other).unwrap();
    let mut positions = device.upload(&[65_535u32], Purpose::Other).unwrap();
    let device_logits = device.upload(logits, Purpose::Activations).unwrap();
    let first = argmax_slices_f32 { bests: &mut bests, logits: &device_logits, n_vocab: logits.len() as u32 };
    device.launch(first, Grid::x(n_blocks as u32)).unwrap();
    let second = argmax_f32 {
        chosen: &mut chosen,
        tokens: &mut tokens,
        positions: &mut positions,
        bests: &bests,
        n_blocks: n_blocks as u32,
    };
    device.launch(second, Grid::x(1)).unwrap();
    let chosen = device.download(&chosen).unwrap();
    assert_eq!(device.download(&tokens).unwrap(), [chosen[0]]);
    assert_eq!(device.download(&positions).unwrap(), [65_536]);
    [chosen[0], chosen[1]]
}

/// A sequence whose next token is to be drawn.
struct Sequence {
    chain: sampling::Chain,
    logits: Vec<f32>,
    history: Vec<u32>,
    seed: u64,
    draw_offset: u32,
}

/// Every stage off but temperature 1.
const PLAIN: sampling::Chain = sampling::Chain {
    repeat_penalty: 1.0,
    frequency_penalty: 0.0,
    presence_penalty: 0.0,
    n_recent: 0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    temperature: 1.0,
};

impl Sequence {
    fn new(chain: sampling::Chain, logits: &[f32], seed: u64) -> Self {
        Sequence { chain, logits: logits.to_vec(), history: vec![0], seed, draw_offset: 0 }
    }

    /// The same, to be drawn with a random number in a range.
    fn with_unit(mut self, range: std::ops::Range<f64>) -> Self {
        while !range.contains(&self.unit()) {
            self.draw_offset += 1;
        }
        self
    }

    fn kernel_chain(&self) -> Chain {
        let chain = &self.chain;
        let options = Chain {
            repeat_penalty: chain.repeat_penalty,
            frequency_penalty: chain.frequency_penalty,
            presence_penalty: chain.presence_penalty,
            n_recent: chain.n_recent as u32,
            top_k: chain.top_k as u32,
            top_p: chain.top_p,
            draw_offset: self.draw_offset,
            ..Chain::plain(self.seed)
        };
        options.with_min_p(chain.min_p).with_temperature(chain.temperature)
    }

    /// The random number that draws the next token.
    fn unit(&self) -> f64 {
        let n = (self.history.len() as u32).wrapping_add(self.draw_offset);
        random::unit(random::key(self.seed), u64::from(n))
    }

    /// Who may be drawn.
    ///
    /// A weight is 2^x with x relative to the slice's largest logit, times the slice's factor, both from a difference, a
    /// scale and their product: 3 roundings of x, and 1 of the constant log₂ e. Two fast powers are 2 ulp each, that is 4
    /// roundings; a row's sum and its product with the factor are rounded. Whole multiples of 2⁻³⁹ cut off one unit for
    /// each token and each slice. A sum and the total, which is 1 at least, are both off by that much.
    fn distribution(&self) -> Distribution {
        let cut_off = 2.0 * self.logits.len() as f64 * (-39f64).exp2();
        let slack = Slack {
            sum: 2.0 * ((2.0 * 4.0 + 2.0) * F32_ROUNDING + cut_off),
            per_exponent: 2.0 * 4.0 * F32_ROUNDING,
            // The logarithm of min-p is rounded, and the distance that it is compared with.
            logit: 2.0 * F32_ROUNDING * f64::from(self.chain.min_p).ln().abs(),
        };
        sampling::distribution(&self.chain, &self.logits, &self.history, slack)
    }
}

/// Runs the chain on sequences with vocabularies of one size, and returns each one's token and status.
fn draw<D: Device>(device: &D, sequences: &[Sequence]) -> Vec<[u32; 2]> {
    let n_sequences = sequences.len();
    let n_vocab = sequences[0].logits.len();
    let n_ctx = sequences.iter().map(|sequence| sequence.history.len()).max().unwrap() + 1;
    let logits: Vec<f32> = sequences.iter().flat_map(|sequence| sequence.logits.iter().copied()).collect();
    let chains: Vec<u32> = sequences.iter().flat_map(|sequence| sequence.kernel_chain().words()).collect();
    let positions: Vec<u32> = sequences.iter().map(|sequence| sequence.history.len() as u32 - 1).collect();
    let mut history = vec![u32::MAX; n_sequences * n_ctx];
    for (row, sequence) in history.chunks_mut(n_ctx).zip(sequences) {
        row[..sequence.history.len()].copy_from_slice(&sequence.history);
    }

    let mut slices = device.alloc(slices_words(n_vocab, n_sequences), Purpose::Other).unwrap();
    let mut chosen = device.alloc(2 * n_sequences, Purpose::Other).unwrap();
    let mut tokens = device.alloc(n_sequences, Purpose::Other).unwrap();
    let logits = device.upload(&logits, Purpose::Activations).unwrap();
    let chains = device.upload(&chains, Purpose::Other).unwrap();
    let mut device_positions = device.upload(&positions, Purpose::Other).unwrap();
    let mut device_history = device.upload(&history, Purpose::Other).unwrap();
    let n_slices = slices_blocks(n_vocab) as u32;
    let first = sample_slices_f32 {
        slices: &mut slices,
        logits: &logits,
        chains: &chains,
        history: &device_history,
        positions: &device_positions,
        n_vocab: n_vocab as u32,
        n_ctx: n_ctx as u32,
    };
    device.launch(first, Grid::xy(n_slices, n_sequences as u32)).unwrap();
    let second = sample_draw_f32 {
        chosen: &mut chosen,
        tokens: &mut tokens,
        positions: &mut device_positions,
        history: &mut device_history,
        slices: &slices,
        chains: &chains,
        n_slices,
        n_ctx: n_ctx as u32,
    };
    device.launch(second, Grid::xy(1, n_sequences as u32)).unwrap();

    let chosen: Vec<[u32; 2]> =
        device.download(&chosen).unwrap().chunks(2).map(|pair| [pair[0], pair[1]]).collect();
    // The token is the input of the next step, at the next position.
    let drawn: Vec<u32> = chosen.iter().map(|pair| pair[0]).collect();
    assert_eq!(device.download(&tokens).unwrap(), drawn);
    let next: Vec<u32> = positions.iter().map(|position| position + 1).collect();
    assert_eq!(device.download(&device_positions).unwrap(), next);
    for ((row, sequence), &token) in history.chunks_mut(n_ctx).zip(sequences).zip(&drawn) {
        row[sequence.history.len()] = token;
    }
    assert_eq!(device.download(&device_history).unwrap(), history);
    chosen
}

/// Draws, and checks that every token is the reference's or, where the random number lies so near to the border between
/// two that rounding decides, one of them. Returns how many draws rounding does not decide.
#[track_caller]
fn check<D: Device>(device: &D, sequences: &[Sequence]) -> usize {
    let mut n_certain = 0;
    for (sequence, [token, status]) in sequences.iter().zip(draw(device, sequences)) {
        let (distribution, unit) = (sequence.distribution(), sequence.unit());
        let certain = distribution.certain(unit);
        assert!(
            status == 0 && distribution.may_be(token, unit) && certain.is_none_or(|id| id == token),
            "{unit} drew {token}, status {status}, for certain it is {certain:?}: {:?} of {} logits",
            sequence.chain,
            sequence.logits.len(),
        );
        n_certain += usize::from(certain.is_some());
    }
    n_certain
}

/// Logits like a model's: most are far below a few dozen.
fn peaked(n_vocab: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    let mut logits = rng.normal(n_vocab, 2.0);
    for token in rng.tokens(60, n_vocab) {
        logits[token as usize] += 12.0;
    }
    logits
}

#[test]
fn argmax_of_real_vocabularies() {
    for n_vocab in [1, 31, 1023, 1024, 1025, 151_936, 270_001] {
        let logits = Rng::new(n_vocab as u64).normal(n_vocab, 4.0);
        let expected = reference::argmax(&widen(&logits)).unwrap() as u32;
        on_every_device!(|device| assert_eq!(argmax(device, &logits), [expected, 0], "{n_vocab} tokens"));
    }
}

#[test]
fn argmax_first_last_and_negative() {
    let mut logits = vec![-5.0; 3000];
    for best in [0, 2999, 1500] {
        logits.fill(-5.0);
        logits[best] = -4.0;
        on_every_device!(|device| assert_eq!(argmax(device, &logits), [best as u32, 0]));
    }
}

#[test]
fn lowest_index_wins_a_tie() {
    let mut logits = vec![0.0; 5000];
    for i in [4097, 33, 4999, 1057] {
        logits[i] = 2.5;
    }
    on_every_device!(|device| assert_eq!(argmax(device, &logits), [33, 0]));
}

#[test]
fn nan_and_nothing_to_choose_are_told() {
    let mut logits = vec![1.0; 3000];
    for bad in [f32::NAN, f32::INFINITY] {
        logits[2999] = bad;
        // A penalty makes no number of what is none.
        let chain = sampling::Chain { repeat_penalty: 2.0, n_recent: 9, ..PLAIN };
        let sequence = Sequence { history: vec![2999], ..Sequence::new(chain, &logits, 1) };
        on_every_device!(|device| {
            assert_eq!(argmax(device, &logits), [0, STATUS_NAN]);
            assert_eq!(draw(device, std::slice::from_ref(&sequence)), [[0, STATUS_NAN]]);
        });
    }
    let nothing = [f32::NEG_INFINITY; 40];
    on_every_device!(|device| {
        assert_eq!(argmax(device, &nothing), [0, STATUS_NO_CANDIDATE]);
        let sequences = [Sequence::new(PLAIN, &nothing, 1), Sequence::new(PLAIN, &[0.0; 40], 1)];
        let found = draw(device, &sequences);
        assert_eq!((found[0], found[1][1]), ([0, STATUS_NO_CANDIDATE], 0));
    });
}

/// Every stage alone and all together.
fn chains() -> Vec<sampling::Chain> {
    vec![
        PLAIN,
        sampling::Chain { temperature: 0.5, ..PLAIN },
        sampling::Chain { temperature: 2.0, ..PLAIN },
        sampling::Chain { top_k: 1, ..PLAIN },
        sampling::Chain { top_k: 7, ..PLAIN },
        sampling::Chain { top_k: 3000, ..PLAIN },
        sampling::Chain { top_k: usize::MAX, ..PLAIN },
        sampling::Chain { top_p: 0.0, ..PLAIN },
        sampling::Chain { top_p: 0.5, ..PLAIN },
        sampling::Chain { top_p: 0.999, ..PLAIN },
        sampling::Chain { min_p: 0.1, ..PLAIN },
        sampling::Chain { min_p: 1.0, ..PLAIN },
        sampling::Chain { top_k: 40, top_p: 0.95, min_p: 0.05, temperature: 0.8, ..PLAIN },
        sampling::Chain { top_k: 4000, top_p: 0.9, ..PLAIN },
        sampling::Chain { repeat_penalty: 1.5, n_recent: 4, top_p: 0.9, ..PLAIN },
        sampling::Chain { frequency_penalty: 0.7, presence_penalty: 0.3, n_recent: 100, ..PLAIN },
    ]
}

#[test]
fn each_stage_of_small_and_odd_vocabularies() {
    for n_vocab in [1, 2, 51, 2048, 2049, 5003] {
        let sequences: Vec<Sequence> = chains()
            .into_iter()
            .zip(0..)
            .map(|(chain, seed)| Sequence {
                history: Rng::new(seed).tokens(5, n_vocab),
                ..Sequence::new(chain, &peaked(n_vocab, 100 + seed), seed)
            })
            .collect();
        on_every_device!(|device| {
            let n_certain = check(device, &sequences);
            assert!(n_certain + 1 >= sequences.len(), "{n_certain} of {} are certain", sequences.len());
        });
    }
}

#[test]
fn default_chain_and_nucleus_of_real_vocabularies() {
    for n_vocab in [32_064, 151_936, 201_088] {
        let logits = peaked(n_vocab, n_vocab as u64);
        let default = sampling::Chain { top_k: 40, top_p: 0.95, min_p: 0.05, temperature: 0.8, ..PLAIN };
        let nucleus = sampling::Chain { top_p: 0.6, ..PLAIN };
        let seed = n_vocab as u64;
        let sequences = [Sequence::new(default, &logits, seed), Sequence::new(nucleus, &logits, seed)];
        let sequences = if n_vocab == 151_936 { &sequences[..] } else { &sequences[..1] };
        on_every_device!(|device| {
            assert_eq!(check(device, sequences), sequences.len(), "{n_vocab} tokens");
        });
    }
}
/// The last token that is left is the one drawn with the largest random numbers, the first one with the least.
#[track_caller]
fn check_ends(chain: sampling::Chain, logits: &[f32], expected: [u32; 2]) {
    for (id, range) in expected.into_iter().zip([1e-5..2e-5, 1.0 - 2e-5..1.0 - 1e-5]) {
        let sequence = [Sequence::new(chain.clone(), logits, 3).with_unit(range)];
        let certain = sequence[0].distribution().certain(sequence[0].unit());
        assert_eq!(certain, Some(id), "the test's own reference: {chain:?}");
        on_every_device!(|device| assert_eq!(draw(device, &sequence), [[id, 0]], "{chain:?}"));
    }
}

#[test]
fn of_equals_at_a_border_the_lowest_ids_stay() {
    let mut logits = vec![-3.0; 6000];
    logits[1000..5000].fill(1.5);
    logits[5500] = 2.0;
    // More equals than the list in shared memory holds, in four slices.
    check_ends(sampling::Chain { top_k: 3001, ..PLAIN }, &logits, [1000, 5500]);
    check_ends(sampling::Chain { top_k: 5, ..PLAIN }, &logits, [1000, 5500]);
    logits[5500] = 1.5;
    check_ends(sampling::Chain { top_k: 3001, ..PLAIN }, &logits, [1000, 4000]);
    check_ends(sampling::Chain { top_k: 5, ..PLAIN }, &logits, [1000, 1004]);
    check_ends(sampling::Chain { top_k: 4001, ..PLAIN }, &logits, [1000, 5500]);
    // Equal weights: half of 4001 is reached by the 2001st.
    logits[0..1000].fill(f32::NEG_INFINITY);
    logits[5000..].fill(f32::NEG_INFINITY);
    check_ends(sampling::Chain { top_p: 0.5001, ..PLAIN }, &logits, [1000, 3000]);
    check_ends(sampling::Chain { top_k: 2000, top_p: 0.5001, ..PLAIN }, &logits, [1000, 2000]);
    check_ends(sampling::Chain { top_k: 3000, top_p: 0.5001, ..PLAIN }, &logits, [1000, 2500]);
    // Min-p keeps all equals of the best.
    check_ends(sampling::Chain { min_p: 1.0, ..PLAIN }, &logits, [1000, 4999]);
    check_ends(sampling::Chain { top_k: 1, ..PLAIN }, &[-0.0, 0.0, -0.0], [0, 0]);
}

/// One slice has nearly all of the best: among the largest logits of the slices the border lies far too low.
#[test]
fn the_best_in_one_slice() {
    let mut logits = vec![-3.0; 3 * SLICE];
    logits[2] = 1.0;
    for n_best in [200, 400] {
        logits[SLICE + 100..SLICE + 100 + n_best].fill(1.5);
        for top_k in [2, 3] {
            let last = SLICE + 100 + top_k - 1;
            let chain = sampling::Chain { top_k, ..PLAIN };
            check_ends(chain, &logits, [SLICE as u32 + 100, last as u32]);
        }
        let chain = sampling::Chain { top_k: 3, top_p: 0.5, ..PLAIN };
        check_ends(chain, &logits, [SLICE as u32 + 100, SLICE as u32 + 101]);
    }
}

#[test]
fn flat_logits_of_a_large_vocabulary() {
    let n_vocab = 40_003;
    let logits = Rng::new(4).normal(n_vocab, 0.5);
    let sequences: Vec<Sequence> = [
        PLAIN,
        sampling::Chain { temperature: 2.0, ..PLAIN },
        sampling::Chain { top_k: 30_000, ..PLAIN },
        sampling::Chain { top_p: 0.9, ..PLAIN },
        sampling::Chain { top_k: 20_000, top_p: 0.99, temperature: 0.7, ..PLAIN },
        sampling::Chain { min_p: 0.05, ..PLAIN },
    ]
    .into_iter()
    .zip(20..)
    .map(|(chain, seed)| Sequence::new(chain, &logits, seed))
    .collect();
    on_every_device!(|device| check(device, &sequences));
}

/// The sums of bins, of slices and of tokens are rounded each in their own way. Where top-k leaves whole bins and top-p
/// nearly all of that, the border of top-p may seem to lie in the next bin, of which nothing is left.
#[test]
fn top_p_of_nearly_one_keeps_what_top_k_left() {
    let sequence = |seed| {
        // Equals within each bin.
        let mut logits: Vec<f32> =
            Rng::new(seed).normal(4096, 0.8).iter().map(|logit| (logit * 8.0).round() / 8.0).collect();
        // One slice has nearly all the weight, and so the sum one rounding.
        logits[..50].iter_mut().for_each(|logit| *logit += 9.0);
        let top_k = logits.iter().filter(|&&logit| logit >= -0.25).count();
        let chain = sampling::Chain { top_k, top_p: 1.0f32.next_down(), ..PLAIN };
        Sequence::new(chain, &logits, seed).with_unit(0.99..1.0)
    };
    let sequences: Vec<Sequence> = (0..128).map(sequence).collect();
    assert!(sequences.iter().all(|sequence| sequence.chain.top_k > SLICE), "the list has no room for them");
    on_every_device!(|device| check(device, &sequences));
}

#[test]
fn extreme_logits() {
    // Far below the others, in the last bin; a slice without any.
    let mut logits = vec![f32::NEG_INFINITY; 5000];
    logits[1234] = -3.0;
    logits[4999] = -200.0;
    logits[4900] = -100.0;
    check_ends(PLAIN, &logits, [1234, 1234]);
    check_ends(sampling::Chain { top_k: 2, ..PLAIN }, &logits, [1234, 1234]);
    check_ends(sampling::Chain { top_p: 0.9999, ..PLAIN }, &logits, [1234, 1234]);
    check_ends(PLAIN, &[f32::MAX, f32::MIN, 0.0, f32::MAX], [0, 3]);
    check_ends(PLAIN, &[1e4, 1e4 - 1.0, -1e4], [0, 1]);
    check_ends(PLAIN, &[f32::MIN, f32::NEG_INFINITY], [0, 0]);
    check_ends(sampling::Chain { temperature: 1e-30, ..PLAIN }, &[1.0, 1.000_001, f32::MIN], [1, 1]);
    // A penalty neither overflows nor divides by rounding up.
    let chain = sampling::Chain { repeat_penalty: 0.01, n_recent: 1, ..PLAIN };
    check_ends(chain, &[f32::MAX, 0.0], [0, 0]);
}

#[test]
fn penalties_reach_as_far_as_the_window() {
    let n_vocab = 4100;
    let mut logits = vec![-9.0; n_vocab];
    (logits[0], logits[2047], logits[2048], logits[4099]) = (4.0, 3.5, 3.0, 2.5);
    let greedy = sampling::Chain { repeat_penalty: 2.0, top_k: 1, ..PLAIN };
    let history = [&[0; 3][..], &[2048; 600], &[2047]].concat();
    let penalised = |n_recent, chain: &sampling::Chain| Sequence {
        history: history.clone(),
        ..Sequence::new(sampling::Chain { n_recent, ..chain.clone() }, &logits, 1)
    };
    let counted = sampling::Chain { repeat_penalty: 1.0, presence_penalty: 0.5, ..greedy.clone() };
    let often = sampling::Chain { frequency_penalty: 0.01, ..counted.clone() };
    let sequences = [
        penalised(0, &greedy),
        penalised(1, &greedy),
        penalised(601, &greedy),
        penalised(602, &greedy),
        penalised(usize::from(u16::MAX), &greedy),
        penalised(604, &counted),
        penalised(604, &often),
    ];
    let expected = [0, 0, 0, 4099, 4099, 0, 0].map(|token| [token, 0]);
    on_every_device!(|device| {
        assert_eq!(check(device, &sequences), sequences.len());
        assert_eq!(draw(device, &sequences), expected);
    });
}

/// Many sequences at once, each with its own stages, penalties and random number.
#[test]
fn every_draw_is_the_reference_s() {
    let n_vocab = 3000;
    let mut rng = Rng::new(77);
    let mut random_sequence = |seed| {
        let mut choose = |values: &[f32]| values[rng.below(values.len() as u32) as usize];
        let chain = sampling::Chain {
            repeat_penalty: choose(&[1.0, 1.1, 2.0]),
            frequency_penalty: choose(&[0.0, 0.0, 0.4]),
            presence_penalty: choose(&[0.0, 0.0, -0.6]),
            n_recent: choose(&[0.0, 8.0, 64.0]) as usize,
            top_k: choose(&[0.0, 3.0, 40.0, 2100.0]) as usize,
            top_p: choose(&[1.0, 0.95, 0.7]),
            min_p: choose(&[0.0, 0.05, 0.2]),
            temperature: choose(&[0.3, 0.8, 1.0, 1.7]),
        };
        let logits = peaked(n_vocab, seed);
        let likely = (0..n_vocab as u32).filter(|&id| logits[id as usize] > 8.0);
        Sequence { history: likely.collect(), ..Sequence::new(chain, &logits, seed) }
    };
    let sequences: Vec<Sequence> = (0..64).map(&mut random_sequence).collect();
    on_every_device!(|device| {
        let n_certain = check(device, &sequences);
        // A random number is as near to a border as rounding with a chance of some 10⁻³; without top-k and top-p the
        // borders of a thousand unlikely tokens count too.
        assert!(n_certain >= 60, "rounding decides {} of 64 draws", 64 - n_certain);
    });
}

#[test]
fn neither_the_order_of_blocks_nor_of_threads_matters() {
    let logits = [Rng::new(8).normal(6000, 0.3), peaked(6000, 8)];
    let chains = [
        sampling::Chain { top_k: 40, top_p: 0.95, ..PLAIN },
        sampling::Chain { top_k: 3000, ..PLAIN },
        sampling::Chain { top_p: 0.9, ..PLAIN },
    ];
    let sequences: Vec<Sequence> = chains
        .into_iter()
        .flat_map(|chain| [Sequence::new(chain.clone(), &logits[0], 9), Sequence::new(chain, &logits[1], 9)])
        .collect();
    let expected = draw(&Emulator::checked(), &sequences);
    for seed in 1..3 {
        assert_eq!(draw(&Emulator::checked().with_seed(seed).with_workers(2), &sequences), expected);
    }
    if let Some(gpu) = crate::cuda::gpu() {
        let first = draw(&gpu, &sequences);
        assert!((0..50).all(|_| draw(&gpu, &sequences) == first));
    }
}

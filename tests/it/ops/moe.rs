//! Mixtures of experts: choices and groups exactly, weights and sums within their bounds.

use kernels_gpu::launch::{Device, Grid, Purpose};
use kernels_gpu::moe::*;
use testkit::compare::{F32_SMALLEST_NORMAL, assert_same_bits, assert_within, dot_bound, gamma};
use testkit::data::Rng;
use testkit::reference::moe::{self as reference, Groups, Shares};
use testkit::reference::widen;

/// Experts and weights of each token.
fn route<D: Device>(
    device: &D,
    logits: &[f32],
    n_experts: usize,
    n_used: usize,
    over_all: bool,
) -> (Vec<u32>, Vec<f32>) {
    let n_tokens = logits.len() / n_experts;
    let mut experts = device.alloc::<u32>(n_tokens * n_used, Purpose::Activations).unwrap();
    let mut weights = device.alloc::<f32>(n_tokens * n_used, Purpose::Activations).unwrap();
    let device_logits = device.upload(logits, Purpose::Activations).unwrap();
    let kernel = moe_route_f32 {
        experts: &mut experts,
        weights: &mut weights,
        logits: &device_logits,
        n_tokens: n_tokens as u32,
        n_experts: n_experts as u32,
        n_used: n_used as u32,
        over_all: over_all.into(),
    };
    device.launch(kernel, Grid::x(moe_route_blocks(n_tokens) as u32)).unwrap();
    (device.download(&experts).unwrap(), device.download(&weights).unwrap())
}

/// A weight is e^(l − max) over a sum of such. The exponent's difference is rounded once and its error grows with its size
/// (and so the power's), e^x has 2 + 1.25·|x| units, each two roundings; the sum's terms have the same at most, and a chain
/// of 8 additions in a lane and 5 over the warp; the quotient has 2 units.
fn check_route<D: Device>(device: &D, logits: &[f32], n_experts: usize, n_used: usize, shares: Shares) {
    let (experts, weights) = route(device, logits, n_experts, n_used, shares == Shares::OfAll);
    let (mut expected_experts, mut expected, mut bounds) = (Vec::new(), Vec::new(), Vec::new());
    for logits in logits.chunks_exact(n_experts) {
        let logits = widen(logits);
        let (chosen, weights) = reference::route(&logits, n_used, shares);
        let max = logits[chosen[0] as usize];
        let distances = logits.iter().map(|l| max - l).filter(|distance| distance.is_finite());
        let power = |distance: f64| 4.0 + (2.5 + 1.0) * distance;
        let roundings = 2.0 * power(distances.fold(0.0, f64::max)) + 13.0 + 4.0;
        bounds.extend(weights.iter().map(|w| gamma(roundings.ceil() as usize) * w + F32_SMALLEST_NORMAL));
        expected_experts.extend(chosen);
        expected.extend(weights);
    }
    assert_eq!(experts, expected_experts, "{n_experts} experts, {n_used} used");
    let what = format!("weights, {n_used} of {n_experts} experts, shares {shares:?}");
    assert_within(&what, &weights, &expected, &[logits.len() / n_experts, n_used], |i| bounds[i]);
}

fn check_routes(n_tokens: usize, n_experts: usize, n_used: usize) {
    let logits = Rng::new(n_experts as u64).normal(n_tokens * n_experts, 3.0);
    for shares in [Shares::OfChosen, Shares::OfAllRenormalised, Shares::OfAll] {
        on_every_device!(|device| check_route(device, &logits, n_experts, n_used, shares));
    }
}

#[test]
fn routes_of_one_token() {
    check_routes(1, 32, 4);
}

#[test]
fn routes_of_real_models() {
    check_routes(7, 8, 2); // Mixtral
    check_routes(9, 32, 4); // gpt-oss-20b
    check_routes(5, 128, 8); // Qwen3-30B-A3B
}

#[test]
fn routes_of_a_thousand_tokens() {
    check_routes(1000, 32, 4);
}

#[test]
fn routes_where_experts_fill_no_warp() {
    check_routes(3, 6, 4);
    check_routes(3, 33, 3);
    check_routes(5, 60, 4);
}

#[test]
fn routes_at_the_limits() {
    check_routes(2, MAX_EXPERTS, MAX_USED);
    check_routes(2, MAX_USED, MAX_USED);
    check_routes(3, 1, 1);
}

/// Equal logits in one lane and in several, and all equal.
#[test]
fn lowest_experts_win_ties() {
    let mut logits = vec![-1.0; 100];
    for expert in [97, 65, 33, 34, 2] {
        logits[expert] = 2.5;
    }
    on_every_device!(|device| {
        check_route(device, &logits, 100, 4, Shares::OfChosen);
        assert_eq!(route(device, &logits, 100, 4, false).0, [2, 33, 34, 65]);
        check_route(device, &[0.5; 40], 40, 8, Shares::OfAll);
    });
}

/// Experts that a model rules out: chosen only where nothing else is left, with a weight of zero.
#[test]
fn impossible_experts_have_no_weight() {
    let mut logits = vec![f32::NEG_INFINITY; 64];
    (logits[50], logits[40]) = (1.0, 0.0);
    on_every_device!(|device| {
        for shares in [Shares::OfChosen, Shares::OfAll] {
            check_route(device, &logits, 64, 4, shares);
        }
        let (experts, weights) = route(device, &logits, 64, 4, false);
        assert_eq!((experts, &weights[2..]), (vec![50, 40, 0, 1], &[0.0, 0.0][..]));
    });
}

/// Where no softmax has an answer weights say so, experts stay experts, and other tokens do not notice.
#[test]
fn nan_and_nothing_to_choose_are_told() {
    let good: Vec<f32> = (0..40).map(|i| i as f32 / 8.0).collect();
    let with = |expert: usize, value: f32| {
        let mut logits = good.clone();
        logits[expert] = value;
        logits
    };
    let bad = [with(3, f32::NAN), with(39, f32::INFINITY), vec![f32::NEG_INFINITY; 40], vec![f32::NAN; 40]];
    for bad in bad {
        let logits = [&good[..], &bad, &good].concat();
        on_every_device!(|device| {
            let (experts, weights) = route(device, &logits, 40, 4, false);
            let mut of_bad = experts[4..8].to_vec();
            of_bad.sort_unstable();
            of_bad.dedup();
            assert!(of_bad.len() == 4 && of_bad[3] < 40, "experts {:?}", &experts[4..8]);
            assert!(weights[4..8].iter().all(|w| w.is_nan()), "weights {weights:?}");
            assert_eq!((&experts[..4], &experts[8..]), (&[39, 38, 37, 36][..], &[39, 38, 37, 36][..]));
            assert!(weights[..4].iter().chain(&weights[8..]).all(|w| (0.0..1.0).contains(w)), "{weights:?}");
        });
    }
}

/// The lists of [`moe_group`], and whether they agree with each other.
fn group<D: Device>(device: &D, experts: &[u32], n_experts: usize) -> (Groups, Vec<u32>, Vec<u32>) {
    let n = experts.len();
    let mut offsets = device.alloc::<u32>(n_experts + 1, Purpose::Activations).unwrap();
    let mut rows = device.alloc::<u32>(n, Purpose::Activations).unwrap();
    let mut places = device.alloc::<u32>(n, Purpose::Activations).unwrap();
    let mut row_experts = device.alloc::<u32>(n, Purpose::Activations).unwrap();
    let device_experts = device.upload(experts, Purpose::Activations).unwrap();
    let kernel = moe_group {
        offsets: &mut offsets,
        rows: &mut rows,
        places: &mut places,
        row_experts: &mut row_experts,
        experts: &device_experts,
        n_assigned: n as u32,
    };
    device.launch(kernel, Grid::x(n_experts as u32)).unwrap();
    let download = |list| device.download(list).unwrap();
    let groups = Groups { offsets: download(&offsets), assignments: download(&rows) };
    (groups, download(&places), download(&row_experts))
}

fn check_groups(experts: &[u32], n_experts: usize) {
    let expected = reference::group(experts, n_experts);
    on_every_device!(|device| {
        let (groups, places, row_experts) = group(device, experts, n_experts);
        assert_eq!(groups, expected);
        for (place, &assignment) in groups.assignments.iter().enumerate() {
            assert_eq!(places[assignment as usize] as usize, place, "place of assignment {assignment}");
            assert_eq!(row_experts[place], experts[assignment as usize], "expert of place {place}");
        }
    });
}

/// Assignments as a router makes them.
fn random_experts(n_tokens: usize, n_experts: usize, n_used: usize) -> Vec<u32> {
    let mut rng = Rng::new(n_tokens as u64);
    let logits = rng.normal(n_tokens * n_experts, 1.0);
    let routes = logits.chunks(n_experts).map(|l| reference::route(&widen(l), n_used, Shares::OfChosen).0);
    routes.flatten().collect()
}

#[test]
fn groups_of_one_token() {
    check_groups(&random_experts(1, 32, 4), 32);
    check_groups(&[0], 1);
}

#[test]
fn groups_with_one_expert_for_all() {
    check_groups(&[5; 700], 8);
    check_groups(&[0; 33], 2);
    check_groups(&[1; 33], 2);
}

#[test]
fn groups_of_experts_without_tokens() {
    check_groups(&[6, 1, 1, 6, 1, 6], 8);
}

#[test]
fn groups_of_32_and_128_experts() {
    check_groups(&random_experts(100, 32, 4), 32);
    check_groups(&random_experts(37, 128, 8), 128);
}

/// More assignments than a block has threads, and stretches of several rounds whose last ones are cut or empty.
#[test]
fn groups_of_a_thousand_tokens() {
    check_groups(&random_experts(1000, 32, 4), 32);
    check_groups(&random_experts(130, 16, 4), 16);
    check_groups(&random_experts(257, 6, 2), 6);
}

/// A whole layer whose experts only add their biases: Σ_j w_j · (x + bias of expert j).
fn check_way_there_and_back<D: Device>(
    device: &D,
    n_tokens: usize,
    n_experts: usize,
    n_used: usize,
    dim: usize,
) {
    let mut rng = Rng::new(3);
    let (x, biases) = (rng.normal(n_tokens * dim, 1.0), rng.normal(n_experts * dim, 10.0));
    let logits = rng.normal(n_tokens * n_experts, 1.0);
    let (experts, weights) = route(device, &logits, n_experts, n_used, false);
    let (groups, places, row_experts) = group(device, &experts, n_experts);

    let n_rows = n_tokens * n_used;
    let upload = |list: &[u32]| device.upload(list, Purpose::Activations).unwrap();
    let (rows, places, row_experts) = (upload(&groups.assignments), upload(&places), upload(&row_experts));
    let device_x = device.upload(&x, Purpose::Activations).unwrap();
    let device_biases = device.upload(&biases, Purpose::Weights).unwrap();
    let device_weights = device.upload(&weights, Purpose::Activations).unwrap();
    let mut gathered = device.alloc::<f32>(n_rows * dim, Purpose::Activations).unwrap();
    let mut y = device.alloc::<f32>(n_tokens * dim, Purpose::Activations).unwrap();
    let (n_used_u32, dim_u32) = (n_used as u32, dim as u32);
    let grid = |n_rows: usize| Grid::xy(n_rows as u32, moe_row_blocks(dim) as u32);
    let gather =
        moe_gather_f32 { y: &mut gathered, x: &device_x, rows: &rows, n_used: n_used_u32, dim: dim_u32 };
    device.launch(gather, grid(n_rows)).unwrap();
    let copies: Vec<f32> = groups
        .assignments
        .iter()
        .flat_map(|&assignment| &x[assignment as usize / n_used * dim..][..dim])
        .copied()
        .collect();
    assert_same_bits("gather", &device.download(&gathered).unwrap(), &copies, &[n_rows, dim]);

    let bias = moe_bias_f32 { y: &mut gathered, bias: &device_biases, experts: &row_experts, dim: dim_u32 };
    device.launch(bias, grid(n_rows)).unwrap();
    let combine = moe_combine_f32 {
        y: &mut y,
        x: &gathered,
        places: &places,
        weights: &device_weights,
        n_used: n_used_u32,
        dim: dim_u32,
    };
    device.launch(combine, grid(n_tokens)).unwrap();

    // In the order of assignments; a sum is rounded once before it is weighed.
    let row = |assignment: usize| {
        let (x, bias) = (assignment / n_used * dim, experts[assignment] as usize * dim);
        (0..dim).map(move |i| (x + i, bias + i))
    };
    let results: Vec<f64> = (0..n_rows)
        .flat_map(row)
        .map(|(x_at, bias_at)| f64::from(x[x_at]) + f64::from(biases[bias_at]))
        .collect();
    let magnitudes: Vec<f64> = results.iter().map(|result| result.abs()).collect();
    let (mut expected, mut sums) = (vec![0.0; n_tokens * dim], vec![0.0; n_tokens * dim]);
    reference::combine(&mut expected, &results, &widen(&weights), n_used, dim);
    reference::combine(&mut sums, &magnitudes, &widen(&weights), n_used, dim);
    let found = device.download(&y).unwrap();
    let what = format!("{n_used} of {n_experts} experts, {n_tokens} × {dim}");
    assert_within(&what, &found, &expected, &[n_tokens, dim], |i| dot_bound(n_used + 1, sums[i]));
}

#[test]
fn there_and_back_with_one_token() {
    on_every_device!(|device| check_way_there_and_back(device, 1, 32, 4, 2880));
}

#[test]
fn there_and_back_with_many_tokens() {
    on_every_device!(|device| check_way_there_and_back(device, 67, 128, 8, 64));
    on_every_device!(|device| check_way_there_and_back(device, 5, 8, 2, 516));
}

#[test]
fn there_and_back_with_odd_widths() {
    on_every_device!(|device| check_way_there_and_back(device, 9, 6, 4, 171));
    on_every_device!(|device| check_way_there_and_back(device, 3, 4, 1, 1));
}

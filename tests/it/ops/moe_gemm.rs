//! Grouped rows times their experts' matrices on Hopper's tensor cores against the reference, by every plan.

use kernels_gpu::launch::{Device, Purpose};
use kernels_gpu::moe_gemm::plan::{MoeGemm, Plan, Shape};
use kernels_gpu::quant::MXFP4;
use kernels_gpu::quant::halves::WEIGHT_FACTOR;
use kernels_gpu::quant::layout::GpuLayout;
use kernels_gpu::simt::emulator::{Access, Emulator, View};
use testkit::compare::{F16_ROUNDING, F16_SUBNORMAL_ROUNDING, assert_within, dot_bound};
use testkit::data::{RandomBlock, Rng, packed, weights};
use testkit::reference::{moe as reference, widen};

use super::gemm_quant::{Activations, activations};

/// Experts' matrices in the GPU's layout, one after the other, and their values.
fn tensor<Q: RandomBlock + GpuLayout>(rng: &mut Rng, shape: Shape) -> (Vec<u8>, Vec<f64>) {
    let of_matrix = shape.n_rows * shape.n_cols / Q::ELEMENTS;
    let (blocks, values) = weights::<Q>(rng, shape.n_experts * of_matrix);
    let bytes = blocks.chunks(of_matrix).flat_map(|blocks| packed(blocks, shape.n_cols)).collect();
    (bytes, widen(&values))
}

fn launch<Q: MoeGemm, D: Device>(
    device: &D,
    plan: Plan,
    w: &[u8],
    x: &Activations,
    offsets: &[u32],
) -> Vec<f32> {
    let w = device.upload(w, Purpose::Weights).unwrap();
    let x_halves = device.upload(&x.halves, Purpose::Activations).unwrap();
    let x_scales = device.upload(&x.scales, Purpose::Activations).unwrap();
    let offsets = device.upload(offsets, Purpose::Activations).unwrap();
    let mut y = device.alloc(plan.shape.n_assigned * plan.shape.n_rows, Purpose::Activations).unwrap();
    plan.launch::<Q, D>(device, &mut y, &w, (&x_halves, &x_scales), &offsets).unwrap();
    device.download(&y).unwrap()
}

/// What the groups of so many rows each are: where they begin, and the expert of each row.
fn groups(counts: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let ends = counts.iter().scan(0, |end, count| {
        *end += count;
        Some(*end)
    });
    let of_rows = counts.iter().zip(0..).flat_map(|(&count, expert)| vec![expert; count as usize]);
    (std::iter::once(0).chain(ends).collect(), of_rows.collect())
}

/// Experts with so many rows each, times matrices of so many rows and columns. A weight times the factor is rounded to f16; the
/// tensor cores may cut off what they add, instead of rounding it: twice the error of each addition; and a scale, a power
/// of two, comes after.
fn check<Q: MoeGemm + GpuLayout + RandomBlock, D: Device>(
    device: &D,
    counts: &[u32],
    [n_rows, n_cols]: [usize; 2],
    (tile_tokens, n_multiprocessors): (u32, u32),
) {
    assert!(!Q::HAS_OFFSET, "an offset is rounded, too");
    let (offsets, experts) = groups(counts);
    let shape = Shape { n_assigned: experts.len(), n_experts: counts.len(), n_rows, n_cols };
    let plan = Plan::with(shape, tile_tokens, n_multiprocessors);
    let mut rng = Rng::new(19);
    let (bytes, w) = tensor::<Q>(&mut rng, shape);
    let x = activations(&mut rng, experts.len(), n_cols);
    let found = launch::<Q, D>(device, plan, &bytes, &x, &offsets);

    let linear = |w: &[f64], x: &[f64]| {
        let mut y = vec![0.0; experts.len() * n_rows];
        reference::linear(&mut y, w, x, &experts, 1, [n_rows, n_cols]);
        y
    };
    let magnitudes = |values: &[f64]| values.iter().map(|value| value.abs()).collect::<Vec<_>>();
    let subnormal = F16_SUBNORMAL_ROUNDING / f64::from(WEIGHT_FACTOR);
    let rounding: Vec<f64> = w.iter().map(|w| F16_ROUNDING * w.abs() + subnormal).collect();
    let (expected, x) = (linear(&w, &x.values), magnitudes(&x.values));
    let (weights_off, sums) = (linear(&rounding, &x), linear(&magnitudes(&w), &x));
    let bound = |i: usize| weights_off[i] + dot_bound(2 * n_cols + 1, sums[i] + weights_off[i]);
    assert_within(
        &format!("{} {plan}, {counts:?}", Q::NAME),
        &found,
        &expected,
        &[experts.len(), n_rows],
        bound,
    );
}

fn check_mxfp4(counts: &[u32], matrix: [usize; 2], how: (u32, u32)) {
    on_hopper!(|device| check::<MXFP4, _>(device, counts, matrix, how));
}

/// Experts without rows, with one, with a tile and with more; rows that end within a warp's 16, and a last unit of 32
/// columns; one cluster for all.
#[test]
fn experts_with_any_number_of_rows() {
    check_mxfp4(&[0, 70, 1, 0, 0, 64, 5, 0], [151, 160], (64, 2));
}

/// The same with wide tiles, and several clusters.
#[test]
fn wide_tiles() {
    check_mxfp4(&[3, 0, 129, 128], [260, 288], (128, 6));
    check_mxfp4(&[257, 2, 0], [20, 96], (256, 4));
}

/// More experts than a warp has lanes.
#[test]
fn seventy_experts() {
    let counts: Vec<u32> = (0..70).map(|expert| [2, 0, 0, 1, 0, 9, 0][expert % 7]).collect();
    check_mxfp4(&counts, [18, 64], (64, 8));
    let mut counts = vec![0; 256];
    (counts[0], counts[255]) = (1, 2);
    check_mxfp4(&counts, [4, 32], (64, 4));
}

/// The columns of gpt-oss, 22 units and a half.
#[test]
fn rows_of_2880() {
    check_mxfp4(&[2, 3], [16, 2880], (64, 2));
}

/// All rows to one expert: clusters that find nothing to do.
#[test]
fn one_expert_for_all() {
    check_mxfp4(&[0, 0, 9, 0], [40, 64], (128, 132));
    check_mxfp4(&[1], [1, 32], (256, 132));
}

/// The same bits whatever the order of blocks, warps and lanes.
#[test]
fn any_order_gives_the_same_bits() {
    let (offsets, _) = groups(&[5, 0, 66]);
    let shape = Shape { n_assigned: 71, n_experts: 3, n_rows: 136, n_cols: 160 };
    let plan = Plan::with(shape, 64, 4);
    let mut rng = Rng::new(3);
    let (w, x) = (tensor::<MXFP4>(&mut rng, shape).0, activations(&mut rng, 71, 160));
    let results = [0, 1, 2]
        .map(|seed| launch::<MXFP4, _>(&Emulator::checked().with_seed(seed), plan, &w, &x, &offsets));
    assert!(results[0] == results[1] && results[1] == results[2]);
}

/// Results leave in whole sectors.
#[test]
fn stores_are_whole_sectors() {
    let (offsets, _) = groups(&[64, 3]);
    let shape = Shape { n_assigned: 67, n_experts: 2, n_rows: 256, n_cols: 128 };
    let device = Emulator::checked().counting();
    let mut rng = Rng::new(5);
    let (w, x) = (tensor::<MXFP4>(&mut rng, shape).0, activations(&mut rng, 67, 128));
    launch::<MXFP4, _>(&device, Plan::with(shape, 64, 2), &w, &x, &offsets);
    let report = device.report().expect("a counting emulator reports");
    let of_y = report.sites.iter().filter(|s| s.view == View::Param("y") && s.access == Access::Write);
    assert_eq!(of_y.map(|site| site.transactions).sum::<u64>(), 67 * 256 * 4 / 32, "{report:#?}");
}

/// What the plan is for: gpt-oss-20b on 132 multiprocessors.
#[test]
fn plans() {
    let plan = |n_tokens: usize| {
        let shape = Shape { n_assigned: 4 * n_tokens, n_experts: 32, n_rows: 2880, n_cols: 2880 };
        Plan::new(shape, 132).tile_tokens
    };
    assert_eq!([17, 128, 512, 2048, 8192].map(plan), [64, 64, 128, 256, 256]);
}

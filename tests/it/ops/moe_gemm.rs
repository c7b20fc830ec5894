//! Grouped rows times their experts' matrices on Hopper's tensor cores against the reference, by every plan.

use kernels_gpu::launch::{Device, Purpose};
use kernels_gpu::moe_gemm::plan::{MoeGemm, Plan, Shape};
use kernels_gpu::quant::fragments::QuantFragments;
use kernels_gpu::quant::layout::GpuLayout;
use kernels_gpu::quant::{MXFP4, Q4_K, Q5_K, Q6_K, Q8_0};
use kernels_gpu::simt::emulator::{Access, Emulator, View};
use testkit::compare::assert_within;
use testkit::data::{RandomBlock, packed};

use super::gemm_quant::Random;

/// Random experts and grouped rows.
pub struct Grouped<Q> {
    /// The experts' matrices one below the other.
    pub random: Random<Q>,
    /// Where the rows of each expert begin, and where the last one's end.
    pub offsets: Vec<u32>,
    /// The expert of each row.
    experts: Vec<usize>,
    n_rows: usize,
    n_cols: usize,
}

impl<Q: QuantFragments + RandomBlock + GpuLayout> Grouped<Q> {
    /// So many rows of each expert, and the shape of their matrices.
    pub fn new(counts: &[u32], [n_rows, n_cols]: [usize; 2]) -> Self {
        let ends = counts.iter().scan(0, |end, count| {
            *end += count;
            Some(*end)
        });
        let offsets = std::iter::once(0).chain(ends).collect();
        let of_expert = |(&count, expert): (&u32, usize)| vec![expert; count as usize];
        let experts: Vec<usize> = counts.iter().zip(0..).flat_map(of_expert).collect();
        let random = Random::new(experts.len(), counts.len() * n_rows, n_cols);
        Self { random, offsets, experts, n_rows, n_cols }
    }

    pub fn n_experts(&self) -> usize {
        self.offsets.len() - 1
    }

    pub fn n_assigned(&self) -> usize {
        self.experts.len()
    }

    /// Each expert's matrix in the GPU's layout, one after the other.
    pub fn w(&self) -> Vec<u8> {
        let matrices = self.random.blocks.chunks(self.n_rows * self.n_cols / Q::ELEMENTS);
        matrices.flat_map(|blocks| packed(blocks, self.n_cols)).collect()
    }

    /// Compares with the reference: the product of each row with its expert's part of all matrices.
    pub fn assert_product(&self, what: &str, found: &[f32]) {
        let (expected, bounds) = self.random.product(0);
        let own = |all: &[f64]| {
            let rows = all.chunks(self.n_experts() * self.n_rows).zip(&self.experts);
            rows.flat_map(|(row, expert)| row[expert * self.n_rows..][..self.n_rows].to_vec()).collect()
        };
        let (expected, bounds): (Vec<f64>, Vec<f64>) = (own(&expected), own(&bounds));
        let shape = [self.n_assigned(), self.n_rows];
        let what = format!("{} {what}, groups from {:?}", Q::NAME, self.offsets);
        assert_within(&what, found, &expected, &shape, |i| bounds[i]);
    }
}

fn launch<Q: MoeGemm + GpuLayout + RandomBlock, D: Device>(
    device: &D,
    case: &Grouped<Q>,
    plan: Plan,
) -> Vec<f32> {
    let w = device.upload(&case.w(), Purpose::Weights).unwrap();
    let x_halves = device.upload(&case.random.x.halves, Purpose::Activations).unwrap();
    let x_scales = device.upload(&case.random.x.scales, Purpose::Activations).unwrap();
    let offsets = device.upload(&case.offsets, Purpose::Activations).unwrap();
    let mut y = device.alloc(plan.shape.n_assigned * plan.shape.n_rows, Purpose::Activations).unwrap();
    plan.launch::<Q, D>(device, &mut y, &w, (&x_halves, &x_scales), &offsets).unwrap();
    device.download(&y).unwrap()
}

/// A case and its plan with tiles of so many tokens on so many multiprocessors.
fn case<Q: MoeGemm + GpuLayout + RandomBlock>(
    counts: &[u32],
    matrix: [usize; 2],
    (tile_tokens, n_multiprocessors): (u32, u32),
) -> (Grouped<Q>, Plan) {
    let case = Grouped::new(counts, matrix);
    let [n_rows, n_cols] = matrix;
    let shape = Shape { n_assigned: case.n_assigned(), n_experts: case.n_experts(), n_rows, n_cols };
    (case, Plan::with(shape, tile_tokens, n_multiprocessors))
}

fn check<Q: MoeGemm + GpuLayout + RandomBlock>(counts: &[u32], matrix: [usize; 2], how: (u32, u32)) {
    let (case, plan) = case::<Q>(counts, matrix, how);
    on_hopper!(|device| case.assert_product(&plan.to_string(), &launch(device, &case, plan)));
}

/// Experts without rows, with one, with a tile and with more; rows that end within a warp's 16, and a last unit of 32
/// columns, or a block of 256; one cluster for all.
#[test]
fn experts_with_any_number_of_rows_in_every_format() {
    let counts = [0, 70, 1, 0, 0, 64, 5, 0];
    check::<Q8_0>(&counts, [151, 160], (64, 2));
    check::<Q4_K>(&counts, [151, 256], (64, 2));
    check::<Q5_K>(&counts, [151, 256], (64, 2));
    check::<Q6_K>(&counts, [151, 256], (64, 2));
    check::<MXFP4>(&counts, [151, 160], (64, 2));
}

/// The same with wide tiles, and several clusters.
#[test]
fn wide_tiles() {
    check::<MXFP4>(&[3, 0, 129, 128], [260, 288], (128, 6));
    check::<MXFP4>(&[257, 2, 0], [20, 96], (256, 4));
}

/// More experts than a warp has lanes.
#[test]
fn seventy_experts() {
    let counts: Vec<u32> = (0..70).map(|expert| [2, 0, 0, 1, 0, 9, 0][expert % 7]).collect();
    check::<MXFP4>(&counts, [18, 64], (64, 8));
    let mut counts = vec![0; 256];
    (counts[0], counts[255]) = (1, 2);
    check::<MXFP4>(&counts, [4, 32], (64, 4));
}

/// The columns of gpt-oss, 22 units and a half.
#[test]
fn rows_of_2880() {
    check::<MXFP4>(&[2, 3], [16, 2880], (64, 2));
}

/// All rows to one expert: clusters that find nothing to do.
#[test]
fn one_expert_for_all() {
    check::<MXFP4>(&[0, 0, 9, 0], [40, 64], (128, 132));
    check::<MXFP4>(&[1], [1, 32], (256, 132));
}

/// The same bits whatever the order of blocks, warps and lanes.
#[test]
fn any_order_gives_the_same_bits() {
    let (case, plan) = case::<MXFP4>(&[5, 0, 66], [136, 160], (64, 4));
    let results = [0, 1, 2].map(|seed| launch(&Emulator::checked().with_seed(seed), &case, plan));
    assert!(results[0] == results[1] && results[1] == results[2]);
}

/// Results leave in whole sectors.
#[test]
fn stores_are_whole_sectors() {
    let (case, plan) = case::<MXFP4>(&[64, 3], [256, 128], (64, 2));
    let device = Emulator::checked().counting();
    launch(&device, &case, plan);
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

//! Products of a warpgroup whose first operand is in registers: their results, and planted bugs.

use kernels_gpu::launch::{Device, Grid, Matrix};
use kernels_gpu::simt::boxes::{self, InBoxes};
use kernels_gpu::simt::emulator::{Access, Emulator, Fault, Other, View, Violation};
use kernels_gpu::simt::mbarrier;
use kernels_gpu::simt::prelude::*;
use kernels_gpu::simt::wgmma::{self, Accumulators};

use crate::{assert_violation, emulator, line_of, unwritten, upload, violation};

/// What a kernel does wrong.
mod bug {
    pub const NONE: u32 = 0;
    /// No fence before the first product.
    pub const NO_FENCE: u32 = 1;
    /// The threads of the warpgroup multiply different K-elements.
    pub const OPERANDS: u32 = 2;
    /// The second operand is loaded again before the product has read it.
    pub const EARLY_REUSE: u32 = 3;
    /// The second operand has fewer rows than the results columns.
    pub const SHORT: u32 = 4;
    /// Results are set before the wait for them.
    pub const EARLY_SET: u32 = 5;
    /// The wait leaves one group unfinished: theirs.
    pub const LEFT_UNFINISHED: u32 = 6;
}

/// y = y0 + a · bᵀ for 64 x 64 elements each, where y0 is 1, or with `replace` 0.
#[kernel(threads = 128, shared = boxes::rows_bytes(64) + mbarrier::bytes(1), sm_90a)]
fn product(y: Out<f32>, a: In<f16>, b: InBoxes<f16, 64>, replace: u32, bug: u32) {
    let mut shared = Shared::new();
    let tile = shared.rows::<f16>(64);
    let full = shared.barriers(1);
    let i = thread::thread_idx_x();
    if i == 0 {
        full.init(0, 1);
        mbarrier::fence_init();
    }
    thread::sync_threads();
    if i == 0 {
        full.arrive_expect(0, InBoxes::<f16, 64>::BYTES);
        b.load(tile, full, 0, 0, 0);
    }
    full.wait(0, 0);
    let row = warp::warp_id() as usize * 16 + warp::lane_id() as usize / 4;
    let col = 2 * (warp::lane_id() as usize % 4);
    let pair = |row: usize, col: usize| a.load::<2>(64 * row + col);
    let mut fragments = [[0u32; 4]; 4];
    for (step, fragment) in fragments.iter_mut().enumerate() {
        let col = 16 * step + col;
        let pairs = [pair(row, col), pair(row + 8, col), pair(row, col + 8), pair(row + 8, col + 8)];
        *fragment = pairs.map(|[low, high]| f16x2::new(low, high).to_bits());
    }
    let mut results = Accumulators::<32>::zero();
    for r in 0..32 {
        results.set(r, 1.0);
    }
    if bug != bug::NO_FENCE {
        wgmma::fence_operands(&mut fragments);
        results.fence();
    }
    let b_rows = if bug == bug::SHORT { tile.at_row(8) } else { tile };
    for (step, fragment) in fragments.into_iter().enumerate() {
        let k = if bug == bug::OPERANDS && i == 77 { 0 } else { 16 * step };
        results.mma_registers_rows(fragment, b_rows, k, step > 0 || replace == 0); // product
    }
    results.commit();
    if bug == bug::EARLY_REUSE && i == 0 {
        full.arrive_expect(0, InBoxes::<f16, 64>::BYTES);
        b.load(tile, full, 0, 0, 0); // reuse
    }
    if bug == bug::EARLY_SET {
        results.set(3, 0.0); // early
    }
    if bug == bug::LEFT_UNFINISHED {
        results.finish_but::<1>(); // unfinished
    }
    results.finish();
    for r in 0..32 {
        y.set(64 * (row + 8 * (r / 2 % 2)) + 8 * (r / 4) + col + r % 2, results.get(r));
    }
}

fn small_integers(n: usize) -> Vec<f16> {
    (0..64 * 64).map(|i| f16::from_f32((i * n % 11) as f32 - 5.0)).collect()
}

#[test]
fn products_are_added_or_replace() {
    let (a, b) = (small_integers(7), small_integers(13));
    for (seed, replace) in [(0, 0), (1, 1)] {
        let device = Emulator::checked().with_seed(seed);
        let (device_a, device_b) = (upload(&device, &a), upload(&device, &b));
        let mut y = unwritten(&device, 64 * 64);
        let matrix = Matrix::new(&device_b, 64, 64);
        let launch = product { y: &mut y, a: &device_a, b: matrix, replace, bug: bug::NONE };
        device.launch(launch, Grid::x(1)).unwrap();
        for (i, found) in device.download(&y).unwrap().into_iter().enumerate() {
            let row = |matrix: &[f16], r: usize| matrix[64 * r..][..64].to_vec();
            let (a, b) = (row(&a, i / 64), row(&b, i % 64));
            let sum: f32 = a.iter().zip(&b).map(|(a, b)| a.to_f32() * b.to_f32()).sum();
            assert_eq!(found, sum + (1 - replace) as f32, "element {i}");
        }
    }
}

fn found(bug: u32) -> Violation {
    let device = emulator();
    let (a, b) = (upload(&device, &small_integers(7)), upload(&device, &small_integers(13)));
    let mut y = unwritten(&device, 64 * 64);
    let launch = product { y: &mut y, a: &a, b: Matrix::new(&b, 64, 64), replace: 0, bug };
    violation(&device, launch, Grid::x(1))
}

/// The first tile that the kernel carves.
const TILE: View = View::Tile(0);

#[test]
fn planted_bugs() {
    let line = |mark| ("products.rs", line_of(include_str!("products.rs"), mark));
    let race = Fault::Race {
        view: TILE,
        index: 0,
        access: Access::Write,
        other: Access::Read,
        by: Other::TensorCores,
    };
    let short = Fault::OutOfBounds { view: TILE, index: 8 * 64, count: 64 * 64, len: 64 * 64 };
    for (bug, fault, mark) in [
        (bug::NO_FENCE, Fault::UnfencedResults, "product"),
        (bug::OPERANDS, Fault::OperandsDiffer { other: 77 }, "product"),
        (bug::EARLY_REUSE, race, "reuse"),
        (bug::SHORT, short, "product"),
        (bug::EARLY_SET, Fault::InFlight, "early"),
        (bug::LEFT_UNFINISHED, Fault::InFlight, "unfinished"),
    ] {
        assert_violation(&found(bug), "product", (0, 0), &fault, line(mark));
    }
}

/// y = (x · xᵀ, 2 x · xᵀ), in two groups: the first results are used while the second product is still under way.
#[kernel(threads = 128, shared = boxes::rows_bytes(64) + mbarrier::bytes(1), sm_90a)]
fn two_groups(y: Out<f32>, x: InBoxes<f16, 64>) {
    let mut shared = Shared::new();
    let tile = shared.rows::<f16>(64);
    let full = shared.barriers(1);
    let i = thread::thread_idx_x();
    if i == 0 {
        full.init(0, 1);
        mbarrier::fence_init();
    }
    thread::sync_threads();
    if i == 0 {
        full.arrive_expect(0, InBoxes::<f16, 64>::BYTES);
        x.load(tile, full, 0, 0, 0);
    }
    full.wait(0, 0);
    let (mut once, mut twice) = (Accumulators::<32>::zero(), Accumulators::<32>::zero());
    once.fence();
    once.mma(tile, tile, 0, false);
    once.commit();
    twice.fence();
    twice.mma(tile, tile, 0, false);
    twice.mma(tile, tile, 0, true);
    twice.commit();
    once.finish_but::<1>();
    let first = once.get(0);
    twice.finish();
    y.set(2 * i as usize, first);
    y.set(2 * i as usize + 1, twice.get(0));
}

#[test]
fn results_of_one_group_while_the_next_is_under_way() {
    let device = emulator();
    let x = small_integers(7);
    let device_x = upload(&device, &x);
    let mut y = unwritten(&device, 256);
    device.launch(two_groups { y: &mut y, x: Matrix::new(&device_x, 64, 64) }, Grid::x(1)).unwrap();
    for (t, found) in device.download(&y).unwrap().chunks(2).enumerate() {
        let (row, col) = (16 * (t / 32) + t % 32 / 4, 2 * (t % 4));
        let elements = |row: usize| x[64 * row..][..16].iter().map(|value| value.to_f32());
        let sum: f32 = elements(row).zip(elements(col)).map(|(a, b)| a * b).sum();
        assert_eq!(found, [sum, 2.0 * sum], "thread {t}");
    }
}

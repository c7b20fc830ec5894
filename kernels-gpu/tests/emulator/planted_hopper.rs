//! Planted bugs in the protocols of Hopper: barriers in shared memory, the copy engine, products of warpgroups.

use kernels_gpu::launch::{Device, Grid, Matrix, MatrixMut};
use kernels_gpu::simt::boxes::{self, InBoxes, OutBoxes};
use kernels_gpu::simt::emulator::{Access, Emulator, Fault, Other, View, Violation};
use kernels_gpu::simt::mbarrier::{self, Barriers};
use kernels_gpu::simt::prelude::*;
use kernels_gpu::simt::wgmma::Accumulators;

use crate::{assert_violation, emulator, line_of, unwritten, upload, violation};

const FILE: &str = "planted_hopper.rs";

/// The line of this file that ends with `// mark`.
fn line(mark: &str) -> u32 {
    line_of(include_str!("planted_hopper.rs"), mark)
}

/// What a kernel leaves out or does wrong.
mod bug {
    pub const NONE: u32 = 0;
    /// Nobody waits for the load.
    pub const NO_WAIT: u32 = 1;
    /// Fewer bytes are announced than copied, or more.
    pub const FEW_BYTES: u32 = 2;
    pub const MANY_BYTES: u32 = 3;
    /// The stage is loaded again before the product has read it.
    pub const EARLY_REUSE: u32 = 4;
    /// Results are read before the wait for them.
    pub const EARLY_READ: u32 = 5;
    /// No fence before the first product.
    pub const NO_FENCE: u32 = 6;
    /// One arrival too many.
    pub const SURPLUS: u32 = 7;
    /// The threads of the warpgroup multiply different tiles.
    pub const OPERANDS: u32 = 8;
    /// The tile is smaller than the box.
    pub const SMALL_TILE: u32 = 9;
    /// Rows that do not begin where the swizzle does.
    pub const ODD_ROWS: u32 = 10;
    /// One warp of the warpgroup does not multiply.
    pub const ABSENT_WARP: u32 = 11;
    /// The barrier is not initialised.
    pub const NO_INIT: u32 = 12;
    /// No barrier of the block after the initialisation.
    pub const NO_SYNC: u32 = 13;
    /// Two waits for one phase: the parity of the second is that of the next.
    pub const WRONG_PARITY: u32 = 14;
}

const SHARED: usize = boxes::rows_bytes(64) + 2 * mbarrier::bytes(1);

/// y = x · xᵀ for 64 x 64 elements: one load, four products.
#[kernel(threads = 128, shared = SHARED, sm_90a)]
fn square(y: Out<f32>, x: InBoxes<bf16, 64>, bug: u32) {
    let mut shared = Shared::new();
    let rows = if bug == bug::SMALL_TILE { 56 } else { 64 };
    let tile = shared.rows::<bf16>(rows);
    let full = shared.barriers(1);
    let empty = shared.barriers(1);
    let i = thread::thread_idx_x();
    if i == 0 && bug != bug::NO_INIT {
        full.init(0, 1);
        empty.init(0, 4);
        mbarrier::fence_init();
    }
    if bug != bug::NO_SYNC {
        thread::sync_threads();
    }
    if i == 0 {
        let bytes = InBoxes::<bf16, 64>::BYTES;
        let announced = match bug {
            bug::FEW_BYTES => bytes - 16,
            bug::MANY_BYTES => bytes + 16,
            _ => bytes,
        };
        full.arrive_expect(0, announced); // announce
        x.load(tile, full, 0, 0, 0); // load
    }
    if bug == bug::SURPLUS && i == 37 {
        full.wait(0, 0);
        empty.arrive(0);
        empty.arrive(0);
        empty.arrive(0);
        empty.arrive(0);
        full.arrive_expect(0, 8);
        full.arrive(0); // surplus
    }
    if bug != bug::NO_WAIT {
        full.wait(0, if bug == bug::WRONG_PARITY { 1 } else { 0 }); // wait
    }
    if bug == bug::ABSENT_WARP && i >= 96 {
        return;
    }
    let mut results = Accumulators::<32>::zero();
    if bug != bug::NO_FENCE {
        results.fence();
    }
    let a = if bug == bug::ODD_ROWS { tile.at_row(4) } else { tile }; // odd rows
    for step in 0..4 {
        let k = if bug == bug::OPERANDS && i == 77 { 0 } else { 16 * step };
        results.mma(a, tile, k, step > 0); // product
    }
    results.commit();
    if bug == bug::EARLY_READ {
        y.set(0, results.get(0)); // early
    }
    if bug == bug::EARLY_REUSE {
        if i.is_multiple_of(32) {
            empty.arrive(0);
        }
        if i == 0 {
            empty.wait(0, 0);
            full.arrive_expect(0, InBoxes::<bf16, 64>::BYTES);
            x.load(tile, full, 0, 0, 0); // reuse
        }
        warp::sync();
    }
    results.finish();
    let (warp_row, lane) = (warp::warp_id() as usize * 16, warp::lane_id() as usize);
    for r in 0..32 {
        let row = warp_row + lane / 4 + 8 * (r / 2 % 2);
        y.set(64 * row + 8 * (r / 4) + 2 * (lane % 4) + r % 2, results.get(r));
    }
}

fn small_integers() -> Vec<bf16> {
    (0..64 * 64).map(|i| bf16::from_f32((i * 7 % 11) as f32 - 5.0)).collect()
}

#[test]
fn the_kernel_without_a_bug_is_right() {
    let x = small_integers();
    for seed in 0..4 {
        let device = Emulator::checked().with_seed(seed);
        let device_x = upload(&device, &x);
        let mut y = unwritten(&device, 64 * 64);
        let x_matrix = Matrix::new(&device_x, 64, 64);
        device.launch(square { y: &mut y, x: x_matrix, bug: bug::NONE }, Grid::x(1)).unwrap();
        for (i, found) in device.download(&y).unwrap().into_iter().enumerate() {
            let row = |r: usize| x[64 * r..][..64].iter().map(|value| value.to_f32());
            let expected: f32 = row(i / 64).zip(row(i % 64)).map(|(a, b)| a * b).sum();
            assert_eq!(found, expected, "element {i}");
        }
    }
}

fn found(bug: u32) -> Violation {
    let device = emulator();
    let x = upload(&device, &small_integers());
    let mut y = unwritten(&device, 64 * 64);
    violation(&device, square { y: &mut y, x: Matrix::new(&x, 64, 64), bug }, Grid::x(1))
}

/// Tiles in the order in which the kernel carves them.
const TILE: View = View::Tile(0);
const FULL: View = View::Tile(1);

#[test]
fn result_of_a_load_read_before_its_wait() {
    let (access, other, by) = (Access::Read, Access::Write, Other::CopyEngine);
    let fault = Fault::Race { view: TILE, index: 0, access, other, by };
    assert_violation(&found(bug::NO_WAIT), "square", (0, 0), &fault, (FILE, line("product")));
}

#[test]
fn bytes_that_do_not_match_the_copy() {
    for (bug, bytes) in [(bug::FEW_BYTES, -16), (bug::MANY_BYTES, 16)] {
        let fault = Fault::Stuck { view: FULL, index: 0, phase: 0, arrivals: 0, bytes };
        assert_violation(&found(bug), "square", (0, 0), &fault, (FILE, line("wait")));
    }
}

#[test]
fn stage_loaded_again_while_a_product_reads_it() {
    let (access, other, by) = (Access::Write, Access::Read, Other::TensorCores);
    let fault = Fault::Race { view: TILE, index: 0, access, other, by };
    assert_violation(&found(bug::EARLY_REUSE), "square", (0, 0), &fault, (FILE, line("reuse")));
}

#[test]
fn results_read_before_the_wait() {
    assert_violation(&found(bug::EARLY_READ), "square", (0, 0), &Fault::InFlight, (FILE, line("early")));
}

#[test]
fn product_without_a_fence() {
    let fault = Fault::UnfencedResults;
    assert_violation(&found(bug::NO_FENCE), "square", (0, 0), &fault, (FILE, line("product")));
}

#[test]
fn surplus_arrival() {
    let fault = Fault::SurplusArrival { view: FULL, index: 0 };
    assert_violation(&found(bug::SURPLUS), "square", (0, 37), &fault, (FILE, line("surplus")));
}

#[test]
fn operands_that_differ() {
    let fault = Fault::OperandsDiffer { other: 77 };
    assert_violation(&found(bug::OPERANDS), "square", (0, 0), &fault, (FILE, line("product")));
}

#[test]
fn tile_smaller_than_the_box() {
    let fault = Fault::OutOfBounds { view: TILE, index: 0, count: 64 * 64, len: 56 * 64 };
    assert_violation(&found(bug::SMALL_TILE), "square", (0, 0), &fault, (FILE, line("load")));
}

#[test]
fn rows_that_begin_within_the_swizzle() {
    let fault = Fault::Misaligned { view: TILE, index: 4 * 64, access_bytes: 1024 };
    assert_violation(&found(bug::ODD_ROWS), "square", (0, 0), &fault, (FILE, line("odd rows")));
}

#[test]
fn warp_that_does_not_multiply() {
    let found = found(bug::ABSENT_WARP);
    let Fault::DivergentWarp { other: 96, .. } = found.fault else { panic!("{found}") };
    assert_eq!((found.thread, found.site.line), (0, line("product")), "{found}");
}

#[test]
fn barrier_that_nobody_initialised() {
    let fault = Fault::Unwritten { view: FULL, index: 0 };
    assert_violation(&found(bug::NO_INIT), "square", (0, 0), &fault, (FILE, line("announce")));
}

#[test]
fn barrier_used_before_others_know_it() {
    let (access, other, by) = (Access::Read, Access::Write, Other::Thread(0));
    let fault = Fault::Race { view: FULL, index: 0, access, other, by };
    // The first of another warp: one's own has arrived with thread 0.
    assert_violation(&found(bug::NO_SYNC), "square", (0, 32), &fault, (FILE, line("wait")));
}

/// The phase before the first counts as complete, so nothing is waited for.
#[test]
fn wait_for_the_wrong_parity() {
    let device = emulator();
    let x = upload(&device, &small_integers());
    let mut y = unwritten(&device, 64 * 64);
    let kernel = square { y: &mut y, x: Matrix::new(&x, 64, 64), bug: bug::WRONG_PARITY };
    let found = violation(&device, kernel, Grid::x(1));
    // The load is complete already, so it is the other parity that never comes.
    let fault = Fault::Stuck { view: FULL, index: 0, phase: 1, arrivals: 1, bytes: 0 };
    assert_violation(&found, "square", (0, 0), &fault, (FILE, line("wait")));
}

/// y = x, through shared memory.
#[kernel(threads = 128, shared = boxes::rows_bytes(8), sm_90a)]
fn store_staged(y: OutBoxes<u16, 8>, x: In<u16>, bug: u32) {
    let tile = Shared::new().rows::<u16>(8);
    let lane = warp::lane_id() as usize;
    if thread::thread_idx_x() < 32 {
        let pair = |i: usize| u32::from(x.get(i)) | u32::from(x.get(i + 1)) << 16;
        for half in 0..2 {
            let first = 64 * (lane / 4) + 32 * half + 2 * (lane % 4);
            let values = [pair(first), pair(first + 8), pair(first + 16), pair(first + 24)];
            tile.stmatrix_x4(lane % 8, 4 * half + lane / 8, values);
        }
        if bug != 1 {
            boxes::fence();
        }
    }
    if bug != 2 {
        thread::sync_named(1, 128);
    }
    if bug == 4 && thread::thread_idx_x() == 5 {
        thread::sync_named(2, 64); // alone
    }
    if thread::thread_idx_x() == 32 {
        y.store(tile, 0, 0); // store
        boxes::commit_stores();
        if bug != 3 {
            boxes::wait_stores_read::<0>();
        }
    }
}

fn stored(bug: u32) -> Result<Vec<u16>, Violation> {
    let device = emulator();
    let x: Vec<u16> = (0..8 * 64).collect();
    let device_x = upload(&device, &x);
    let mut y = device.upload(&[u16::MAX; 7 * 56], kernels_gpu::launch::Purpose::Other).unwrap();
    // The matrix is smaller than the box.
    let kernel = store_staged { y: MatrixMut::strided(&mut y, 6, 48, 56), x: &device_x, bug };
    match device.launch(kernel, Grid::x(1)) {
        Ok(()) => Ok(device.download(&y).unwrap()),
        Err(kernels_gpu::simt::emulator::Error::Violation(violation)) => Err(*violation),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn stores_write_what_lies_in_the_matrix() {
    for (i, value) in stored(0).unwrap().into_iter().enumerate() {
        let (row, col) = (i / 56, i % 56);
        let expected = if row < 6 && col < 48 { (64 * row + col) as u16 } else { u16::MAX };
        assert_eq!(value, expected, "row {row}, column {col}");
    }
}

#[test]
fn store_of_what_is_not_fenced() {
    let fault = Fault::Unfenced { view: TILE, index: 0, by: Other::Thread(0) };
    assert_violation(&stored(1).unwrap_err(), "store_staged", (0, 32), &fault, (FILE, line("store")));
}

#[test]
fn store_of_what_is_not_synchronised() {
    let (access, other, by) = (Access::Read, Access::Write, Other::Thread(0));
    let fault = Fault::Race { view: TILE, index: 0, access, other, by };
    assert_violation(&stored(2).unwrap_err(), "store_staged", (0, 32), &fault, (FILE, line("store")));
}

#[test]
fn return_before_the_store_has_read() {
    let found = stored(3).unwrap_err();
    assert_eq!((found.thread, &found.fault), (32, &Fault::StoresUnread), "{found}");
}

#[test]
fn named_barrier_that_is_not_full() {
    let fault = Fault::NamedBarrier { id: 2, waiting: 1, expected: 64 };
    assert_violation(&stored(4).unwrap_err(), "store_staged", (0, 5), &fault, (FILE, line("alone")));
}

/// Two warps hand a value back and forth without a barrier of the block.
#[kernel(threads = 64, shared = 16 + 2 * mbarrier::bytes(1), sm_90a)]
fn hand_over(y: Out<u32>, n: u32, skip_wait: u32) {
    let mut shared = Shared::new();
    let cell = shared.tile::<u32>(1);
    let full: Barriers = shared.barriers(1);
    let empty: Barriers = shared.barriers(1);
    if thread::thread_idx_x() == 0 {
        full.init(0, 1);
        empty.init(0, 1);
    }
    thread::sync_threads();
    if warp::lane_id() != 0 {
        return;
    }
    for round in 0..n {
        if warp::warp_id() == 0 {
            empty.wait(0, (round + 1) % 2);
            cell.set(0, 10 * round); // hand over
            full.arrive(0);
        } else {
            if round != skip_wait {
                full.wait(0, round % 2);
            }
            y.set(round as usize, cell.get(0)); // take
            empty.arrive(0);
        }
    }
}

#[test]
fn barriers_order_what_they_hand_over() {
    for seed in 0..8 {
        let device = Emulator::checked().with_seed(seed);
        let mut y = unwritten(&device, 5);
        device.launch(hand_over { y: &mut y, n: 5, skip_wait: 9 }, Grid::x(1)).unwrap();
        assert_eq!(device.download(&y).unwrap(), [0, 10, 20, 30, 40]);
    }
    let device = emulator();
    let mut y = unwritten(&device, 1);
    let found = violation(&device, hand_over { y: &mut y, n: 1, skip_wait: 0 }, Grid::x(1));
    let (access, other, by) = (Access::Read, Access::Write, Other::Thread(0));
    let fault = Fault::Race { view: View::Tile(0), index: 0, access, other, by };
    assert_violation(&found, "hand_over", (0, 32), &fault, (FILE, line("take")));
}

//! Planted bugs in what the blocks of a cluster do to each other.

use kernels_gpu::launch::{Device, Grid, Matrix, MatrixMut};
use kernels_gpu::simt::boxes::{self, InBoxes, OutBoxes};
use kernels_gpu::simt::emulator::{Access, Emulator, Fault, Other, State, View, Violation};
use kernels_gpu::simt::prelude::*;
use kernels_gpu::simt::{cluster, mbarrier};

use crate::{assert_violation, emulator, line_of, unwritten, upload, violation};

const FILE: &str = "planted_cluster.rs";

/// The line of this file that ends with `// mark`.
fn line(mark: &str) -> u32 {
    line_of(include_str!("planted_cluster.rs"), mark)
}

/// What a kernel leaves out or does wrong.
mod bug {
    pub const NONE: u32 = 0;
    /// The block synchronises before it reaches the other one, the cluster does not.
    pub const NO_START: u32 = 1;
    /// Block 1 announces its own box, but not the other block's.
    pub const NOT_EXPECTED: u32 = 2;
    /// Block 1 arrives where only the copy engine's bytes are missing.
    pub const SURPLUS: u32 = 3;
    /// Block 0 reads what block 1 stored to it without waiting for that.
    pub const NO_WAIT: u32 = 4;
    /// No block waits for the other's last touch.
    pub const NO_END: u32 = 5;
    /// Block 1 does not.
    pub const NO_END_OF_1: u32 = 6;
    /// A block that the cluster does not have.
    pub const RANK: u32 = 7;
    /// Block 0 loads into both blocks again while block 1 may still read.
    pub const EARLY_REUSE: u32 = 8;
    /// A thread waits for its block when all others wait for the cluster.
    pub const APART: u32 = 9;
    /// A barrier is initialised after the fence, which a start of the cluster does not make known.
    pub const LATE_INIT: u32 = 10;
    /// The same with a barrier of the cluster that does: no bug.
    pub const LATE_INIT_SYNC: u32 = 11;
}

const THREADS: u32 = 64;
const BOX: u32 = 8;
const SHARED: usize = boxes::rows_bytes(2 * BOX as usize)
    + kernels_gpu::simt::shared::tile_bytes::<u32>(4 * THREADS as usize)
    + 3 * mbarrier::bytes(1);

/// Each block copies all of x, of which it loads one half for both blocks, and gives its threads' numbers to the other.
#[kernel(threads = THREADS, cluster = 2, shared = SHARED, sm_90a)]
fn share(y: OutBoxes<u16, 16>, numbers: Out<u32>, x: InBoxes<u16, BOX>, bug: u32) {
    let mut shared = Shared::new();
    let tile = shared.rows::<u16>(2 * BOX as usize);
    let inbox = shared.tile::<u32>(4 * THREADS as usize);
    let (full, empty, given) = (shared.barriers(1), shared.barriers(1), shared.barriers(1));
    let (rank, i) = (cluster::block_rank(), thread::thread_idx_x());
    let other = if bug == bug::RANK { 2 } else { 1 - rank };
    if i == 0 {
        full.init(0, 1);
        empty.init(0, 1);
        if bug < bug::LATE_INIT {
            given.init(0, 1);
        }
        mbarrier::fence_init();
        if bug >= bug::LATE_INIT {
            given.init(0, 1);
        }
        given.arrive_expect(0, 16 * THREADS);
    }
    if bug == bug::NO_START {
        thread::sync_threads();
    } else if bug == bug::APART && rank == 1 && i == 5 {
        thread::sync_threads(); // apart
    } else if bug == bug::LATE_INIT_SYNC {
        cluster::sync();
    } else {
        cluster::start(); // start
    }
    if i == 0 {
        if bug == bug::SURPLUS && rank == 1 {
            full.arrive_remote(0, 0); // surplus
        }
        let n_boxes = if bug == bug::NOT_EXPECTED && rank == 1 { 1 } else { 2 };
        full.arrive_expect(0, n_boxes * InBoxes::<u16, BOX>::BYTES);
        let half = tile.at_row((BOX * rank) as usize);
        x.load_multicast(half, full, 0, (BOX * rank, 0), 0b11); // load
    }
    full.wait(0, 0);
    if bug == bug::EARLY_REUSE && rank == 0 && i == 0 {
        x.load_multicast(tile, full, 0, (0, 0), 0b10); // reuse
    }
    if i == 0 {
        y.store(tile, 16 * rank, 0); // store
        boxes::commit_stores();
        boxes::wait_stores_read::<0>();
    }
    inbox.store_async(other, 4 * i as usize, [100 * rank + i, 0, 0, 0], given, 0); // give
    if bug != bug::NO_WAIT {
        given.wait_remote(0, 0);
    }
    if bug != bug::NO_WAIT || rank == 0 {
        numbers.set((THREADS * rank + i) as usize, inbox.get(4 * i as usize)); // take
    }
    if i == 0 {
        empty.arrive_remote(0, other); // end
    }
    if !(bug == bug::NO_END || bug == bug::NO_END_OF_1 && rank == 1) {
        empty.wait(0, 0);
    }
}

fn launch(device: &Emulator, bug: u32) -> Result<(Vec<u16>, Vec<u32>), Violation> {
    let x = upload(device, &(0..16 * 64).collect::<Vec<u16>>());
    let (mut y, mut numbers) = (unwritten(device, 2 * 16 * 64), unwritten(device, 2 * THREADS as usize));
    let kernel =
        share { y: MatrixMut::new(&mut y, 32, 64), numbers: &mut numbers, x: Matrix::new(&x, 16, 64), bug };
    if bug != bug::NONE && bug != bug::LATE_INIT_SYNC {
        return Err(violation(device, kernel, Grid::x(2)));
    }
    device.launch(kernel, Grid::x(2)).unwrap();
    Ok((device.download(&y).unwrap(), device.download(&numbers).unwrap()))
}

fn found(bug: u32) -> Violation {
    launch(&emulator(), bug).unwrap_err()
}

/// Tiles in the order in which the kernel carves them.
const TILE: View = View::Tile(0);
const INBOX: View = View::Tile(1);
const FULL: View = View::Tile(2);
const GIVEN: View = View::Tile(4);

#[test]
fn the_kernel_without_a_bug_is_right() {
    for seed in 0..8 {
        for bug in [bug::NONE, bug::LATE_INIT_SYNC] {
            let (y, numbers) = launch(&Emulator::checked().with_seed(seed), bug).unwrap();
            let x = 0..16 * 64;
            assert!(y.into_iter().eq(x.clone().chain(x)), "seed {seed}");
            assert!(numbers.into_iter().eq((100..100 + THREADS).chain(0..THREADS)), "seed {seed}");
        }
    }
}

#[test]
fn block_that_may_not_have_started() {
    let fault = Fault::BlockNotStarted { rank: 1 };
    assert_violation(&found(bug::NO_START), "share", (0, 0), &fault, (FILE, line("load")));
}

/// The phase is complete when the other block's half has come, which counts as one's own.
#[test]
fn multicast_that_the_other_block_does_not_expect() {
    let (access, other, by) = (Access::Read, Access::Write, Other::CopyEngine);
    let fault = Fault::Race { view: TILE, index: 512, access, other, by };
    assert_violation(&found(bug::NOT_EXPECTED), "share", (1, 0), &fault, (FILE, line("store")));
}

#[test]
fn remote_arrival_too_many() {
    let fault = Fault::SurplusArrival { view: FULL, index: 0 };
    assert_violation(&found(bug::SURPLUS), "share", (1, 0), &fault, (FILE, line("surplus")));
}

#[test]
fn read_of_what_the_other_block_stores() {
    let by = Other::CopyEngine;
    let fault = Fault::Race { view: INBOX, index: 0, access: Access::Read, other: Access::Write, by };
    assert_violation(&found(bug::NO_WAIT), "share", (0, 0), &fault, (FILE, line("take")));
}

#[test]
fn barrier_that_the_other_block_may_not_have_initialised() {
    let by = Other::Peer { rank: 0, thread: 0 };
    let fault = Fault::Race { view: GIVEN, index: 0, access: Access::Read, other: Access::Write, by };
    assert_violation(&found(bug::LATE_INIT), "share", (1, 0), &fault, (FILE, line("give")));
}

#[test]
fn touch_of_a_block_that_has_ended() {
    let fault = Fault::BlockExited { rank: 0 };
    assert_violation(&found(bug::NO_END), "share", (1, 0), &fault, (FILE, line("end")));
}

/// Here the touch came in time, by luck.
#[test]
fn block_that_ends_without_knowing_of_the_last_touch() {
    let found = found(bug::NO_END_OF_1);
    assert_eq!((found.block.x, &found.fault), (1, &Fault::TouchedAtExit { rank: 0 }), "{found}");
}

#[test]
fn rank_that_the_cluster_does_not_have() {
    let fault = Fault::NoSuchBlock { rank: 2, n_blocks: 2 };
    assert_violation(&found(bug::RANK), "share", (1, 0), &fault, (FILE, line("give")));
}

#[test]
fn multicast_into_what_the_other_block_still_reads() {
    let (access, other, by) = (Access::Write, Access::Read, Other::CopyEngine);
    let fault = Fault::Race { view: TILE, index: 0, access, other, by };
    assert_violation(&found(bug::EARLY_REUSE), "share", (0, 0), &fault, (FILE, line("reuse")));
}

#[test]
fn thread_that_does_not_come_to_the_barrier_of_the_cluster() {
    let found = found(bug::APART);
    let Fault::DivergentBarrier { other: 0, state: State::AtBarrier(site) } = found.fault else {
        panic!("{found}")
    };
    assert_eq!((found.thread, found.site.line), (5, line("apart")), "{found}");
    assert_eq!(site.line, line("start"), "{found}");
}

#[test]
#[should_panic(expected = "3 blocks in a row are no whole number of clusters of 2")]
fn grid_of_no_whole_clusters() {
    let device = emulator();
    let (x, mut y, mut numbers) =
        (upload(&device, &[0u16; 1024]), unwritten(&device, 2048), unwritten(&device, 128));
    let (y, x) = (MatrixMut::new(&mut y, 32, 64), Matrix::new(&x, 16, 64));
    let _ = device.launch(share { y, numbers: &mut numbers, x, bug: bug::NONE }, Grid::x(3));
}

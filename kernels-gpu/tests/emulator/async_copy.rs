//! Copies in the background: what arrives when, and planted bugs.

use kernels_gpu::launch::{Device, Grid};
use kernels_gpu::simt::emulator::{Access, Emulator, Fault, Other, View};
use kernels_gpu::simt::prelude::*;

use crate::{assert_violation, emulator, line_of, unwritten, upload, violation};

const FILE: &str = "async_copy.rs";

/// The line of this file that ends with `// mark`.
fn line(mark: &str) -> u32 {
    line_of(include_str!("async_copy.rs"), mark)
}

/// Three stages: while a thread reads one, the copies of the next two are in flight. Odd stages are copied in pieces.
#[kernel(threads = 32, shared = 3 * 32 * 16)]
fn pipeline(y: Out<u32>, x: In<u32>, n: u32) {
    let tile = Shared::new().tile::<u32>(3 * 128);
    let (lane, n) = (warp::lane_id() as usize, n as usize);
    let begin = |stage: usize| {
        let (to, from) = (128 * (stage % 3), 128 * stage);
        if stage >= n {
        } else if stage.is_multiple_of(2) {
            tile.copy_async::<4>(to + 4 * lane, x, from + 4 * lane);
        } else {
            tile.copy_async::<2>(to + 2 * lane, x, from + 2 * lane);
            tile.copy_async::<1>(to + 64 + lane, x, from + 64 + lane);
            tile.copy_async_or_zero::<1>(to + 96 + lane, x, usize::MAX - lane, false);
        }
        async_copy::commit();
    };
    begin(0);
    begin(1);
    for stage in 0..n {
        async_copy::wait::<1>();
        thread::sync_threads();
        begin(stage + 2);
        for i in 0..4 {
            y.set(128 * stage + 32 * i + lane, tile.get(128 * (stage % 3) + 32 * i + (lane ^ 31)));
        }
    }
}

#[test]
fn copies_arrive() {
    for device in [emulator(), emulator().with_seed(5), Emulator::fast()] {
        for n in [1, 2, 7] {
            let x: Vec<u32> = (1..=128 * n).collect();
            let x_device = upload(&device, &x);
            let mut y = unwritten(&device, x.len());
            device.launch(pipeline { y: &mut y, x: &x_device, n }, Grid::x(1)).unwrap();
            for (i, found) in device.download(&y).unwrap().into_iter().enumerate() {
                let zero = i / 128 % 2 == 1 && i % 128 >= 96;
                assert_eq!(found, if zero { 0 } else { x[i ^ 31] }, "{i} of {}", x.len());
            }
        }
    }
}

/// Copies 8 bytes, and does wrong what `act` says.
#[kernel(threads = 64, shared = 64 * 16)]
fn acts(y: Out<f32>, x: In<f32>, act: u32) {
    let tile = Shared::new().tile::<f32>(256);
    let i = thread::thread_idx_x() as usize;
    tile.store::<2>(4 * i + 2, [1.0; 2]);
    if act == 0 && i == 50 {
        tile.set(4 * 7 + 1, 1.0); // first write
    }
    tile.copy_async::<2>(4 * i, x, 4 * i); // copy
    if act == 6 && i == 12 {
        return;
    }
    async_copy::commit();
    if act != 7 {
        async_copy::commit();
    }
    async_copy::wait::<1>();
    if act == 1 {
        y.set(i, tile.get(4 * (i ^ 1))); // other
    }
    if act == 2 {
        thread::sync_threads();
        y.set(i, tile.get(4 * (i ^ 33) + 1));
    }
    if act == 3 && i == 40 {
        tile.copy_async::<1>(4 * 40 + 3, x, 0);
        y.set(0, tile.get(4 * 40 + 2));
        y.set(1, tile.load::<2>(4 * 40 + 2)[0]); // in flight
    }
    if act == 4 && i == 40 {
        tile.copy_async::<1>(4 * 40 + 3, x, 0);
        tile.copy_async::<4>(4 * 40, x, 0); // twice
    }
    if act == 5 {
        if i == 40 {
            tile.copy_async::<1>(4 * 40 + 3, x, 0);
            async_copy::commit();
        }
        thread::sync_threads();
        if i == 39 {
            tile.set(4 * 40 + 3, 2.0); // by another
        }
        async_copy::wait::<0>();
    }
    if act == 8 && i == 41 {
        tile.copy_async::<1>(4 * 41, x, 256); // past x
    }
}

#[track_caller]
fn check(act: u32, thread: u32, fault: &Fault, mark: &str) {
    let device = emulator();
    let (mut y, x) = (unwritten(&device, 64), upload(&device, &[1.0f32; 256]));
    let found = violation(&device, acts { y: &mut y, x: &x, act }, Grid::x(1));
    assert_violation(&found, "acts", (0, thread), fault, (FILE, line(mark)));
}

const TILE: View = View::Tile(0);

#[test]
fn arrived_and_behind_a_barrier() {
    let device = emulator();
    let (mut y, x) = (unwritten(&device, 64), upload(&device, &[3.0f32; 256]));
    device.launch(acts { y: &mut y, x: &x, act: 2 }, Grid::x(1)).unwrap();
    assert_eq!(device.download(&y).unwrap(), [3.0; 64]);
}

#[test]
fn copy_over_what_another_thread_used() {
    // Thread 7 comes first, and does not get to the barrier before thread 50 has its turn.
    let by = Other::Thread(7);
    let fault = Fault::Race { view: TILE, index: 29, access: Access::Write, other: Access::Write, by };
    check(0, 50, &fault, "first write");
}

#[test]
fn read_by_another_thread_without_a_barrier() {
    // Thread 0 comes before thread 1, so it finds nothing there.
    check(1, 0, &Fault::Unwritten { view: TILE, index: 4 }, "other");
}

#[test]
fn read_of_own_copy_in_flight() {
    let fault = Fault::CopyInFlight { view: TILE, index: 163, access: Access::Read, by: 40 };
    check(3, 40, &fault, "in flight");
}

#[test]
fn copy_over_a_copy_in_flight() {
    let fault = Fault::CopyInFlight { view: TILE, index: 163, access: Access::Write, by: 40 };
    check(4, 40, &fault, "twice");
}

#[test]
fn write_by_another_thread_into_a_copy_in_flight() {
    let fault = Fault::CopyInFlight { view: TILE, index: 163, access: Access::Write, by: 40 };
    check(5, 39, &fault, "by another");
}

#[test]
fn exit_with_an_open_copy() {
    check(6, 12, &Fault::CopyNotAwaited { view: TILE, index: 48 }, "copy");
}

#[test]
fn exit_with_a_group_in_flight() {
    check(7, 0, &Fault::CopyNotAwaited { view: TILE, index: 0 }, "copy");
}

#[test]
fn copy_from_past_the_end() {
    let fault = Fault::OutOfBounds { view: View::Param("x"), index: 256, count: 1, len: 256 };
    check(8, 41, &fault, "past x");
}

/// A copy is a write when it begins, too: it may not begin while others still read.
#[kernel(threads = 64, shared = 64 * 4)]
fn copies_under_readers(y: Out<u32>, x: In<u32>) {
    let tile = Shared::new().tile::<u32>(64);
    let i = thread::thread_idx_x() as usize;
    tile.set(i, 1);
    thread::sync_threads();
    y.set(i, tile.get(i ^ 1)); // reader's turn
    tile.copy_async::<1>(i, x, i);
    thread::sync_threads();
    async_copy::commit();
    async_copy::wait::<0>();
}

#[test]
fn copy_begins_under_a_reader() {
    let device = emulator();
    let (mut y, x) = (unwritten(&device, 64), upload(&device, &[1u32; 64]));
    let found = violation(&device, copies_under_readers { y: &mut y, x: &x }, Grid::x(1));
    // Thread 1 reads what thread 0, which comes first, copies to already.
    let fault = Fault::CopyInFlight { view: TILE, index: 0, access: Access::Read, by: 0 };
    assert_violation(&found, "copies_under_readers", (0, 1), &fault, (FILE, line("reader's turn")));
}

/// The arrival is a write: the barrier before it does not order it.
#[kernel(threads = 64, shared = 64 * 4)]
fn waits_after_the_barrier(y: Out<u32>, x: In<u32>) {
    let tile = Shared::new().tile::<u32>(64);
    let i = thread::thread_idx_x() as usize;
    tile.copy_async::<1>(i, x, i);
    async_copy::commit();
    thread::sync_threads();
    async_copy::wait::<0>();
    y.set(i, tile.get(i & !1)); // after the wrong barrier
}

#[test]
fn wait_after_the_barrier() {
    let device = emulator();
    let (mut y, x) = (unwritten(&device, 64), upload(&device, &[1u32; 64]));
    let found = violation(&device, waits_after_the_barrier { y: &mut y, x: &x }, Grid::x(1));
    let by = Other::Thread(0);
    let fault = Fault::Race { view: TILE, index: 0, access: Access::Read, other: Access::Write, by };
    let place = (FILE, line("after the wrong barrier"));
    assert_violation(&found, "waits_after_the_barrier", (0, 1), &fault, place);
}

#[kernel(threads = 32)]
fn misaligned_source(x: In<f16>) {
    let tile = Shared::new().tile::<f16>(0);
    tile.copy_async::<8>(0, x, 4); // source
}

#[test]
fn copy_of_a_misaligned_source() {
    let device = emulator();
    let x = upload(&device, &[f16::from_f32(1.0); 64]);
    let found = violation(&device, misaligned_source { x: &x }, Grid::x(1));
    let fault = Fault::Misaligned { view: View::Param("x"), index: 4, access_bytes: 16 };
    assert_violation(&found, "misaligned_source", (0, 0), &fault, (FILE, line("source")));
}

/// A copy is counted once in each memory, where it begins.
#[test]
fn copies_are_counted() {
    let device = Emulator::checked().counting();
    let x = upload(&device, &[1u32; 128]);
    let mut y = unwritten(&device, 128);
    device.launch(pipeline { y: &mut y, x: &x, n: 1 }, Grid::x(1)).unwrap();
    let report = device.report().unwrap();
    let counts = |view, access| {
        let sites = report.of(view).filter(|site| site.access == access);
        sites.map(|site| (site.requests, site.transactions, site.ideal_transactions)).collect::<Vec<_>>()
    };
    assert_eq!(counts(View::Param("x"), Access::Read), [(1, 16, 16)]);
    assert_eq!(counts(TILE, Access::Write), [(1, 4, 4)]);
}

//! Planted races, in shared and global memory, and accesses that look like races but are none.

use kernels_gpu::launch::{Device, Grid};
use kernels_gpu::simt::emulator::{Access, Emulator, Error, Fault, Other, View};
use kernels_gpu::simt::prelude::*;

use crate::{assert_violation, emulator, line_of, unwritten, upload, violation};

const FILE: &str = "planted_races.rs";

/// The line of this file that ends with `// mark`.
fn line(mark: &str) -> u32 {
    line_of(include_str!("planted_races.rs"), mark)
}

#[kernel(threads = 64, shared = 64 * 4)]
fn reverse_without_barrier(y: Out<f32>) {
    let tile = Shared::new().tile::<f32>(64);
    let i = thread::thread_idx_x() as usize;
    tile.set(i, 0.0);
    thread::sync_threads();
    tile.set(i, i as f32);
    y.set(i, tile.get(63 - i)); // no barrier before
}

#[test]
fn read_after_write_in_shared_memory() {
    let device = emulator();
    let mut y = unwritten(&device, 64);
    let found = violation(&device, reverse_without_barrier { y: &mut y }, Grid::x(1));
    // Thread 32 is the first whose partner, thread 31, has already written. Before it, a read came before
    // its partner's write: thread 32's own write is what races with that.
    let Fault::Race { view: View::Tile(0), index, .. } = found.fault else { panic!("{found}") };
    assert_eq!((found.thread, index), (32, 32), "{found}");
    let (access, other, by) = (Access::Write, Access::Read, Other::Thread(31));
    let fault = Fault::Race { view: View::Tile(0), index: 32, access, other, by };
    assert_eq!(found.fault, fault);
    // Warps in the other order: now thread 31 finds what thread 32 did.
    let reversed = (1..100)
        .map(|seed| {
            let device = Emulator::checked().with_workers(1).with_seed(seed);
            let mut y = unwritten(&device, 64);
            violation(&device, reverse_without_barrier { y: &mut y }, Grid::x(1))
        })
        .find(|found| found.thread < 32)
        .expect("a seed runs the second warp first");
    assert!(matches!(reversed.fault, Fault::Race { view: View::Tile(0), .. }), "{reversed}");
}

#[kernel(threads = 64, shared = 64 * 4)]
fn shift_without_barrier(y: Out<f32>) {
    let tile = Shared::new().tile::<f32>(64);
    let i = thread::thread_idx_x() as usize;
    tile.set(i, i as f32);
    let previous = if i == 0 { 0.0 } else { tile.get(i - 1) }; // shift
    y.set(i, previous);
}

#[test]
fn neighbour_read_in_shared_memory() {
    let device = emulator();
    let mut y = unwritten(&device, 128);
    let found = violation(&device, shift_without_barrier { y: y.slice_mut(64..128) }, Grid::x(1));
    let (access, other, by) = (Access::Read, Access::Write, Other::Thread(0));
    let fault = Fault::Race { view: View::Tile(0), index: 0, access, other, by };
    assert_violation(&found, "shift_without_barrier", (0, 1), &fault, (FILE, line("shift")));
}

#[kernel(threads = 96, shared = 16)]
fn all_write_one(x: In<u8>) {
    let tile = Shared::new().tile::<u8>(16);
    let i = thread::thread_idx_x() as usize;
    tile.set(i / 2 % 16, x.get(i)); // two threads, one byte
}

#[test]
fn write_after_write_of_one_byte() {
    let device = emulator();
    let x = upload(&device, &[1u8; 96]);
    let found = violation(&device, all_write_one { x: &x }, Grid::x(1));
    let (access, other, by) = (Access::Write, Access::Write, Other::Thread(0));
    let fault = Fault::Race { view: View::Tile(0), index: 0, access, other, by };
    assert_violation(&found, "all_write_one", (0, 1), &fault, (FILE, line("two threads, one byte")));
}

#[kernel(threads = 64, shared = 64 * 4)]
fn reuse_without_barrier(y: Out<f32>) {
    let i = thread::thread_idx_x() as usize;
    let words = Shared::new().tile::<f32>(64);
    words.set(i, i as f32);
    thread::sync_threads();
    y.set(i, words.get(i ^ 1)); // still read
    let halves = Shared::new().tile::<f16>(128);
    halves.set(2 * i + 1, f16::from_f32(0.0));
}

#[test]
fn reuse_of_shared_memory_for_smaller_elements() {
    let device = emulator();
    let mut y = unwritten(&device, 64);
    let found = violation(&device, reuse_without_barrier { y: &mut y }, Grid::x(1));
    let (access, other, by) = (Access::Read, Access::Write, Other::Thread(0));
    // Thread 0 has already written half 1, the upper half of the word 0 that thread 1 reads.
    let fault = Fault::Race { view: View::Tile(0), index: 0, access, other, by };
    assert_violation(&found, "reuse_without_barrier", (0, 1), &fault, (FILE, line("still read")));
}

#[kernel(threads = 64)]
fn neighbours_in_global_memory(x: InOut<f32>) {
    let i = thread::index_1d();
    x.set(i, 1.0);
    warp::sync();
    if i % 64 == 32 {
        x.set(i, x.get(i - 1)); // other warp
    }
}

#[test]
fn warp_sync_does_not_order_other_warps() {
    let device = emulator();
    let mut x = upload(&device, &[0.0f32; 128]);
    let found = violation(&device, neighbours_in_global_memory { x: &mut x }, Grid::x(2));
    let (access, other, by) = (Access::Read, Access::Write, Other::Thread(31));
    let fault = Fault::Race { view: View::Param("x"), index: 31, access, other, by };
    assert_violation(&found, "neighbours_in_global_memory", (0, 32), &fault, (FILE, line("other warp")));
}

#[kernel(threads = 32)]
fn blocks_overlap(y: Out<f16>) {
    let i = thread::block_idx_x() as usize * 31 + thread::thread_idx_x() as usize;
    y.set(i, f16::from_f32(1.0)); // overlap
}

#[test]
fn blocks_write_one_element() {
    let device = emulator();
    let mut y = unwritten(&device, 32 + 31 * 4);
    let found = violation(&device, blocks_overlap { y: &mut y }, Grid::x(5));
    let by = Other::Block { block: 0, thread: 31 };
    let (access, other) = (Access::Write, Access::Write);
    let fault = Fault::Race { view: View::Param("y"), index: 31, access, other, by };
    assert_violation(&found, "blocks_overlap", (1, 0), &fault, (FILE, line("overlap")));
}

#[test]
fn races_are_found_with_many_workers_and_seeds() {
    for seed in 0..50 {
        let device = Emulator::checked().with_workers(8).with_seed(seed);
        let mut y = unwritten(&device, 32 + 31 * 4);
        let found = violation(&device, blocks_overlap { y: &mut y }, Grid::x(5));
        let Fault::Race { view: View::Param("y"), index, by, .. } = found.fault else { panic!("{found}") };
        // Elements 31, 62, … are the last of one block and the first of the next.
        assert!(index % 31 == 0 && index > 0, "{found}");
        let block = u64::from(found.block.x);
        let other = if found.thread == 0 { (block - 1, 31) } else { (block + 1, 0) };
        assert_eq!(by, Other::Block { block: other.0, thread: other.1 }, "{found}");
    }
}

#[kernel(threads = 32)]
fn counts_and_reads(counter: InOut<u32>, y: Out<u32>) {
    atomic::add_u32(counter, 0, 1); // counts
    thread::sync_threads();
    y.set(thread::index_1d(), counter.get(0));
}

#[test]
fn plain_read_of_what_other_blocks_count() {
    let device = emulator();
    let (mut counter, mut y) = (upload(&device, &[0u32]), unwritten(&device, 64));
    let kernel = counts_and_reads { counter: &mut counter, y: &mut y };
    let found = violation(&device, kernel, Grid::x(2));
    // Block 0 ran first: its reads come after its own atomics, but race with those of block 1.
    let by = Other::Block { block: 0, thread: 31 };
    let (access, other) = (Access::Atomic, Access::Read);
    let fault = Fault::Race { view: View::Param("counter"), index: 0, access, other, by };
    assert_violation(&found, "counts_and_reads", (1, 0), &fault, (FILE, line("counts")));
}

#[kernel(threads = 32)]
fn streams(y: InOut<f32>, x: In<f32>) {
    let i = thread::thread_idx_x() as usize;
    y.set(i, x.load_stream::<1>(i)[0]); // stream
}

#[test]
fn streaming_read_is_fine_of_what_is_not_written() {
    let device = emulator();
    let (mut y, x) = (unwritten(&device, 32), upload(&device, &[1.0f32; 32]));
    device.launch(streams { y: &mut y, x: &x }, Grid::x(1)).unwrap();
    assert_eq!(device.download(&y).unwrap(), [1.0; 32]);
}

#[test]
fn streaming_read_of_what_the_launch_may_write() {
    let device = emulator();
    let mut x = upload(&device, &[1.0f32; 64]);
    // Aliasing needs `unsafe`; a caller who keeps all its arrays in one buffer might do it.
    // SAFETY: the emulator is to find it; nothing else uses the span.
    let alias = unsafe { kernels_gpu::launch::DeviceSlice::from_raw(x.slice(0..32).address(), 32) };
    let found = violation(&device, streams { y: x.slice_mut(31..63), x: alias }, Grid::x(1));
    let fault = Fault::StreamOfWritten { view: View::Param("x"), index: 0 };
    assert_violation(&found, "streams", (0, 0), &fault, (FILE, line("stream")));
}

// What is no race.

#[kernel(threads = 128, shared = 128 * 4 + 16)]
fn well_ordered(x: InOut<f32>, counter: InOut<u32>) {
    let mut shared = Shared::new();
    let (tile, votes) = (shared.tile::<f32>(128), shared.tile::<u32>(4));
    let i = thread::thread_idx_x() as usize;
    let warp_first = i / 32 * 32;
    // Within a warp, ordered by warp::sync.
    tile.set(i, x.get(i));
    warp::sync();
    let sum: f32 = (warp_first..warp_first + 32).map(|j| tile.get(j)).sum();
    warp::sync();
    tile.set(i, sum);
    // Across the block, ordered by barriers.
    if i < 4 {
        votes.set(i, 0);
    }
    thread::sync_threads();
    let total = tile.get(0) + tile.get(32) + tile.get(64) + tile.get(96);
    atomic::add_u32(votes, i % 4, 1);
    thread::sync_threads();
    x.set(i, total + votes.get(3 - i % 4) as f32);
    atomic::add_u32(counter, 0, 1);
    // The same memory as smaller elements, after a barrier.
    let bytes = Shared::new().tile::<u8>(512);
    thread::sync_threads();
    bytes.set(511 - i, i as u8);
    thread::sync_threads();
    if bytes.get(511 - (i ^ 77)) != (i ^ 77) as u8 {
        kernels_gpu::simt::trap();
    }
}

#[test]
fn ordered_accesses_are_no_races() {
    for seed in 0..20 {
        let device = Emulator::checked().with_seed(seed);
        let mut x = upload(&device, &[1.0f32; 128]);
        let mut counter = upload(&device, &[0u32]);
        let kernel = well_ordered { x: &mut x, counter: &mut counter };
        device.launch(kernel, Grid::x(1)).unwrap();
        assert_eq!(device.download(&x).unwrap(), [128.0 + 32.0; 128]);
        assert_eq!(device.download(&counter).unwrap(), [128]);
    }
}

#[kernel(threads = 32)]
fn increments(x: InOut<u8>, backwards: u32) {
    let i = thread::index_1d();
    let i = if backwards == 1 { 63 - i } else { i };
    x.set(i, x.get(i).wrapping_add(1));
}

#[test]
fn neighbouring_bytes_and_following_launches_are_independent() {
    let device = emulator();
    let (mut x, mut other) = (upload(&device, &[0u8; 64]), upload(&device, &[0u8; 64]));
    device.launch(increments { x: &mut x, backwards: 0 }, Grid::x(2)).unwrap();
    // Until cells, which tell 1023 launches apart, take the next one for the first.
    for _ in 0..1022 {
        device.launch(increments { x: &mut other, backwards: 0 }, Grid::x(2)).unwrap();
    }
    device.launch(increments { x: &mut x, backwards: 1 }, Grid::x(2)).unwrap();
    assert_eq!(device.download(&x).unwrap(), [2; 64]);
    assert_eq!(device.download(&other).unwrap(), [(1022 % 256) as u8; 64]);
}

#[test]
fn unwritten_results_are_not_copied_out() {
    let device = emulator();
    let mut x = upload(&device, &[0u8; 64]);
    let mut y = unwritten::<f32>(&device, 40);
    device.launch(increments { x: &mut x, backwards: 0 }, Grid::x(2)).unwrap();
    let z = upload(&device, &[1.0f32; 32]);
    device.launch(streams { y: y.slice_mut(0..32), x: &z }, Grid::x(1)).unwrap();
    let error = device.download(y.slice(8..40)).unwrap_err();
    assert!(matches!(error, Error::Unwritten { index: 24, len: 32 }), "{error}");
}

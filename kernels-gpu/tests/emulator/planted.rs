//! Planted bugs, and what the emulator says of them: bounds, alignment, unwritten memory, barriers, warp
//! words, tiles.

use kernels_gpu::launch::Grid;
use kernels_gpu::simt::emulator::{Fault, State, View, Word};
use kernels_gpu::simt::prelude::*;

use crate::{assert_violation, emulator, line_of, unwritten, upload, violation};

const FILE: &str = "planted.rs";

/// The line of this file that ends with `// mark`.
fn line(mark: &str) -> u32 {
    line_of(include_str!("planted.rs"), mark)
}

#[kernel(threads = 64)]
fn reads_past_the_end(y: Out<f32>, x: In<f32>) {
    let i = thread::index_1d();
    y.set(i, x.get(i)); // past the end
}

#[test]
fn read_out_of_bounds() {
    let device = emulator();
    let (mut y, x) = (unwritten(&device, 128), upload(&device, &[1.0f32; 100]));
    let found = violation(&device, reads_past_the_end { y: &mut y, x: &x }, Grid::x(2));
    let fault = Fault::OutOfBounds { view: View::Param("x"), index: 100, count: 1, len: 100 };
    assert_violation(&found, "reads_past_the_end", (1, 36), &fault, (FILE, line("past the end")));
}

#[test]
fn view_ends_where_its_slice_ends() {
    let device = emulator();
    let (mut y, x) = (unwritten(&device, 128), upload(&device, &[1.0f32; 128]));
    let kernel = reads_past_the_end { y: y.slice_mut(0..100), x: &x };
    let found = violation(&device, kernel, Grid::x(2));
    let fault = Fault::OutOfBounds { view: View::Param("y"), index: 100, count: 1, len: 100 };
    assert_violation(&found, "reads_past_the_end", (1, 36), &fault, (FILE, line("past the end")));
}

#[kernel(threads = 32, shared = 256)]
fn vector_past_a_tile(x: In<f32>) {
    let mut shared = Shared::new();
    let _first = shared.tile::<u32>(2);
    let tile = shared.tile::<f32>(30);
    let i = thread::thread_idx_x() as usize;
    if i.is_multiple_of(4) {
        tile.store::<4>(i, x.load::<4>(i)); // past the tile
    }
}

#[test]
fn tile_out_of_bounds() {
    let device = emulator();
    let x = upload(&device, &[1.0f32; 32]);
    let found = violation(&device, vector_past_a_tile { x: &x }, Grid::x(1));
    let fault = Fault::OutOfBounds { view: View::Tile(1), index: 28, count: 4, len: 30 };
    assert_violation(&found, "vector_past_a_tile", (0, 28), &fault, (FILE, line("past the tile")));
}

#[kernel(threads = 32)]
fn misaligned_load(y: Out<f32>, x: In<f32>) {
    let i = thread::thread_idx_x() as usize;
    let [a, b] = x.load::<2>(i); // misaligned
    y.set(i, a + b);
}

#[test]
fn vector_access_misaligned() {
    let device = emulator();
    let (mut y, x) = (unwritten(&device, 32), upload(&device, &[1.0f32; 64]));
    let found = violation(&device, misaligned_load { y: &mut y, x: &x }, Grid::x(1));
    let fault = Fault::Misaligned { view: View::Param("x"), index: 1, access_bytes: 8 };
    assert_violation(&found, "misaligned_load", (0, 1), &fault, (FILE, line("misaligned")));
}

#[test]
fn slice_at_an_odd_element_is_misaligned() {
    let device = emulator();
    let (mut y, x) = (unwritten(&device, 32), upload(&device, &[1.0f32; 65]));
    let found = violation(&device, misaligned_load { y: &mut y, x: x.slice(1..65) }, Grid::x(1));
    let fault = Fault::Misaligned { view: View::Param("x"), index: 0, access_bytes: 8 };
    assert_violation(&found, "misaligned_load", (0, 0), &fault, (FILE, line("misaligned")));
}

#[kernel(threads = 32)]
fn reads_a_gap(y: Out<u32>, x: In<u8>) {
    let i = thread::thread_idx_x() as usize;
    y.set(i, x.u32_at(4 * i)); // gap
}

#[test]
fn read_of_unwritten_global_memory() {
    let device = emulator();
    let (mut y, mut x) = (unwritten(&device, 32), unwritten::<u8>(&device, 128));
    use kernels_gpu::launch::Device;
    device.copy_in(x.slice_mut(0..70), &[1; 70]).unwrap();
    device.zero(x.slice_mut(71..128)).unwrap();
    let found = violation(&device, reads_a_gap { y: &mut y, x: &x }, Grid::x(1));
    let fault = Fault::Unwritten { view: View::Param("x"), index: 70 };
    assert_violation(&found, "reads_a_gap", (0, 17), &fault, (FILE, line("gap")));
}

#[kernel(threads = 64, shared = 64 * 2)]
fn reads_an_unwritten_tile(y: Out<f32>) {
    let tile = Shared::new().tile::<f16>(64);
    let i = thread::thread_idx_x() as usize;
    if i != 40 {
        tile.set(i, f16::from_f32(i as f32));
    }
    thread::sync_threads();
    y.set(i, tile.get(63 - i).to_f32()); // unwritten tile
}

#[test]
fn read_of_unwritten_shared_memory() {
    let device = emulator();
    let mut y = unwritten(&device, 128);
    let found = violation(&device, reads_an_unwritten_tile { y: &mut y }, Grid::x(2));
    let fault = Fault::Unwritten { view: View::Tile(0), index: 40 };
    let place = (FILE, line("unwritten tile"));
    assert_violation(&found, "reads_an_unwritten_tile", (0, 23), &fault, place);
}

#[kernel(threads = 96)]
fn barrier_in_a_branch(x: InOut<f32>) {
    let i = thread::thread_idx_x() as usize;
    if i < 64 {
        x.set(i, 1.0);
        thread::sync_threads(); // branch barrier
    }
    x.set(i, 2.0);
}

#[test]
fn barrier_that_some_threads_have_left() {
    let device = emulator();
    let mut x = unwritten(&device, 96);
    let found = violation(&device, barrier_in_a_branch { x: &mut x }, Grid::x(1));
    let fault = Fault::DivergentBarrier { other: 64, state: State::Exited };
    let place = (FILE, line("branch barrier"));
    assert_violation(&found, "barrier_in_a_branch", (0, 0), &fault, place);
}

#[kernel(threads = 64)]
#[allow(clippy::if_same_then_else)]
fn two_barriers(x: InOut<f32>) {
    let i = thread::thread_idx_x() as usize;
    if i == 33 {
        thread::sync_threads(); // odd barrier
    } else {
        thread::sync_threads(); // even barrier
    }
    x.set(i, 2.0);
}

#[test]
fn different_barriers() {
    let device = emulator();
    let mut x = unwritten(&device, 64);
    let found = violation(&device, two_barriers { x: &mut x }, Grid::x(1));
    let Fault::DivergentBarrier { other: 33, state: State::AtBarrier(site) } = found.fault else {
        panic!("{found}");
    };
    assert_eq!(site.line, line("odd barrier"));
    assert_violation(&found, "two_barriers", (0, 0), &found.fault, (FILE, line("even barrier")));
}

#[kernel(threads = 64)]
fn shuffle_after_exit(y: Out<u32>) {
    let i = thread::thread_idx_x();
    if i == 45 {
        return;
    }
    y.set(i as usize, warp::shuffle_down(i, 1)); // exited lane
}

#[test]
fn shuffle_from_an_exited_lane() {
    let device = emulator();
    let mut y = unwritten(&device, 64);
    let found = violation(&device, shuffle_after_exit { y: &mut y }, Grid::x(1));
    let word = Word::ShuffleDown;
    let fault = Fault::DivergentWarp { word, other: 45, state: State::Exited };
    let place = (FILE, line("exited lane"));
    assert_violation(&found, "shuffle_after_exit", (0, 32), &fault, place);
}

#[kernel(threads = 32)]
#[allow(clippy::if_same_then_else)] // The same on paper, but not the same instruction.
fn divergent_shuffles(y: Out<f32>) {
    let i = thread::thread_idx_x();
    let value = i as f32;
    let result = if i < 16 {
        warp::shuffle_xor(value, 1) // lower half
    } else {
        warp::shuffle_xor(value, 1) // upper half
    };
    y.set(i as usize, result);
}

#[test]
fn shuffles_in_both_branches() {
    let device = emulator();
    let mut y = unwritten(&device, 32);
    let found = violation(&device, divergent_shuffles { y: &mut y }, Grid::x(1));
    let Fault::DivergentWarp {
        word: Word::ShuffleXor,
        other: 16,
        state: State::InWarpWord(Word::ShuffleXor, site),
    } = found.fault
    else {
        panic!("{found}");
    };
    assert_eq!(site.line, line("upper half"));
    assert_violation(&found, "divergent_shuffles", (0, 0), &found.fault, (FILE, line("lower half")));
}

#[kernel(threads = 32)]
fn shuffle_beside_a_barrier(y: Out<u32>) {
    let i = thread::thread_idx_x();
    if i == 7 {
        thread::sync_threads(); // lonely barrier
    }
    y.set(i as usize, u32::from(warp::any(i > 3))); // vote beside a barrier
}

#[test]
fn vote_while_a_lane_waits_at_a_barrier() {
    let device = emulator();
    let mut y = unwritten(&device, 32);
    let found = violation(&device, shuffle_beside_a_barrier { y: &mut y }, Grid::x(1));
    let Fault::DivergentWarp { word: Word::Any, other: 7, state: State::AtBarrier(site) } = found.fault
    else {
        panic!("{found}");
    };
    assert_eq!(site.line, line("lonely barrier"));
    let place = (FILE, line("vote beside a barrier"));
    assert_violation(&found, "shuffle_beside_a_barrier", (0, 0), &found.fault, place);
}

#[kernel(threads = 32)]
fn shuffles_from_lane_32(y: Out<u32>) {
    let i = thread::thread_idx_x();
    y.set(i as usize, warp::shuffle_idx(i, i + 1)); // lane 32
}

#[test]
fn shuffle_from_a_lane_that_does_not_exist() {
    let device = emulator();
    let mut y = unwritten(&device, 32);
    let found = violation(&device, shuffles_from_lane_32 { y: &mut y }, Grid::x(1));
    let fault = Fault::NoSuchLane { word: Word::ShuffleIdx, operand: 32 };
    assert_violation(&found, "shuffles_from_lane_32", (0, 31), &fault, (FILE, line("lane 32")));
}

#[kernel(threads = 32, shared = 64)]
fn carves_too_much() {
    let mut shared = Shared::new();
    shared.tile::<u8>(1).set(0, 1);
    let _tile = shared.tile::<f32>(13); // too much
}

#[test]
fn tiles_beyond_the_stated_shared_memory() {
    let found = violation(&emulator(), carves_too_much {}, Grid::x(1));
    let fault = Fault::SharedOverflow { view: View::Tile(1), end: 16 + 13 * 4, stated: 64 };
    assert_violation(&found, "carves_too_much", (0, 0), &fault, (FILE, line("too much")));
}

#[kernel(threads = 32, shared = 256)]
fn carves_by_thread() {
    let mut shared = Shared::new();
    let lower = thread::thread_idx_x() < 9;
    let _tile = shared.tile::<f32>(if lower { 8 } else { 16 }); // uneven tile
}

#[test]
fn threads_that_carve_different_tiles() {
    let found = violation(&emulator(), carves_by_thread {}, Grid::x(1));
    let fault = Fault::TileMismatch { view: View::Tile(0) };
    assert_violation(&found, "carves_by_thread", (0, 9), &fault, (FILE, line("uneven tile")));
}

#[kernel(threads = 32)]
fn traps(x: In<u32>) {
    if x.get(thread::thread_idx_x() as usize) == 5 {
        kernels_gpu::simt::trap(); // trap
    }
}

#[test]
fn trap_is_reported() {
    let device = emulator();
    let x = upload(&device, &(0..32).collect::<Vec<u32>>());
    let found = violation(&device, traps { x: &x }, Grid::x(1));
    let fault = Fault::Panic { message: "trap".to_owned() };
    assert_violation(&found, "traps", (0, 5), &fault, (FILE, line("trap")));
}

#[kernel(threads = 64, shared = 64)]
fn panics(x: In<u32>) {
    let lanes = [0u32; 4];
    thread::sync_threads();
    let i = x.get(thread::thread_idx_x() as usize) as usize;
    assert!(lanes[i] == 0, "never");
}

#[test]
fn panic_of_the_kernel_is_an_error() {
    let device = emulator();
    let mut values = [0u32; 64];
    values[50] = 9;
    let x = upload(&device, &values);
    let found = violation(&device, panics { x: &x }, Grid::x(3));
    let message = "index out of bounds: the len is 4 but the index is 9".to_owned();
    assert_eq!(found.fault, Fault::Panic { message });
    assert_eq!((found.block.x, found.thread), (0, 50));
    // The emulator goes on working.
    let fine = upload(&device, &[0u32; 64]);
    kernels_gpu::launch::Device::launch(&device, panics { x: &fine }, Grid::x(3)).unwrap();
}

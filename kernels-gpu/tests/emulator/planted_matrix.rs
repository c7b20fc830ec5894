//! Planted bugs in matrix words.

use kernels_gpu::launch::Grid;
use kernels_gpu::simt::emulator::{Access, Fault, Other, State, View, Word};
use kernels_gpu::simt::prelude::*;

use crate::{assert_violation, emulator, line_of, unwritten, upload, violation};

const FILE: &str = "planted_matrix.rs";

/// The line of this file that ends with `// mark`.
fn line(mark: &str) -> u32 {
    line_of(include_str!("planted_matrix.rs"), mark)
}

/// Each lane writes a row, but for one; `pitch` and `shift` place the rows that are read.
#[kernel(threads = 64, shared = 2 * 32 * 8)]
fn loads_rows(y: Out<u32>, unwritten_row: u32, pitch: u32, shift: u32) {
    let tile = Shared::new().tile::<u16>(32 * 8);
    let lane = warp::lane_id();
    if thread::thread_idx_x() >= 32 {
        return;
    }
    if lane != unwritten_row {
        tile.store::<8>(8 * lane as usize, [1; 8]);
    }
    warp::sync();
    let row = lane * pitch + if lane == 9 { shift } else { 0 };
    let [a, b] = tile.ldmatrix_x2(row as usize); // rows
    y.set(lane as usize, a + b);
}

#[test]
fn ldmatrix_of_unwritten_memory() {
    let device = emulator();
    let mut y = unwritten(&device, 32);
    let kernel = loads_rows { y: &mut y, unwritten_row: 7, pitch: 8, shift: 0 };
    let found = violation(&device, kernel, Grid::x(1));
    let fault = Fault::Unwritten { view: View::Tile(0), index: 56 };
    assert_violation(&found, "loads_rows", (0, 7), &fault, (FILE, line("rows")));
}

#[test]
fn ldmatrix_of_a_misaligned_row() {
    let device = emulator();
    let mut y = unwritten(&device, 32);
    let kernel = loads_rows { y: &mut y, unwritten_row: 99, pitch: 8, shift: 4 };
    let found = violation(&device, kernel, Grid::x(1));
    let fault = Fault::Misaligned { view: View::Tile(0), index: 76, access_bytes: 16 };
    assert_violation(&found, "loads_rows", (0, 9), &fault, (FILE, line("rows")));
}

#[test]
fn ldmatrix_out_of_bounds() {
    let device = emulator();
    let mut y = unwritten(&device, 32);
    let kernel = loads_rows { y: &mut y, unwritten_row: 99, pitch: 24, shift: 0 };
    let found = violation(&device, kernel, Grid::x(1));
    let fault = Fault::OutOfBounds { view: View::Tile(0), index: 264, count: 8, len: 256 };
    assert_violation(&found, "loads_rows", (0, 11), &fault, (FILE, line("rows")));
}

/// The rows of lanes that pass none are not accessed.
#[test]
fn rows_of_idle_lanes_are_ignored() {
    use kernels_gpu::launch::Device;
    let device = emulator();
    let mut y = unwritten(&device, 32);
    let kernel = loads_rows { y: &mut y, unwritten_row: 31, pitch: 8, shift: 0 };
    device.launch(kernel, Grid::x(1)).unwrap();
}

#[kernel(threads = 64, shared = 2 * 32 * 8)]
fn loads_in_a_branch(y: Out<u32>, x: In<u32>) {
    let tile = Shared::new().tile::<bf16>(32 * 8);
    let i = thread::thread_idx_x() as usize;
    tile.store::<4>(4 * i, [bf16::from_f32(1.0); 4]);
    thread::sync_threads();
    if x.get(i) != 0 {
        y.set(i, tile.ldmatrix_x1(8 * (i % 8))[0]); // branch
    }
    thread::sync_threads(); // barrier
}

#[test]
fn divergent_ldmatrix() {
    let device = emulator();
    let mut takes = [1u32; 64];
    takes[35] = 0;
    let (mut y, x) = (unwritten(&device, 64), upload(&device, &takes));
    let found = violation(&device, loads_in_a_branch { y: &mut y, x: &x }, Grid::x(1));
    let Fault::DivergentWarp { word, other, state: State::AtBarrier(site) } = &found.fault else {
        panic!("{found}")
    };
    assert_eq!((*word, *other), (Word::Ldmatrix { n: 1, transposed: false }, 35));
    assert_eq!(site.line, line("barrier"));
    assert_violation(&found, "loads_in_a_branch", (0, 32), &found.fault, (FILE, line("branch")));
    assert!(found.to_string().contains("waits in Tile::ldmatrix_x1, but thread 35"), "{found}");
}

#[kernel(threads = 32)]
fn multiplies_in_half_a_warp(y: Out<f32>) {
    let lane = warp::lane_id() as usize;
    if lane < 16 {
        y.store::<4>(4 * lane, matrix::mma_m16n8k16_bf16([0; 4], [0; 2], [0.0; 4])); // half
    }
}

#[test]
fn divergent_mma() {
    let device = emulator();
    let mut y = unwritten(&device, 64);
    let found = violation(&device, multiplies_in_half_a_warp { y: &mut y }, Grid::x(1));
    let fault = Fault::DivergentWarp { word: Word::MmaBf16, other: 16, state: State::Exited };
    assert_violation(&found, "multiplies_in_half_a_warp", (0, 0), &fault, (FILE, line("half")));
    assert!(found.to_string().contains("matrix::mma_m16n8k16_bf16"), "{found}");
}

/// `ldmatrix` waits for the lanes, but orders no memory accesses.
#[kernel(threads = 32, shared = 2 * 32 * 8)]
fn loads_without_sync(y: Out<u32>) {
    let tile = Shared::new().tile::<u16>(32 * 8);
    let lane = warp::lane_id() as usize;
    tile.store::<8>(8 * lane, [lane as u16; 8]);
    let [a] = tile.ldmatrix_x1(8 * (lane ^ 1)); // too early
    y.set(lane, a);
}

#[test]
fn ldmatrix_races_with_a_store() {
    let device = emulator();
    let mut y = unwritten(&device, 32);
    let found = violation(&device, loads_without_sync { y: &mut y }, Grid::x(1));
    // Lane 0 comes first, so it finds row 1 not written yet.
    let fault = Fault::Unwritten { view: View::Tile(0), index: 8 };
    assert_violation(&found, "loads_without_sync", (0, 0), &fault, (FILE, line("too early")));
}

/// Two lanes pass the same row.
#[kernel(threads = 32, shared = 2 * 32 * 8)]
fn stores_a_row_twice(x: In<u32>) {
    let tile = Shared::new().tile::<u16>(32 * 8);
    let lane = warp::lane_id() as usize;
    tile.stmatrix_x4_trans(8 * x.get(lane) as usize, [0; 4]); // twice
}

#[test]
fn stmatrix_races() {
    let device = emulator();
    let mut rows: Vec<u32> = (0..32).collect();
    rows[21] = 3;
    let x = upload(&device, &rows);
    let found = violation(&device, stores_a_row_twice { x: &x }, Grid::x(1));
    let fault = Fault::Race {
        view: View::Tile(0),
        index: 24,
        access: Access::Write,
        other: Access::Write,
        by: Other::Thread(3),
    };
    assert_violation(&found, "stores_a_row_twice", (0, 21), &fault, (FILE, line("twice")));
}

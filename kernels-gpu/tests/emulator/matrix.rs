//! Matrix words of a warp: the layouts as the PTX instruction set states them, products against naive ones.

use kernels_gpu::launch::{Device, Grid};
use kernels_gpu::simt::emulator::{Access, Emulator, View};
use kernels_gpu::simt::prelude::*;

use crate::{emulator, unwritten, upload};

/// A tile of 32 rows of 8 elements, of which row r begins at 8 · (r ^ 5): so rows are passed in another order than they lie.
const ROWS: usize = 32;

fn place_of(row: usize) -> usize {
    8 * (row ^ 5)
}

#[kernel(threads = 64, shared = 2 * ROWS * 8 * 2)]
fn loads(y: Out<u32>, x: In<u16>) {
    let mut shared = Shared::new();
    let tiles = [shared.tile::<u16>(ROWS * 8), shared.tile::<u16>(ROWS * 8)];
    let (warp, lane) = (warp::warp_id() as usize, warp::lane_id() as usize);
    let tile = tiles[warp];
    tile.store::<8>(8 * lane, x.load::<8>(8 * (ROWS * warp + lane)));
    warp::sync();
    // Lanes that pass no row may pass anything.
    let row = |n: usize| if lane < 8 * n { place_of(lane) } else { usize::MAX };
    let [one] = tile.ldmatrix_x1(row(1));
    let [one_trans] = tile.ldmatrix_x1_trans(row(1));
    let two = tile.ldmatrix_x2(row(2));
    let two_trans = tile.ldmatrix_x2_trans(row(2));
    let four = tile.ldmatrix_x4(row(4));
    let four_trans = tile.ldmatrix_x4_trans(row(4));
    let registers = [one, one_trans].into_iter().chain(two).chain(two_trans).chain(four).chain(four_trans);
    for (i, register) in registers.enumerate() {
        y.set(14 * thread::thread_idx_x() as usize + i, register);
    }
}

/// Element i (0 or 1) of register m of a lane: its matrix, row and column, by the PTX instruction set.
fn element_of_fragment(lane: usize, i: usize, transposed: bool) -> (usize, usize) {
    let (row, col) = (lane / 4, lane % 4 * 2 + i);
    if transposed { (col, row) } else { (row, col) }
}

#[test]
fn ldmatrix_layouts() {
    let device = emulator();
    let x: Vec<u16> = (0..2 * ROWS * 8).map(|i| 1000 + i as u16).collect();
    let x_device = upload(&device, &x);
    let mut y = unwritten::<u32>(&device, 64 * 14);
    device.launch(loads { y: &mut y, x: &x_device }, Grid::x(1)).unwrap();
    for (thread, found) in device.download(&y).unwrap().chunks(14).enumerate() {
        let (warp, lane) = (thread / 32, thread % 32);
        let mut expected = Vec::new();
        for (n, transposed) in [(1, false), (1, true), (2, false), (2, true), (4, false), (4, true)] {
            for matrix in 0..n {
                let [low, high] = [0, 1].map(|i| {
                    let (row, col) = element_of_fragment(lane, i, transposed);
                    u32::from(x[warp * ROWS * 8 + place_of(8 * matrix + row) + col])
                });
                expected.push(low | high << 16);
            }
        }
        assert_eq!(found, expected, "thread {thread}");
    }
}

#[kernel(threads = 32, shared = 6 * ROWS * 8 * 2)]
fn stores(y: Out<u16>, x: In<u32>) {
    let tile = Shared::new().tile::<u16>(6 * ROWS * 8);
    let lane = warp::lane_id() as usize;
    let fragments = x.load::<4>(4 * lane);
    for i in 0..6 * 8 {
        tile.set(32 * i + lane, 0);
    }
    warp::sync();
    let row = |n: usize, turn: usize| {
        if lane < 8 * n { turn * ROWS * 8 + place_of(lane) } else { usize::MAX }
    };
    tile.stmatrix_x1(row(1, 0), [fragments[0]]);
    tile.stmatrix_x1_trans(row(1, 1), [fragments[0]]);
    tile.stmatrix_x2(row(2, 2), [fragments[0], fragments[1]]);
    tile.stmatrix_x2_trans(row(2, 3), [fragments[0], fragments[1]]);
    tile.stmatrix_x4(row(4, 4), fragments);
    tile.stmatrix_x4_trans(row(4, 5), fragments);
    warp::sync();
    for i in 0..6 * 8 {
        y.set(32 * i + lane, tile.get(32 * i + lane));
    }
}

#[test]
fn stmatrix_layouts() {
    let device = emulator();
    let x: Vec<u32> = (0..128).map(|i| (2 * i + 1) | (2 * i + 2) << 16).collect();
    let x_device = upload(&device, &x);
    let mut y = unwritten::<u16>(&device, 6 * ROWS * 8);
    device.launch(stores { y: &mut y, x: &x_device }, Grid::x(1)).unwrap();
    let mut expected = vec![0; 6 * ROWS * 8];
    let turns = [(1, false), (1, true), (2, false), (2, true), (4, false), (4, true)];
    for (turn, (n, transposed)) in turns.into_iter().enumerate() {
        for (lane, matrix, i) in (0..32 * n * 2).map(|j| (j / 2 % 32, j / 64, j % 2)) {
            let (row, col) = element_of_fragment(lane, i, transposed);
            let place = turn * ROWS * 8 + place_of(8 * matrix + row) + col;
            expected[place] = (x[4 * lane + matrix] >> (16 * i)) as u16;
        }
    }
    assert_eq!(device.download(&y).unwrap(), expected);
}

#[kernel(threads = 32, shared = 64 * 32 * 2)]
fn rows_of_pitch(y: Out<u32>, pitch: u32, swizzle: u32) {
    let tile = Shared::new().tile::<u16>(64 * 32);
    let lane = warp::lane_id() as usize;
    for i in 0..64 {
        tile.set(32 * i + lane, 0);
    }
    warp::sync();
    let row = lane * pitch as usize + 8 * (lane / 2 % 4) * swizzle as usize;
    let [a, b, c, d] = tile.ldmatrix_x4(row);
    tile.stmatrix_x4(row, [a, b, c, d]);
    y.set(lane, a);
}

/// Eight rows of 16 bytes are one wavefront at best.
#[test]
fn rows_are_counted_as_wavefronts() {
    for (pitch, swizzle, wavefronts) in [(8, 0, 4), (32, 0, 16), (64, 0, 32), (32, 1, 4), (40, 0, 4)] {
        let device = Emulator::checked().counting();
        let mut y = unwritten(&device, 32);
        device.launch(rows_of_pitch { y: &mut y, pitch, swizzle }, Grid::x(1)).unwrap();
        let report = device.report().unwrap();
        let sites: Vec<_> = report.of(View::Tile(0)).filter(|site| site.ideal_transactions == 4).collect();
        assert_eq!(sites.len(), 2, "{report:?}");
        for (site, access) in sites.iter().zip([Access::Read, Access::Write]) {
            let found = (site.access, site.requests, site.transactions);
            assert_eq!(found, (access, 1, wavefronts), "pitch {pitch}, swizzle {swizzle}");
        }
    }
}

macro_rules! products {
    ($kernel:ident, $mma:ident, $sum:ty) => {
        #[kernel(threads = 32)]
        fn $kernel(d: Out<$sum>, a: In<u32>, b: In<u32>, c: In<$sum>) {
            let lane = warp::lane_id() as usize;
            let sums = matrix::$mma(a.load::<4>(4 * lane), b.load::<2>(2 * lane), c.load::<4>(4 * lane));
            d.store::<4>(4 * lane, sums);
        }
    };
}

products!(product_f16, mma_m16n8k16_f16, f32);
products!(product_bf16, mma_m16n8k16_bf16, f32);
products!(product_s8, mma_m16n8k32_s8, i32);

/// Row and column of element i of a lane's a, for elements of `size` bytes; as the PTX instruction set states it for
/// m16n8k16 (i from 0 to 7) and m16n8k32 (0 to 15).
fn place_in_a(lane: usize, i: usize, size: usize) -> (usize, usize) {
    let (group, place) = (lane >> 2, lane % 4);
    if size == 2 {
        let row = if (0..2).contains(&i) || (4..6).contains(&i) { group } else { group + 8 };
        (row, if i < 4 { place * 2 + (i & 1) } else { place * 2 + (i & 1) + 8 })
    } else {
        let row = if (0..4).contains(&i) || (8..12).contains(&i) { group } else { group + 8 };
        (row, if i < 8 { place * 4 + (i & 3) } else { place * 4 + (i & 3) + 16 })
    }
}

/// Row and column of element i of a lane's b.
fn place_in_b(lane: usize, i: usize, size: usize) -> (usize, usize) {
    let (group, place) = (lane >> 2, lane % 4);
    if size == 2 {
        (if i < 2 { place * 2 + (i & 1) } else { place * 2 + (i & 1) + 8 }, group)
    } else {
        (if i < 4 { place * 4 + (i & 3) } else { place * 4 + (i & 3) + 16 }, group)
    }
}

/// Row and column of element i of a lane's c.
fn place_in_c(lane: usize, i: usize) -> (usize, usize) {
    let group = lane >> 2;
    (if i < 2 { group } else { group + 8 }, lane % 4 * 2 + (i & 1))
}

/// Small numbers without a pattern.
fn number(i: usize) -> i32 {
    (i * i * 7 + i * 13 + 5) as i32 % 31 - 15
}

/// Fragments of matrices of elements of `size` bytes, where `bits` are those of a number.
fn fragments(size: usize, bits: impl Fn(i32) -> u32) -> (Vec<u32>, Vec<u32>) {
    let k = 32 / size;
    let of = |n_registers: usize, place: &dyn Fn(usize, usize) -> i32| -> Vec<u32> {
        let register = |lane: usize, register: usize| {
            (0..4 / size)
                .fold(0, |word, e| word | bits(place(lane, register * 4 / size + e)) << (8 * size * e))
        };
        (0..32 * n_registers).map(|i| register(i / n_registers, i % n_registers)).collect()
    };
    let a = of(4, &|lane, i| {
        let (row, col) = place_in_a(lane, i, size);
        number(row * k + col)
    });
    let b = of(2, &|lane, i| {
        let (row, col) = place_in_b(lane, i, size);
        number(1000 + row * 8 + col)
    });
    (a, b)
}

/// Element of the product, and of c, which is 100 · row + column.
fn expected(row: usize, col: usize, k: usize) -> i32 {
    let products = (0..k).map(|i| number(row * k + i) * number(1000 + i * 8 + col));
    products.sum::<i32>() + c_at(row, col)
}

fn c_at(row: usize, col: usize) -> i32 {
    (100 * row + col) as i32
}

macro_rules! product_test {
    ($name:ident, $kernel:ident, $size:literal, $sum:ty, $bits:expr) => {
        #[test]
        fn $name() {
            let device = emulator();
            let (a, b) = fragments($size, $bits);
            let each_c = (0..128).map(|i| place_in_c(i / 4, i % 4));
            let c: Vec<$sum> = each_c.clone().map(|(row, col)| c_at(row, col) as $sum).collect();
            let (a, b, c) = (upload(&device, &a), upload(&device, &b), upload(&device, &c));
            let mut d = unwritten::<$sum>(&device, 128);
            device.launch($kernel { d: &mut d, a: &a, b: &b, c: &c }, Grid::x(1)).unwrap();
            for ((row, col), found) in each_c.zip(device.download(&d).unwrap()) {
                assert_eq!(found, expected(row, col, 32 / $size) as $sum, "row {row}, column {col}");
            }
        }
    };
}

product_test!(products_of_f16, product_f16, 2, f32, |x| u32::from(f16::from_f32(x as f32).to_bits()));
product_test!(products_of_bf16, product_bf16, 2, f32, |x| u32::from(bf16::from_f32(x as f32).to_bits()));
product_test!(products_of_bytes, product_s8, 1, i32, |x| u32::from(x as u8));

/// The sum is rounded once: 2²⁴ + 1 + 1 is not 2²⁴.
#[test]
fn products_are_rounded_once() {
    let device = emulator();
    let one = u32::from(f16::from_f32(1.0).to_bits());
    let both = one | one << 16;
    let (a, b) = (upload(&device, &[both; 128]), upload(&device, &[both; 64]));
    let c = upload(&device, &[16_777_216.0f32; 128]);
    let mut d = unwritten::<f32>(&device, 128);
    device.launch(product_f16 { d: &mut d, a: &a, b: &b, c: &c }, Grid::x(1)).unwrap();
    assert_eq!(device.download(&d).unwrap(), [16_777_232.0; 128]);
}

#[test]
fn sums_of_bytes_wrap() {
    let device = emulator();
    let (a, b) = (upload(&device, &[0x7f7f_7f7fu32; 128]), upload(&device, &[0x7f7f_7f7fu32; 64]));
    let c = upload(&device, &[i32::MAX; 128]);
    let mut d = unwritten::<i32>(&device, 128);
    device.launch(product_s8 { d: &mut d, a: &a, b: &b, c: &c }, Grid::x(1)).unwrap();
    assert_eq!(device.download(&d).unwrap(), [i32::MAX.wrapping_add(32 * 127 * 127); 128]);
}

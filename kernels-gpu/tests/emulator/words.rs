//! The words' meaning, against their definitions.

use kernels_gpu::launch::{Device, Grid};
use kernels_gpu::simt::prelude::*;

use crate::{emulator, unwritten, upload};

#[kernel(threads = 64)]
fn shuffles(y: Out<u32>, x: In<u32>, operand: u32) {
    let i = thread::index_1d();
    let value = x.get(i);
    let row = 8 * i;
    y.set(row, warp::shuffle_xor(value, operand));
    y.set(row + 1, warp::shuffle_down(value, operand));
    y.set(row + 2, warp::shuffle_up(value, operand));
    y.set(row + 3, warp::shuffle_idx(value, operand));
    y.set(row + 4, warp::ballot(value.is_multiple_of(3)));
    y.set(row + 5, u32::from(warp::all(value >= 32)));
    y.set(row + 6, u32::from(warp::any(value == 35)));
    y.set(row + 7, warp::shuffle_idx(-(value as f32), 31 - warp::lane_id()).to_bits());
}

#[test]
fn warp_words() {
    let device = emulator();
    let x: Vec<u32> = (0..64).collect();
    let x_device = upload(&device, &x);
    for operand in [0usize, 1, 5, 16, 31] {
        let mut y = unwritten(&device, 64 * 8);
        let kernel = shuffles { y: &mut y, x: &x_device, operand: operand as u32 };
        device.launch(kernel, Grid::x(1)).unwrap();
        for (i, row) in device.download(&y).unwrap().chunks(8).enumerate() {
            let (warp, lane) = (i / 32 * 32, i % 32);
            let down = if lane + operand < 32 { i + operand } else { i };
            let up = if lane >= operand { i - operand } else { i };
            let votes = (0..32).filter(|l| (warp + l) % 3 == 0).fold(0, |bits, l| bits | 1u32 << l);
            let expected = [
                x[warp + (lane ^ operand)],
                x[down],
                x[up],
                x[warp + operand],
                votes,
                u32::from(warp == 32),
                u32::from(warp == 32),
                (-(x[warp + 31 - lane] as f32)).to_bits(),
            ];
            assert_eq!(row, expected, "thread {i}, operand {operand}");
        }
    }
}

#[kernel(threads = 32)]
fn integers(y: Out<i32>, x: In<u32>) {
    if thread::thread_idx_x() != 0 {
        return;
    }
    let (a, b) = (x.get(0), x.get(1));
    y.set(0, math::dp4a(a, b, 100));
    y.set(1, math::dp4a_unsigned(a, b, 100));
    y.set(2, math::byte_perm(a, b, 0x7041).cast_signed());
    y.set(3, math::round_to_i32(2.5) + 10 * math::round_to_i32(-3.5) + 100 * math::round_to_i32(0.6));
    y.set(4, math::round_to_i32(f32::NAN));
    y.set(5, math::round_to_i32(3e9));
}

#[test]
fn integer_words() {
    let device = emulator();
    let (a, b) = ([255u8, 2, 128, 7], [3u8, 251, 128, 9]);
    let x = upload(&device, &[u32::from_le_bytes(a), u32::from_le_bytes(b)]);
    let mut y = unwritten::<i32>(&device, 6);
    device.launch(integers { y: &mut y, x: &x }, Grid::x(1)).unwrap();
    let signed = -3 + 2 * -5 + -128 * -128 + 7 * 9;
    let mixed = 255 * 3 + 2 * -5 + 128 * -128 + 7 * 9;
    let permuted = i32::from_le_bytes([a[1], b[0], a[0], b[3]]);
    assert_eq!(
        device.download(&y).unwrap(),
        [100 + signed, 100 + mixed, permuted, 2 - 40 + 100, 0, i32::MAX]
    );
}

//! Repacking against the host's, byte for byte.

use kernels_gpu::launch::{Device, DeviceSlice, Grid, Purpose};
use kernels_gpu::quant::fragments::{Fragments, TILE_ROWS};
use kernels_gpu::quant::layout::GpuLayout;
use kernels_gpu::quant::{
    BF16, F16, IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, QuantBlock,
};
use kernels_gpu::repack::*;
use testkit::data::{RandomBlock, Rng, packed, weights};

/// The arguments of the format's kernel.
struct Args<'a> {
    dst: &'a mut DeviceSlice<u8>,
    src: &'a DeviceSlice<u8>,
    first: u32,
    n: u32,
    n_rows: u32,
    n_cols: u32,
}

/// Sends a matrix in pieces of `piece` stretches; the last piece has the rows past the last one with it.
fn check<Q: RandomBlock + GpuLayout + Fragments, D: Device>(
    device: &D,
    launch: fn(&D, Args<'_>, Grid),
    n_rows: usize,
    n_cols: usize,
    piece: usize,
) {
    let (blocks, _) = weights::<Q>(&mut Rng::new(8), n_rows * n_cols / Q::ELEMENTS);
    let file: &[u8] = bytemuck::cast_slice(&blocks);
    let expected = packed(&blocks, n_cols);
    let mut dst = device.alloc(expected.len(), Purpose::Weights).unwrap();
    let tiles_per_row = Q::tiles_per_row(n_cols);
    let row_bytes = file.len() / n_rows;
    let start = |stretch: usize| {
        let (row, tile) = (stretch / tiles_per_row, stretch % tiles_per_row);
        row * row_bytes + tile * Q::STRETCH_BYTES
    };
    let in_file = n_rows * tiles_per_row;
    for first in (0..in_file).step_by(piece) {
        let end = in_file.min(first + piece);
        let src = device.upload(&file[start(first)..start(end)], Purpose::Other).unwrap();
        let padded = n_rows.next_multiple_of(TILE_ROWS) * tiles_per_row;
        let n = if end == in_file { padded - first } else { piece };
        let (dst, src) = (&mut *dst, &*src);
        let [first, n_u32] = [first as u32, n as u32];
        let args = Args { dst, src, first, n: n_u32, n_rows: n_rows as u32, n_cols: n_cols as u32 };
        launch(device, args, Grid::x(repack_blocks(n) as u32));
    }
    let found = device.download(&dst).unwrap();
    let wrong = (0..expected.len()).find(|&i| found[i] != expected[i]);
    assert_eq!(wrong, None, "first wrong byte of {n_rows} × {n_cols} of {} in pieces of {piece}", Q::NAME);
}

macro_rules! formats {
    ($($format:ident: $block:ty, $kernel:ident;)+) => {$(
        mod $format {
            use super::*;

            const UNIT: usize = if <$block>::ELEMENTS == 1 { 2 } else { <$block>::ELEMENTS };

            pub fn launch<D: Device>(
                device: &D,
                Args { dst, src, first, n, n_rows, n_cols }: Args<'_>,
                grid: Grid,
            ) {
                device.launch($kernel { dst, src, first, n, n_rows, n_cols }, grid).unwrap();
            }

            #[test]
            fn one_block() {
                on_every_device!(|device| check::<$block, _>(device, launch, 1, UNIT, 128));
            }

            #[test]
            fn partial_last_tiles_of_rows_and_columns() {
                on_every_device!(|device| check::<$block, _>(device, launch, 19, 512 + UNIT, 1024));
            }

            #[test]
            fn in_pieces_that_cut_rows() {
                on_every_device!(|device| check::<$block, _>(device, launch, 16, 512 + UNIT, 7));
            }
        }
    )+};
}

formats! {
    f16: F16, repack_f16;
    bf16: BF16, repack_bf16;
    q4_0: Q4_0, repack_q4_0;
    q4_1: Q4_1, repack_q4_1;
    q5_0: Q5_0, repack_q5_0;
    q5_1: Q5_1, repack_q5_1;
    q8_0: Q8_0, repack_q8_0;
    q4_k: Q4_K, repack_q4_k;
    q5_k: Q5_K, repack_q5_k;
    q6_k: Q6_K, repack_q6_k;
    q2_k: Q2_K, repack_q2_k;
    q3_k: Q3_K, repack_q3_k;
    iq4_nl: IQ4_NL, repack_iq4_nl;
    iq4_xs: IQ4_XS, repack_iq4_xs;
    mxfp4: MXFP4, repack_mxfp4;
}

/// Rows of an odd number of elements: the last word of each holds one.
#[test]
fn float_rows_of_173() {
    on_every_device!(|device| check::<F16, _>(device, f16::launch, 5, 173, 4));
}

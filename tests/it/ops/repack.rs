//! Repacking against the host's, byte for byte.

use kernels_gpu::launch::{Device, DeviceSlice, Grid, Purpose};
use kernels_gpu::quant::layout::GpuLayout;
use kernels_gpu::quant::{IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q5_0, Q5_1, Q6_K, Q8_0};
use kernels_gpu::repack::*;
use testkit::data::{RandomBlock, Rng, weights};

/// The arguments of the format's kernel.
struct Args<'a> {
    dst: &'a mut DeviceSlice<u8>,
    src: &'a DeviceSlice<u8>,
    first_block: u32,
    n_blocks: u32,
    total_blocks: u32,
}

/// Sends a matrix in pieces of `piece` blocks. Between the planes nothing may be written: there the zeros stay.
fn check<Q: RandomBlock + GpuLayout, D: Device>(
    device: &D,
    launch: fn(&D, Args<'_>, Grid),
    n_blocks: usize,
    piece: usize,
) {
    let (blocks, _) = weights::<Q>(&mut Rng::new(8), n_blocks);
    let mut dst = device.zeros(Q::matrix_bytes(n_blocks), Purpose::Weights).unwrap();
    for (i, blocks) in blocks.chunks(piece).enumerate() {
        let src = device.upload(bytemuck::cast_slice(blocks), Purpose::Other).unwrap();
        let args = Args {
            dst: &mut dst,
            src: &src,
            first_block: (i * piece) as u32,
            n_blocks: blocks.len() as u32,
            total_blocks: n_blocks as u32,
        };
        launch(device, args, Grid::x(repack_blocks(blocks.len()) as u32));
    }
    let expected = testkit::data::packed(&blocks);
    let found = device.download(&dst).unwrap();
    let wrong = (0..expected.len()).find(|&i| found[i] != expected[i]);
    assert_eq!(wrong, None, "first wrong byte of {} blocks of {} in pieces of {piece}", n_blocks, Q::NAME);
}

macro_rules! formats {
    ($($format:ident: $block:ty, $kernel:ident;)+) => {$(
        mod $format {
            use super::*;

            fn launch<D: Device>(
                device: &D,
                Args { dst, src, first_block, n_blocks, total_blocks }: Args<'_>,
                grid: Grid,
            ) {
                device.launch($kernel { dst, src, first_block, n_blocks, total_blocks }, grid).unwrap();
            }

            #[test]
            fn one_block() {
                on_every_device!(|device| check::<$block, _>(device, launch, 1, 128));
            }

            #[test]
            fn partial_last_tile() {
                on_every_device!(|device| check::<$block, _>(device, launch, 2 * TILE_BLOCKS + 37, 1024));
            }

            #[test]
            fn in_pieces() {
                on_every_device!(|device| check::<$block, _>(device, launch, 5 * TILE_BLOCKS + 3, 2 * TILE_BLOCKS));
            }
        }
    )+};
}

formats! {
    q4_0: Q4_0, repack_q4_0;
    q4_1: Q4_1, repack_q4_1;
    q5_0: Q5_0, repack_q5_0;
    q5_1: Q5_1, repack_q5_1;
    q8_0: Q8_0, repack_q8_0;
    q2_k: Q2_K, repack_q2_k;
    q3_k: Q3_K, repack_q3_k;
    q6_k: Q6_K, repack_q6_k;
    iq4_nl: IQ4_NL, repack_iq4_nl;
    iq4_xs: IQ4_XS, repack_iq4_xs;
    mxfp4: MXFP4, repack_mxfp4;
}

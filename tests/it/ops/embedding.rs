//! Embedding against the decoding that the golden blocks prove: bit for bit.

use kernels_gpu::embedding::*;
use kernels_gpu::launch::{Device, DeviceSlice, Grid, Purpose};
use kernels_gpu::quant::pieces::Pieces;
use kernels_gpu::quant::{
    BF16, F16, F32, IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0,
};
use testkit::compare::assert_same_bits;
use testkit::data::{RandomBlock, Rng, packed, weights};

/// The arguments of the format's kernel.
struct Args<'a> {
    y: &'a mut DeviceSlice<f32>,
    w: &'a DeviceSlice<u8>,
    tokens: &'a DeviceSlice<u32>,
    n_tokens: u32,
    dim: u32,
    n_vocab: u32,
}

/// A token past the vocabulary must give NaN; all others their decoded rows.
fn check<Q: RandomBlock + Pieces, D: Device>(
    device: &D,
    launch: fn(&D, Args<'_>, Grid),
    tokens: &[u32],
    dim: usize,
    n_vocab: usize,
) {
    let (blocks, values) = weights::<Q>(&mut Rng::new(5), n_vocab * dim / Q::ELEMENTS);
    let w = device.upload(&packed(&blocks, dim), Purpose::Weights).unwrap();
    let device_tokens = device.upload(tokens, Purpose::Other).unwrap();
    let mut y = device.alloc(tokens.len() * dim, Purpose::Activations).unwrap();
    let [n_tokens, dim_, n_vocab_] = [tokens.len(), dim, n_vocab].map(|n| n as u32);
    let args = Args { y: &mut y, w: &w, tokens: &device_tokens, n_tokens, dim: dim_, n_vocab: n_vocab_ };
    launch(device, args, Grid::x(embedding_blocks::<Q>(tokens.len(), dim) as u32));

    let rows = tokens.iter().flat_map(|&token| match values.get(token as usize * dim..) {
        Some(row) if !row.is_empty() => row[..dim].to_vec(),
        _ => vec![f32::NAN; dim],
    });
    let expected: Vec<f32> = rows.collect();
    let found = device.download(&y).unwrap();
    assert_same_bits(Q::NAME, &found, &expected, &[tokens.len(), dim]);
}

macro_rules! formats {
    ($($format:ident: $block:ty, $kernel:ident;)+) => {$(
        mod $format {
            use super::*;

            fn launch<D: Device>(device: &D, Args { y, w, tokens, n_tokens, dim, n_vocab }: Args<'_>, grid: Grid) {
                device.launch($kernel { y, w, tokens, n_tokens, dim, n_vocab }, grid).unwrap();
            }

            #[test]
            fn first_and_last_row() {
                on_every_device!(|device| check::<$block, _>(device, launch, &[0, 10, 3, 10], 256, 11));
            }

            #[test]
            fn several_blocks_a_row() {
                on_every_device!(|device| check::<$block, _>(device, launch, &[1], 768, 2));
            }

            #[test]
            fn unknown_token_gives_nan() {
                on_every_device!(|device| check::<$block, _>(device, launch, &[1, 2, u32::MAX], 256, 2));
            }
        }
    )+};
}

formats! {
    f32: F32, embedding_f32;
    f16: F16, embedding_f16;
    bf16: BF16, embedding_bf16;
    q4_0: Q4_0, embedding_q4_0;
    q4_1: Q4_1, embedding_q4_1;
    q5_0: Q5_0, embedding_q5_0;
    q5_1: Q5_1, embedding_q5_1;
    q8_0: Q8_0, embedding_q8_0;
    q2_k: Q2_K, embedding_q2_k;
    q3_k: Q3_K, embedding_q3_k;
    q4_k: Q4_K, embedding_q4_k;
    q5_k: Q5_K, embedding_q5_k;
    q6_k: Q6_K, embedding_q6_k;
    iq4_nl: IQ4_NL, embedding_iq4_nl;
    iq4_xs: IQ4_XS, embedding_iq4_xs;
    mxfp4: MXFP4, embedding_mxfp4;
}

/// Rows that 16-byte loads do not divide.
#[test]
fn float_rows_of_172_and_173() {
    fn f16_launch<D: Device>(
        device: &D,
        Args { y, w, tokens, n_tokens, dim, n_vocab }: Args<'_>,
        grid: Grid,
    ) {
        device.launch(embedding_f16 { y, w, tokens, n_tokens, dim, n_vocab }, grid).unwrap();
    }
    fn f32_launch<D: Device>(
        device: &D,
        Args { y, w, tokens, n_tokens, dim, n_vocab }: Args<'_>,
        grid: Grid,
    ) {
        device.launch(embedding_f32 { y, w, tokens, n_tokens, dim, n_vocab }, grid).unwrap();
    }
    for dim in [172, 173] {
        on_every_device!(|device| check::<F16, _>(device, f16_launch, &[2, 0], dim, 3));
        on_every_device!(|device| check::<F32, _>(device, f32_launch, &[2, 0], dim, 3));
    }
}

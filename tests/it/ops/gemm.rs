//! Matrix times matrix against the reference, in every format.

use kernels_gpu::gemm::*;
use kernels_gpu::launch::{Device, DeviceSlice, Grid, Purpose};
use kernels_gpu::quant::layout::GpuLayout;
use kernels_gpu::quant::{
    BF16, F16, F32, IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0,
};
use kernels_gpu::simt::emulator::{Emulator, Space};
use testkit::compare::{assert_within, dot_bound, linear_magnitudes};
use testkit::data::{RandomBlock, Rng, packed, weights};
use testkit::reference::{self, widen};

/// The arguments of the format's kernel.
struct Args<'a> {
    y: &'a mut DeviceSlice<f32>,
    w: &'a DeviceSlice<u8>,
    x: &'a DeviceSlice<f32>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
}

fn check<Q: RandomBlock + GpuLayout, D: Device>(
    device: &D,
    launch: fn(&D, Args<'_>, Grid),
    n_tokens: usize,
    n_rows: usize,
    n_cols: usize,
) {
    let mut rng = Rng::new(7);
    let (blocks, w) = weights::<Q>(&mut rng, n_rows * n_cols / Q::ELEMENTS);
    let x = rng.normal(n_tokens * n_cols, 1.0);
    let device_w = device.upload(&packed(&blocks, n_cols), Purpose::Weights).unwrap();
    let device_x = device.upload(&x, Purpose::Activations).unwrap();
    let mut y = device.alloc(n_tokens * n_rows, Purpose::Activations).unwrap();
    let args = Args {
        y: &mut y,
        w: &device_w,
        x: &device_x,
        n_tokens: n_tokens as u32,
        n_rows: n_rows as u32,
        n_cols: n_cols as u32,
    };
    let (x_blocks, y_blocks) = gemm_grid(n_tokens, n_rows);
    launch(device, args, Grid::xy(x_blocks as u32, y_blocks as u32));

    let (w, x) = (widen(&w), widen(&x));
    let mut expected = vec![0.0; n_tokens * n_rows];
    reference::linear(&mut expected, &w, &x, n_cols);
    let sums = linear_magnitudes(&w, &x, n_cols);
    let found = device.download(&y).unwrap();
    let what = format!("gemm_{}, {n_tokens} × {n_rows} × {n_cols}", Q::NAME);
    assert_within(&what, &found, &expected, &[n_tokens, n_rows], |i| dot_bound(gemm_chain(n_cols), sums[i]));
}

macro_rules! formats {
    ($($format:ident: $block:ty, $kernel:ident;)+) => {$(
        mod $format {
            use super::*;

            pub fn launch<D: Device>(device: &D, Args { y, w, x, n_tokens, n_rows, n_cols }: Args<'_>, grid: Grid) {
                device.launch($kernel { y, w, x, n_tokens, n_rows, n_cols }, grid).unwrap();
            }

            #[test]
            fn partial_tiles() {
                on_every_device!(|device| check::<$block, _>(device, launch, 5, 70, 256));
            }
        }
    )+};
}

formats! {
    f32: F32, gemm_f32;
    f16: F16, gemm_f16;
    bf16: BF16, gemm_bf16;
    q4_0: Q4_0, gemm_q4_0;
    q4_1: Q4_1, gemm_q4_1;
    q5_0: Q5_0, gemm_q5_0;
    q5_1: Q5_1, gemm_q5_1;
    q8_0: Q8_0, gemm_q8_0;
    q4_k: Q4_K, gemm_q4_k;
    q5_k: Q5_K, gemm_q5_k;
    q6_k: Q6_K, gemm_q6_k;
    q2_k: Q2_K, gemm_q2_k;
    q3_k: Q3_K, gemm_q3_k;
    iq4_nl: IQ4_NL, gemm_iq4_nl;
    iq4_xs: IQ4_XS, gemm_iq4_xs;
    mxfp4: MXFP4, gemm_mxfp4;
}

#[test]
fn whole_tiles() {
    on_every_device!(|device| check::<Q4_0, _>(device, q4_0::launch, 64, 128, 64));
}

/// Filling and reading both tiles takes no wavefront more than needed, whatever the format.
#[test]
fn no_bank_conflicts() {
    fn check_conflicts<Q: RandomBlock + GpuLayout>(launch: fn(&Emulator, Args<'_>, Grid)) {
        let device = Emulator::checked().counting();
        check::<Q, _>(&device, launch, 64, 64, 256);
        let report = device.report().expect("a counting emulator reports");
        assert!(report.sites.iter().any(|site| site.space == Space::Shared), "{}: no shared memory", Q::NAME);
        assert_eq!(report.bank_conflicts(), 0, "{}: {report:#?}", Q::NAME);
    }
    check_conflicts::<F32>(f32::launch);
    check_conflicts::<Q8_0>(q8_0::launch);
    check_conflicts::<Q4_K>(q4_k::launch);
}

#[test]
fn several_token_tiles() {
    on_every_device!(|device| check::<Q8_0, _>(device, q8_0::launch, 130, 65, 32));
}

#[test]
fn one_token_and_one_row() {
    on_every_device!(|device| check::<Q4_1, _>(device, q4_1::launch, 1, 1, 32));
}

/// Rows that neither tiles nor 16-byte loads divide.
#[test]
fn float_rows_of_172_and_173() {
    for n_cols in [172, 173] {
        on_every_device!(|device| check::<F32, _>(device, f32::launch, 3, 9, n_cols));
        on_every_device!(|device| check::<F16, _>(device, f16::launch, 3, 9, n_cols));
        on_every_device!(|device| check::<BF16, _>(device, bf16::launch, 3, 9, n_cols));
    }
}

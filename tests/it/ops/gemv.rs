//! Matrix times vector against the reference, in every format.

use kernels_gpu::gemv::*;
use kernels_gpu::launch::{Device, DeviceSlice, Grid, Purpose};
use kernels_gpu::quant::chunk::ChunkFormat;
use kernels_gpu::quant::{
    BF16, F16, F32, IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0,
};
use kernels_gpu::simt::emulator::{Emulator, Space};
use testkit::compare::{assert_same_bits, assert_within, dot_bound};
use testkit::data::{RandomBlock, Rng, magnitudes, packed, weights};
use testkit::reference::{self, widen};

/// The arguments of the format's kernel.
struct Args<'a> {
    y: &'a mut DeviceSlice<f32>,
    w: &'a DeviceSlice<u8>,
    x: &'a DeviceSlice<f32>,
    n_rows: u32,
    n_cols: u32,
}

type Launcher<D> = fn(&D, Args<'_>, Grid);

/// Compares with the reference and returns the result. The reference's weights are decoded, so rounded once where
/// there is a minimum; the kernel's products are not: one rounding more than its own chain.
fn check<Q: RandomBlock + ChunkFormat, D: Device>(
    device: &D,
    launch: Launcher<D>,
    n_rows: usize,
    n_cols: usize,
    n_blocks: u32,
) -> Vec<f32> {
    let mut rng = Rng::new(6);
    let (blocks, w) = weights::<Q>(&mut rng, n_rows * n_cols / Q::ELEMENTS);
    let x = rng.normal(n_cols, 1.0);
    let device_w = device.upload(&packed(&blocks), Purpose::Weights).unwrap();
    let device_x = device.upload(&x, Purpose::Activations).unwrap();
    let mut y = device.alloc(n_rows, Purpose::Activations).unwrap();
    let args = Args { y: &mut y, w: &device_w, x: &device_x, n_rows: n_rows as u32, n_cols: n_cols as u32 };
    launch(device, args, Grid::x(n_blocks));

    let (mut expected, mut sums) = (vec![0.0; n_rows], vec![0.0; n_rows]);
    reference::linear(&mut expected, &widen(&w), &widen(&x), n_cols);
    let x_magnitudes: Vec<f64> = x.iter().map(|&x| f64::from(x).abs()).collect();
    reference::linear(&mut sums, &magnitudes(&blocks), &x_magnitudes, n_cols);
    let found = device.download(&y).unwrap();
    let what = format!("gemv_{}, {n_rows} × {n_cols}, {n_blocks} blocks", Q::NAME);
    assert_within(&what, &found, &expected, &[n_rows], |i| dot_bound(gemv_chain::<Q>(n_cols) + 1, sums[i]));
    found
}

/// One block for all rows, and one for each 16, must agree in every bit.
fn check_grids<Q: RandomBlock + ChunkFormat, D: Device>(device: &D, launch: Launcher<D>, n_rows: usize) {
    let many = check::<Q, D>(device, launch, n_rows, 512, gemv_blocks(n_rows, 132) as u32);
    let one = check::<Q, D>(device, launch, n_rows, 512, 1);
    assert_same_bits(Q::NAME, &one, &many, &[n_rows]);
}

/// Two steps of all rows of a block: no bank conflict, and quants in as few sectors as hold them.
fn check_costs<Q: RandomBlock + ChunkFormat>(launch: Launcher<Emulator>) {
    let device = Emulator::checked().counting();
    let n_cols = 2 * Q::CHUNK_ELEMENTS * 32;
    check::<Q, _>(&device, launch, 16, n_cols, 1);
    let report = device.report().expect("a counting emulator reports");
    let conflicts: Vec<_> = report
        .sites
        .iter()
        .filter(|site| site.space == Space::Shared && site.transactions != site.ideal_transactions)
        .collect();
    assert!(conflicts.is_empty(), "{}: bank conflicts: {conflicts:#?}", Q::NAME);
    assert!(report.sites.iter().any(|site| site.space == Space::Shared), "{}: no shared memory", Q::NAME);
    // 32 lanes that load 16 bytes each need 16 sectors, and 20 where headers between blocks shift them by half a sector.
    let most = if Q::BYTES > 128 && Q::AS_IN_FILE { 20 } else { 16 };
    let quants: Vec<_> = report
        .sites
        .iter()
        .filter(|s| s.space == Space::Global && s.ideal_transactions >= 16 * s.requests)
        .collect();
    assert!(!quants.is_empty(), "{}: no request fills 16 sectors", Q::NAME);
    for site in quants {
        assert!(site.transactions <= most * site.requests, "{}: uncoalesced: {site:#?}", Q::NAME);
    }
}

macro_rules! formats {
    ($($format:ident: $block:ty, $kernel:ident;)+) => {$(
        mod $format {
            use super::*;

            pub fn launch<D: Device>(device: &D, Args { y, w, x, n_rows, n_cols }: Args<'_>, grid: Grid) {
                device.launch($kernel { y, w, x, n_rows, n_cols }, grid).unwrap();
            }

            #[test]
            fn one_row() {
                on_every_device!(|device| check::<$block, _>(device, launch, 1, 256, 1));
            }

            #[test]
            fn partial_last_rows_and_step() {
                on_every_device!(|device| check::<$block, _>(device, launch, 19, 1024 + 256, 2));
            }

            #[test]
            fn no_bank_conflicts_and_coalesced() {
                check_costs::<$block>(launch);
            }

            #[test]
            fn same_bits_on_any_grid() {
                on_every_device!(|device| check_grids::<$block, _>(device, launch, 53));
            }

            #[test]
            fn x_larger_than_its_tile() {
                on_every_device!(|device| check::<$block, _>(device, launch, 19, X_TILE + 512, 1));
            }
        }
    )+};
}

formats! {
    f32: F32, gemv_f32;
    f16: F16, gemv_f16;
    bf16: BF16, gemv_bf16;
    q4_0: Q4_0, gemv_q4_0;
    q4_1: Q4_1, gemv_q4_1;
    q5_0: Q5_0, gemv_q5_0;
    q5_1: Q5_1, gemv_q5_1;
    q8_0: Q8_0, gemv_q8_0;
    q2_k: Q2_K, gemv_q2_k;
    q3_k: Q3_K, gemv_q3_k;
    q4_k: Q4_K, gemv_q4_k;
    q5_k: Q5_K, gemv_q5_k;
    q6_k: Q6_K, gemv_q6_k;
    iq4_nl: IQ4_NL, gemv_iq4_nl;
    iq4_xs: IQ4_XS, gemv_iq4_xs;
    mxfp4: MXFP4, gemv_mxfp4;
}

#[test]
fn one_block_of_32_columns() {
    on_every_device!(|device| check::<Q4_0, _>(device, q4_0::launch, 3, 32, 1));
    on_every_device!(|device| check::<Q5_1, _>(device, q5_1::launch, 3, 32, 1));
    on_every_device!(|device| check::<Q8_0, _>(device, q8_0::launch, 3, 32, 1));
}

/// Rows that 16-byte loads do not divide.
#[test]
fn float_rows_of_172_and_173() {
    for n_cols in [172, 173] {
        on_every_device!(|device| check::<F32, _>(device, f32::launch, 10, n_cols, 1));
        on_every_device!(|device| check::<F16, _>(device, f16::launch, 10, n_cols, 1));
        on_every_device!(|device| check::<BF16, _>(device, bf16::launch, 10, n_cols, 1));
    }
}

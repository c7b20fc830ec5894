//! Matrix times vectors against the reference, in every format.

use kernels_gpu::gemv::*;
use kernels_gpu::launch::{Device, DeviceBuffer, DeviceSlice, Grid, Purpose};
use kernels_gpu::quant::layout::GpuLayout;
use kernels_gpu::quant::{
    BF16, F16, F32, IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0,
    QuantBlock,
};
use kernels_gpu::simt::emulator::{Emulator, Space, View};
use testkit::compare::{assert_same_bits, assert_within, dot_bound, linear_magnitudes};
use testkit::data::{RandomBlock, Rng, magnitudes, packed, weights};
use testkit::reference::{self, widen};

/// The arguments of the format's kernels.
struct Args<'a> {
    y: &'a mut DeviceSlice<f32>,
    w: &'a DeviceSlice<u8>,
    x: &'a DeviceSlice<u32>,
    x_numbers: &'a DeviceSlice<f32>,
    n_vectors: u32,
    n_rows: u32,
    n_cols: u32,
}

/// Launches the kernel for up to so many vectors.
type Launcher<D> = fn(&D, Args<'_>, Grid, max_vectors: usize);

/// What is checked: a matrix and vectors, and the launch.
#[derive(Clone, Copy)]
struct Case {
    n_rows: usize,
    n_cols: usize,
    n_vectors: usize,
    max_vectors: usize,
    n_blocks: usize,
}

/// Brings vectors, [n_vectors, max_vectors, n_cols], to the form and order that a format's kernels take.
pub(super) fn converted<Q: Product + Several, D: Device>(
    device: &D,
    x: &[f32],
    shape: [usize; 3],
) -> (DeviceBuffer<u32>, DeviceBuffer<f32>) {
    let x = &device.upload(x, Purpose::Activations).unwrap();
    let order = gemv_x_order::<Q>(shape[1]);
    let [n_words, n_numbers] = order.len_of(shape);
    let mut words = device.alloc(n_words, Purpose::Other).unwrap();
    let mut numbers = device.alloc(n_numbers, Purpose::Other).unwrap();
    gemv_x(device, order, &mut words, &mut numbers, x, shape).unwrap();
    (words, numbers)
}

/// A kernel that writes a vector, here `y`, also converts it: it must write what `gemv_x` makes of `y`, in every order whose
/// groups of columns it does not part.
pub(super) fn check_converted<D: Device>(
    device: &D,
    what: &str,
    y: &[f32],
    group_cols: usize,
    launch: impl Fn(&mut DeviceSlice<f32>, &mut DeviceSlice<u32>, &mut DeviceSlice<f32>, u32),
) {
    let n_cols = y.len();
    for order in [XOrder::F16, XOrder::BF16, XOrder::Fixed] {
        if !group_cols.is_multiple_of(order.group_cols()) {
            continue;
        }
        let [n_words, n_numbers] = order.len(1, n_cols);
        // What is not written is no zero.
        let unwritten = || {
            let words = device.upload(&vec![u32::MAX; n_words], Purpose::Other).unwrap();
            (words, device.upload(&vec![f32::NAN; n_numbers], Purpose::Other).unwrap())
        };
        let (mut words, mut numbers) = unwritten();
        let mut device_y = device.upload(&vec![f32::NAN; n_cols], Purpose::Activations).unwrap();
        launch(&mut device_y, &mut words, &mut numbers, order.code());
        assert_same_bits(what, &device.download(&device_y).unwrap(), y, &[n_cols]);
        let (mut expected_words, mut expected_numbers) = unwritten();
        let shape = [1, 1, n_cols];
        gemv_x(device, order, &mut expected_words, &mut expected_numbers, &device_y, shape).unwrap();
        let what = format!("{what}, {order:?}");
        assert!(
            device.download(&words).unwrap() == device.download(&expected_words).unwrap(),
            "{what}: words"
        );
        let [found, expected] =
            [&numbers, &expected_numbers].map(|numbers| device.download(numbers).unwrap());
        assert_same_bits(&what, &found, &expected, &[n_numbers]);
    }
}

/// One vector and one block.
fn one(n_rows: usize, n_cols: usize) -> Case {
    Case { n_rows, n_cols, n_vectors: 1, max_vectors: 1, n_blocks: 1 }
}

/// Several vectors and one block.
fn several(n_rows: usize, n_cols: usize, n_vectors: usize, max_vectors: usize) -> Case {
    Case { n_rows, n_cols, n_vectors, max_vectors, n_blocks: 1 }
}

/// Vectors whose elements differ in size, so that some stretches have a much larger scale than their neighbours, and one zero
/// stretch in ten.
pub(super) fn vectors(rng: &mut Rng, n: usize, n_cols: usize) -> Vec<f32> {
    let mut x = rng.normal(n * n_cols, 1.0);
    for stretch in x.chunks_mut(16) {
        let factor = [1.0, 1e-4, 300.0, 1.0, 1.0, 0.0, 1e-9, 1.0, 20.0, 1.0][rng.below(10) as usize];
        stretch.iter_mut().for_each(|x| *x *= factor);
    }
    x
}

/// What each element of x may be off by in a product, as a bound.
pub(super) fn x_errors<Q: Product + Several>(x: &[f32], n_cols: usize, max_vectors: usize) -> Vec<f64> {
    let (relative, of_largest, n_neighbours) = gemv_x_error::<Q>(max_vectors);
    let errors = |stretch: &[f32]| {
        let largest = stretch.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        stretch
            .iter()
            .map(move |x| relative * f64::from(x.abs()) + of_largest * f64::from(largest))
            .collect::<Vec<_>>()
    };
    x.chunks(n_cols).flat_map(|x| x.chunks(n_neighbours)).flat_map(errors).collect()
}

/// Compares with the reference and returns the result. The reference's weights are decoded, so rounded once where
/// there is a minimum; the kernel's products are not: one rounding more than its own chain. With weights off by nothing and x
/// by e, a result is off by Σ |w · e| more.
fn check<Q: RandomBlock + GpuLayout + Product + Several, D: Device>(
    device: &D,
    launch: Launcher<D>,
    case: Case,
) -> Vec<f32> {
    let Case { n_rows, n_cols, n_vectors, max_vectors, n_blocks } = case;
    let mut rng = Rng::new(6);
    let (blocks, w) = weights::<Q>(&mut rng, n_rows * n_cols / Q::ELEMENTS);
    let x = vectors(&mut rng, n_vectors, n_cols);
    let device_w = device.upload(&packed(&blocks, n_cols), Purpose::Weights).unwrap();
    let (device_x, x_numbers) = converted::<Q, D>(device, &x, [n_vectors, max_vectors, n_cols]);
    let mut y = device.alloc(n_vectors * n_rows, Purpose::Activations).unwrap();
    let [n_vectors_u32, n_rows_u32, n_cols_u32] = [n_vectors, n_rows, n_cols].map(|n| n as u32);
    let args = Args {
        y: &mut y,
        w: &device_w,
        x: &device_x,
        x_numbers: &x_numbers,
        n_vectors: n_vectors_u32,
        n_rows: n_rows_u32,
        n_cols: n_cols_u32,
    };
    launch(device, args, Grid::x(n_blocks as u32), max_vectors);

    let linear = |w: &[f64], x: &[f64]| {
        let mut y = vec![0.0; n_vectors * n_rows];
        reference::linear(&mut y, w, x, n_cols);
        y
    };
    let (magnitudes, errors) = (magnitudes(&blocks), x_errors::<Q>(&x, n_cols, max_vectors));
    let x_magnitudes: Vec<f64> = x.iter().zip(&errors).map(|(&x, e)| f64::from(x).abs() + e).collect();
    let expected = linear(&widen(&w), &widen(&x));
    let (sums, x_errors) = (linear(&magnitudes, &x_magnitudes), linear(&magnitudes, &errors));
    let found = device.download(&y).unwrap();
    let what = format!("gemv_{} of {n_rows} × {n_cols}, {n_vectors} of {max_vectors} vectors", Q::NAME);
    let chain = gemv_chain::<Q>(max_vectors, n_cols) + 1;
    assert_within(&what, &found, &expected, &[n_vectors, n_rows], |i| {
        dot_bound(chain, sums[i]) + x_errors[i]
    });
    found
}

/// One block for all rows, and one for each 16, must agree in every bit.
fn check_grids<Q: RandomBlock + GpuLayout + Product + Several, D: Device>(device: &D, launch: Launcher<D>) {
    let case = one(53, 512);
    let many = check::<Q, D>(device, launch, Case { n_blocks: gemv_blocks(53, 132), ..case });
    let one = check::<Q, D>(device, launch, case);
    assert_same_bits(Q::NAME, &one, &many, &[53]);
}

/// A vector among others must have the result that it has alone, in every bit: here the last of five.
fn check_batch<Q: RandomBlock + GpuLayout + Product + Several, D: Device>(device: &D, launch: Launcher<D>) {
    let all = check::<Q, D>(device, launch, several(17, 512, 5, 8));
    let more = check::<Q, D>(device, launch, several(17, 512, 5, 16));
    assert_same_bits(Q::NAME, &all, &more, &[5, 17]);
}

/// No bank conflict; and quants in as few sectors as hold them, each once.
fn check_costs<Q: RandomBlock + GpuLayout + Product + Several>(launch: Launcher<Emulator>) {
    for case in [one(32, 2048), several(32, 2048, 4, 4), several(16, 1024, 8, 8), several(16, 1024, 16, 16)] {
        let device = Emulator::checked().counting();
        check::<Q, _>(&device, launch, case);
        let report = device.report().expect("a counting emulator reports");
        let Case { n_rows, n_cols, max_vectors, .. } = case;
        let what = format!("{} with {max_vectors}", Q::NAME);
        assert!(report.sites.iter().any(|site| site.space == Space::Shared), "{what}: no shared memory");
        let conflicts: Vec<_> = report
            .sites
            .iter()
            .filter(|site| site.space == Space::Shared && site.transactions != site.ideal_transactions)
            .collect();
        assert!(conflicts.is_empty(), "{what}: bank conflicts: {conflicts:#?}");
        let sectors: u64 = report
            .sites
            .iter()
            .filter(|site| site.space == Space::Global && site.view == View::Param("w"))
            .map(|site| site.transactions)
            .sum();
        assert_eq!(
            sectors,
            <Q as GpuLayout>::matrix_bytes(n_rows, n_cols) as u64 / 32,
            "{what}: {report:#?}"
        );
    }
}

macro_rules! formats {
    ($($format:ident: $block:ty, $one:ident, $four:ident, $eight:ident, $sixteen:ident;)+) => {$(
        mod $format {
            use super::*;

            pub fn launch<D: Device>(device: &D, args: Args<'_>, grid: Grid, max_vectors: usize) {
                let Args { y, w, x, x_numbers, n_vectors, n_rows, n_cols } = args;
                match max_vectors {
                    1 => {
                        let (y, none) = y.split_at_mut(n_rows as usize);
                        let (y_b, y_c) = none.split_at_mut(0);
                        let (w_b, w_c, n_rows_b, n_rows_c) = (w, w, 0, 0);
                        device.launch($one { y, y_b, y_c, w, w_b, w_c, x, x_numbers, n_rows, n_rows_b, n_rows_c, n_cols }, grid)
                    }
                    4 => device.launch($four { y, w, x, x_numbers, n_vectors, n_rows, n_cols }, grid),
                    8 => device.launch($eight { y, w, x, x_numbers, n_vectors, n_rows, n_cols }, grid),
                    _ => device.launch($sixteen { y, w, x, x_numbers, n_vectors, n_rows, n_cols }, grid),
                }
                .unwrap();
            }

            #[test]
            fn one_row() {
                on_every_device!(|device| check::<$block, _>(device, launch, one(1, 256)));
            }

            #[test]
            fn partial_last_tiles() {
                on_every_device!(|device| check::<$block, _>(device, launch, one(19, 2048 + 256)));
            }

            #[test]
            fn two_and_three_vectors() {
                on_every_device!(|device| check::<$block, _>(device, launch, several(19, 512, 2, 4)));
                on_every_device!(|device| check::<$block, _>(device, launch, several(16, 256, 3, 4)));
            }

            #[test]
            fn sixteen_vectors() {
                on_every_device!(|device| check::<$block, _>(device, launch, several(17, 1024 + 256, 16, 16)));
            }

            #[test]
            fn same_bits_in_any_batch() {
                on_every_device!(|device| check_batch::<$block, _>(device, launch));
            }

            #[test]
            fn no_bank_conflicts_and_coalesced() {
                check_costs::<$block>(launch);
            }

            #[test]
            fn same_bits_on_any_grid() {
                on_every_device!(|device| check_grids::<$block, _>(device, launch));
            }
        }
    )+};
}

formats! {
    f16: F16, gemv_f16, gemv_f16_n4, gemv_f16_n8, gemv_f16_n16;
    bf16: BF16, gemv_bf16, gemv_bf16_n4, gemv_bf16_n8, gemv_bf16_n16;
    q4_0: Q4_0, gemv_q4_0, gemv_q4_0_n4, gemv_q4_0_n8, gemv_q4_0_n16;
    q4_1: Q4_1, gemv_q4_1, gemv_q4_1_n4, gemv_q4_1_n8, gemv_q4_1_n16;
    q5_0: Q5_0, gemv_q5_0, gemv_q5_0_n4, gemv_q5_0_n8, gemv_q5_0_n16;
    q5_1: Q5_1, gemv_q5_1, gemv_q5_1_n4, gemv_q5_1_n8, gemv_q5_1_n16;
    q8_0: Q8_0, gemv_q8_0, gemv_q8_0_n4, gemv_q8_0_n8, gemv_q8_0_n16;
    q4_k: Q4_K, gemv_q4_k, gemv_q4_k_n4, gemv_q4_k_n8, gemv_q4_k_n16;
    q5_k: Q5_K, gemv_q5_k, gemv_q5_k_n4, gemv_q5_k_n8, gemv_q5_k_n16;
    q6_k: Q6_K, gemv_q6_k, gemv_q6_k_n4, gemv_q6_k_n8, gemv_q6_k_n16;
    q2_k: Q2_K, gemv_q2_k, gemv_q2_k_n4, gemv_q2_k_n8, gemv_q2_k_n16;
    q3_k: Q3_K, gemv_q3_k, gemv_q3_k_n4, gemv_q3_k_n8, gemv_q3_k_n16;
    iq4_nl: IQ4_NL, gemv_iq4_nl, gemv_iq4_nl_n4, gemv_iq4_nl_n8, gemv_iq4_nl_n16;
    iq4_xs: IQ4_XS, gemv_iq4_xs, gemv_iq4_xs_n4, gemv_iq4_xs_n8, gemv_iq4_xs_n16;
    mxfp4: MXFP4, gemv_mxfp4, gemv_mxfp4_n4, gemv_mxfp4_n8, gemv_mxfp4_n16;
}

/// What the kernel of f32 weights gives, against the reference.
fn check_f32<D: Device>(device: &D, n_rows: usize, n_cols: usize, n_blocks: u32) -> Vec<f32> {
    let mut rng = Rng::new(6);
    let (blocks, w) = weights::<F32>(&mut rng, n_rows * n_cols);
    let x = rng.normal(n_cols, 1.0);
    let device_w = device.upload(&packed(&blocks, n_cols), Purpose::Weights).unwrap();
    let device_x = device.upload(&x, Purpose::Activations).unwrap();
    let mut y = device.alloc(n_rows, Purpose::Activations).unwrap();
    let (n_rows_u32, n_cols_u32) = (n_rows as u32, n_cols as u32);
    let gemv = gemv_f32 { y: &mut y, w: &device_w, x: &device_x, n_rows: n_rows_u32, n_cols: n_cols_u32 };
    device.launch(gemv, Grid::x(n_blocks)).unwrap();

    let (w, x) = (widen(&w), widen(&x));
    let mut expected = vec![0.0; n_rows];
    reference::linear(&mut expected, &w, &x, n_cols);
    let sums = linear_magnitudes(&w, &x, n_cols);
    let found = device.download(&y).unwrap();
    let what = format!("gemv_f32 of {n_rows} × {n_cols}");
    assert_within(&what, &found, &expected, &[n_rows], |i| dot_bound(gemv_f32_chain(n_cols), sums[i]));
    found
}

mod f32 {
    use super::*;

    #[test]
    fn one_row() {
        on_every_device!(|device| check_f32(device, 1, 256, 1));
    }

    #[test]
    fn partial_last_rows_and_step() {
        on_every_device!(|device| check_f32(device, 19, 1028, 2));
    }

    #[test]
    fn x_larger_than_its_tile() {
        on_every_device!(|device| check_f32(device, 19, X_TILE + 512, 1));
    }

    /// Rows that 16-byte loads do not divide.
    #[test]
    fn rows_of_173() {
        on_every_device!(|device| check_f32(device, 10, 173, 1));
    }

    #[test]
    fn same_bits_on_any_grid() {
        on_every_device!(|device| {
            let (one, many) = (check_f32(device, 53, 512, 1), check_f32(device, 53, 512, 4));
            assert_same_bits("f32", &one, &many, &[53]);
        });
    }

    #[test]
    fn no_bank_conflicts_and_coalesced() {
        let device = Emulator::checked().counting();
        check_f32(&device, 32, 512, 1);
        let report = device.report().expect("a counting emulator reports");
        assert!(report.sites.iter().any(|site| site.space == Space::Shared), "no shared memory");
        for site in report.sites.iter().filter(|site| site.view != View::Param("y")) {
            assert_eq!(site.transactions, site.ideal_transactions, "{site:#?}");
        }
    }
}

#[test]
fn one_block_of_32_columns() {
    on_every_device!(|device| check::<Q4_0, _>(device, q4_0::launch, one(3, 32)));
    on_every_device!(|device| check::<Q5_1, _>(device, q5_1::launch, several(3, 32, 4, 4)));
    on_every_device!(|device| check::<Q8_0, _>(device, q8_0::launch, one(3, 32)));
}

/// Rows that neither tiles nor 16-byte loads divide.
#[test]
fn float_rows_of_172_and_173() {
    for n_cols in [172, 173] {
        on_every_device!(|device| check::<F16, _>(device, f16::launch, one(10, n_cols)));
        on_every_device!(|device| check::<BF16, _>(device, bf16::launch, several(10, n_cols, 3, 4)));
    }
}

/// One vector, in two passes over the rows; blocks with two tiles of rows and with one.
#[test]
fn x_larger_than_shared_memory() {
    let case = Case { n_blocks: 2, ..one(35, 16384 + 512) };
    on_every_device!(|device| check::<Q4_K, _>(device, q4_k::launch, case));
    let case = Case { n_blocks: 2, ..one(35, 8192 + 96) };
    on_every_device!(|device| check::<F16, _>(device, f16::launch, case));
}

/// Tiles of rows for as many warps as a block has and for fewer, in one turn and in two, and columns that do not divide.
#[test]
fn several_tiles_of_rows_a_block() {
    for n_rows in [33, 50, 16 * 9 + 3] {
        on_every_device!(|device| check::<Q4_K, _>(device, q4_k::launch, several(n_rows, 768, 6, 8)));
        on_every_device!(|device| check::<Q5_1, _>(device, q5_1::launch, several(n_rows, 384, 3, 4)));
        on_every_device!(|device| check::<F16, _>(device, f16::launch, several(n_rows, 320, 16, 16)));
    }
}

/// Three matrices in one launch must have the results of three launches, in every bit, on few blocks and on many.
#[test]
fn three_matrices_in_one_launch() {
    fn check_three<D: Device>(device: &D) {
        const N_COLS: usize = 512;
        let mut rng = Rng::new(9);
        let shapes = [35, 3, 16];
        let matrix = |rng: &mut Rng, n_rows: usize| {
            let (blocks, _) = weights::<Q4_K>(rng, n_rows * N_COLS / Q4_K::ELEMENTS);
            device.upload(&packed(&blocks, N_COLS), Purpose::Weights).unwrap()
        };
        let ws = shapes.map(|n_rows| matrix(&mut rng, n_rows));
        let [w, w_b, w_c] = &ws;
        let (x, x_numbers) = &converted::<Q4_K, D>(device, &vectors(&mut rng, 1, N_COLS), [1, 1, N_COLS]);
        let [n_rows, n_rows_b, n_rows_c] = shapes.map(|n| n as u32);
        let alone = [w, w_b, w_c].into_iter().zip(shapes).map(|(w, n_rows)| {
            let mut y = device.alloc(n_rows, Purpose::Activations).unwrap();
            let (n_rows, n_cols) = (n_rows as u32, N_COLS as u32);
            let args = Args { y: &mut y, w, x, x_numbers, n_vectors: 1, n_rows, n_cols };
            q4_k::launch(device, args, Grid::x(1), 1);
            device.download(&y).unwrap()
        });
        let alone: Vec<Vec<f32>> = alone.collect();
        for n_blocks in [1, 2, 5] {
            let mut ys = shapes.map(|n_rows| device.alloc::<f32>(n_rows, Purpose::Activations).unwrap());
            let [y, y_b, y_c] = &mut ys;
            let n_cols = N_COLS as u32;
            let gemv =
                gemv_q4_k { y, y_b, y_c, w, w_b, w_c, x, x_numbers, n_rows, n_rows_b, n_rows_c, n_cols };
            device.launch(gemv, Grid::x(n_blocks)).unwrap();
            for (y, alone) in ys.iter().zip(&alone) {
                assert_same_bits("three", &device.download(y).unwrap(), alone, &[alone.len()]);
            }
        }
    }
    on_every_device!(|device| check_three(device));
}

/// An element of x that is no number, or infinite, must show in the result.
#[test]
fn no_number_is_lost() {
    fn check_lost<Q: RandomBlock + GpuLayout + Product + Several, D: Device>(
        device: &D,
        launch: Launcher<D>,
    ) {
        for lost in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (blocks, _) = weights::<Q>(&mut Rng::new(3), 16 * 256 / Q::ELEMENTS);
            let w = device.upload(&packed(&blocks, 256), Purpose::Weights).unwrap();
            let mut x = vec![0.5; 256];
            x[77] = lost;
            let (x, x_numbers) = &converted::<Q, D>(device, &x, [1, 1, 256]);
            let mut y = device.alloc(16, Purpose::Activations).unwrap();
            let args = Args { y: &mut y, w: &w, x, x_numbers, n_vectors: 1, n_rows: 16, n_cols: 256 };
            launch(device, args, Grid::x(1), 1);
            let found = device.download(&y).unwrap();
            assert!(found.iter().all(|y| !y.is_finite()), "{} with {lost}: {found:?}", Q::NAME);
        }
    }
    on_every_device!(|device| check_lost::<Q4_0, _>(device, q4_0::launch));
    on_every_device!(|device| check_lost::<Q6_K, _>(device, q6_k::launch));
    on_every_device!(|device| check_lost::<F16, _>(device, f16::launch));
    on_every_device!(|device| check_lost::<BF16, _>(device, bf16::launch));
}

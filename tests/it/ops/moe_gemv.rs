//! Assignments times their experts' matrices against the reference, in every format.

use kernels_gpu::gemv::*;
use kernels_gpu::launch::{Device, DeviceBuffer, DeviceSlice, Grid, Purpose};
use kernels_gpu::moe_gemv::*;
use kernels_gpu::quant::layout::GpuLayout;
use kernels_gpu::quant::{F16, MXFP4, Q4_0, Q4_K, Q5_K, Q6_K, Q8_0};
use testkit::compare::{assert_same_bits, assert_within, dot_bound};
use testkit::data::{RandomBlock, Rng, magnitudes, packed, weights};
use testkit::reference::{moe as reference, widen};

use super::gemv::{vectors, x_errors};

/// The arguments of the format's kernel.
struct Args<'a> {
    y: [&'a mut DeviceSlice<f32>; 2],
    w: [&'a DeviceSlice<u8>; 2],
    x: &'a DeviceSlice<u32>,
    x_numbers: &'a DeviceSlice<f32>,
    experts: &'a DeviceSlice<u32>,
    n_used: u32,
    n_rows: [u32; 2],
    n_cols: u32,
}

type Launcher<D> = fn(&D, Args<'_>, Grid);

/// Two tensors of experts, of so many rows, and the assignments of tokens.
#[derive(Clone, Copy)]
struct Case<'a> {
    n_experts: usize,
    n_rows: [usize; 2],
    n_cols: usize,
    experts: &'a [u32],
    /// Assignments of a row of x.
    n_used: usize,
    n_blocks: usize,
}

/// A tensor's weights: their values, the magnitudes that errors scale with, and each expert's matrix in the GPU's layout.
struct Tensor {
    values: Vec<f64>,
    magnitudes: Vec<f64>,
    bytes: Vec<u8>,
}

fn tensor<Q: RandomBlock + GpuLayout>(
    rng: &mut Rng,
    n_experts: usize,
    [n_rows, n_cols]: [usize; 2],
) -> Tensor {
    let (blocks, values) = weights::<Q>(rng, n_experts * n_rows * n_cols / Q::ELEMENTS);
    let matrices = blocks.chunks((n_rows * n_cols / Q::ELEMENTS).max(1));
    let bytes = matrices.flat_map(|blocks| packed(blocks, n_cols)).collect();
    Tensor { values: widen(&values), magnitudes: magnitudes(&blocks), bytes }
}

/// Compares both results with the reference and returns them. The bound is that of the kernel for one vector: a decoded
/// weight is rounded once where there is a minimum, and with x off by e a result is off by Σ |w · e| more.
fn check<Q: RandomBlock + GpuLayout + Product + Several, D: Device>(
    device: &D,
    launch: Launcher<D>,
    case: Case<'_>,
) -> [Vec<f32>; 2] {
    let Case { n_experts, n_rows, n_cols, experts, n_used, n_blocks } = case;
    let mut rng = Rng::new(8);
    let tensors = n_rows.map(|n_rows| tensor::<Q>(&mut rng, n_experts, [n_rows, n_cols]));
    let n_x = experts.len() / n_used;
    let x = vectors(&mut rng, n_x, n_cols);
    let [device_w, device_w_b] = [0, 1].map(|i| device.upload(&tensors[i].bytes, Purpose::Weights).unwrap());
    let device_experts = device.upload(experts, Purpose::Activations).unwrap();
    let (device_x, x_numbers) = converted::<Q, D>(device, &x, n_cols);
    let mut ys =
        n_rows.map(|n_rows| device.alloc::<f32>(experts.len() * n_rows, Purpose::Activations).unwrap());
    let [y, y_b] = &mut ys;
    let args = Args {
        y: [y, y_b],
        w: [&device_w, &device_w_b],
        x: &device_x,
        x_numbers: &x_numbers,
        experts: &device_experts,
        n_used: n_used as u32,
        n_rows: n_rows.map(|n| n as u32),
        n_cols: n_cols as u32,
    };
    launch(device, args, Grid::xy(n_blocks as u32, experts.len() as u32));

    let errors = x_errors::<Q>(&x, n_cols, 1);
    let x_magnitudes: Vec<f64> = x.iter().zip(&errors).map(|(&x, e)| f64::from(x).abs() + e).collect();
    let x = widen(&x);
    [0, 1].map(|i| {
        let (n_rows, Tensor { values, magnitudes, .. }) = (n_rows[i], &tensors[i]);
        let found = device.download(&ys[i]).unwrap();
        if n_rows == 0 {
            return found;
        }
        let linear = |w: &[f64], x: &[f64]| {
            let mut y = vec![0.0; experts.len() * n_rows];
            reference::linear(&mut y, w, x, experts, n_used, [n_rows, n_cols]);
            y
        };
        let (expected, sums, x_errors) =
            (linear(values, &x), linear(magnitudes, &x_magnitudes), linear(magnitudes, &errors));
        let what = format!("tensor {i} of {n_experts} × {n_rows} × {n_cols} {}, {experts:?}", Q::NAME);
        let chain = gemv_chain::<Q>(1, n_cols) + 1;
        assert_within(&what, &found, &expected, &[experts.len(), n_rows], |i| {
            dot_bound(chain, sums[i]) + x_errors[i]
        });
        found
    })
}

/// Rows of x, each converted for itself.
fn converted<Q: Product + Several, D: Device>(
    device: &D,
    x: &[f32],
    n_cols: usize,
) -> (DeviceBuffer<u32>, DeviceBuffer<f32>) {
    super::gemv::converted::<Q, D>(device, x, [x.len() / n_cols, 1, n_cols])
}

macro_rules! formats {
    ($($format:ident: $block:ty, $kernel:ident;)+) => {$(
        mod $format {
            use super::*;

            pub fn launch<D: Device>(device: &D, args: Args<'_>, grid: Grid) {
                let Args { y: [y, y_b], w: [w, w_b], x, x_numbers, experts, n_used, n_rows, n_cols } = args;
                let [n_rows, n_rows_b] = n_rows;
                let gemv = $kernel { y, y_b, w, w_b, x, x_numbers, experts, n_used, n_rows, n_rows_b, n_cols };
                device.launch(gemv, grid).unwrap();
            }

            /// Gate and up: partial tiles in both, and padding between the experts.
            #[test]
            fn one_token_with_four_experts() {
                let case = Case { n_experts: 7, n_rows: [19, 3], n_cols: 512, experts: &[5, 0, 6, 2], n_used: 4, n_blocks: 2 };
                on_every_device!(|device| check::<$block, _>(device, launch, case));
            }

            /// Down: a row of x for each assignment.
            #[test]
            fn two_tokens_that_share_experts() {
                let case = Case { n_experts: 3, n_rows: [17, 0], n_cols: 256, experts: &[2, 0, 0, 2], n_used: 1, n_blocks: 1 };
                on_every_device!(|device| check::<$block, _>(device, launch, case));
            }
        }
    )+};
}

formats! {
    f16: F16, moe_gemv_f16;
    q4_0: Q4_0, moe_gemv_q4_0;
    q8_0: Q8_0, moe_gemv_q8_0;
    q4_k: Q4_K, moe_gemv_q4_k;
    q5_k: Q5_K, moe_gemv_q5_k;
    q6_k: Q6_K, moe_gemv_q6_k;
    mxfp4: MXFP4, moe_gemv_mxfp4;
}

fn check_mxfp4(case: Case<'_>) {
    on_every_device!(|device| check::<MXFP4, _>(device, mxfp4::launch, case));
}

#[test]
fn one_and_eight_experts_of_a_token() {
    let case = Case { n_experts: 9, n_rows: [16, 33], n_cols: 128, experts: &[8], n_used: 1, n_blocks: 2 };
    check_mxfp4(case);
    check_mxfp4(Case { experts: &[3, 8, 1, 0, 7, 5, 2, 4], n_used: 8, ..case });
    check_mxfp4(Case { n_experts: 1, experts: &[0], ..case });
}

/// The columns of gpt-oss: 90 blocks of 32, half of a tile left over.
#[test]
fn rows_of_2880() {
    let experts = &[3, 1, 0, 2, 0, 3, 2, 1];
    let case = Case { n_experts: 4, n_rows: [5, 16], n_cols: 2880, experts, n_used: 4, n_blocks: 2 };
    check_mxfp4(case);
    check_mxfp4(Case { n_used: 1, ..case });
}

/// Every token goes to one expert; and rows of x that neither tiles nor 16-byte loads divide.
#[test]
fn one_expert_for_all() {
    let case = Case { n_experts: 4, n_rows: [18, 0], n_cols: 160, experts: &[2; 6], n_used: 1, n_blocks: 1 };
    check_mxfp4(case);
    let case = Case { n_cols: 173, n_used: 2, ..case };
    on_every_device!(|device| check::<F16, _>(device, f16::launch, case));
}

/// x in two passes over the rows, which add to what is there.
#[test]
fn x_larger_than_shared_memory() {
    let case =
        Case { n_experts: 2, n_rows: [18, 2], n_cols: 16384 + 160, experts: &[1, 0], n_used: 1, n_blocks: 1 };
    check_mxfp4(case);
}

/// An assignment's result is that of a launch of its own, on any grid and with its expert's matrix alone, in every bit.
#[test]
fn same_bits_as_the_experts_matrix_alone() {
    fn check_alone<D: Device>(device: &D) {
        const SHAPE: [usize; 2] = [53, 1056];
        let [n_rows, n_cols] = SHAPE;
        let experts = &[4, 1, 3, 1];
        let case = Case { n_experts: 5, n_rows: [n_rows, 0], n_cols, experts, n_used: 2, n_blocks: 1 };
        let [found, _] = check::<MXFP4, _>(device, mxfp4::launch, case);
        let blocks = moe_gemv_blocks(experts.len(), n_rows, 264);
        assert_eq!(blocks, 4);
        let [on_many, _] = check::<MXFP4, _>(device, mxfp4::launch, Case { n_blocks: blocks, ..case });
        assert_same_bits("on many blocks", &on_many, &found, &[4, n_rows]);

        // What `check` made of the same numbers.
        let mut rng = Rng::new(8);
        let tensors = [n_rows, 0].map(|n_rows| tensor::<MXFP4>(&mut rng, 5, [n_rows, n_cols]));
        let x = vectors(&mut rng, 2, n_cols);
        let matrix_bytes = tensors[0].bytes.len() / 5;
        for (j, &expert) in experts.iter().enumerate() {
            let matrix = &tensors[0].bytes[expert as usize * matrix_bytes..][..matrix_bytes];
            let w = &device.upload(matrix, Purpose::Weights).unwrap();
            let (x, x_numbers) = &converted::<MXFP4, D>(device, &x[j / 2 * n_cols..][..n_cols], n_cols);
            let mut y = device.alloc(n_rows, Purpose::Activations).unwrap();
            let [mut y_b, mut y_c] = [0; 2].map(|n| device.alloc(n, Purpose::Activations).unwrap());
            let (w_b, w_c, n_rows_b, n_rows_c) = (w, w, 0, 0);
            let (n_rows, n_cols) = (n_rows as u32, n_cols as u32);
            let (y, y_b, y_c) = (&mut y, &mut y_b, &mut y_c);
            let gemv =
                gemv_mxfp4 { y, y_b, y_c, w, w_b, w_c, x, x_numbers, n_rows, n_rows_b, n_rows_c, n_cols };
            device.launch(gemv, Grid::x(1)).unwrap();
            let alone = device.download(y).unwrap();
            assert_same_bits("alone", &found[j * SHAPE[0]..][..SHAPE[0]], &alone, &[SHAPE[0]]);
        }
    }
    on_every_device!(|device| check_alone(device));
}

#[test]
fn blocks_are_dealt_to_assignments() {
    assert_eq!(moe_gemv_blocks(4, 2 * 2880, 264), 66);
    assert_eq!(moe_gemv_blocks(4, 48, 264), 3);
    assert_eq!(moe_gemv_blocks(1000, 2880, 264), 1);
}

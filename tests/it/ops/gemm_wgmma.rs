//! Products on Hopper's tensor cores against the reference, by every plan.

use kernels_gpu::gemm_wgmma::plan::{Plan, Shape};
use kernels_gpu::launch::{Device, DeviceSlice, Purpose};
use kernels_gpu::simt::emulator::Emulator;
use kernels_gpu::simt::{Element, bf16, f16};
use testkit::compare::{F16_ROUNDING, F16_SUBNORMAL_ROUNDING, assert_within, dot_bound, linear_magnitudes};
use testkit::data::Rng;
use testkit::reference;

/// An operand's type: how a plan is launched with it, and how results are rounded to it.
trait Half: Element {
    const NAME: &'static str;
    fn narrow(value: f32) -> Self;
    fn wide(self) -> f32;
    /// Absolute error of rounding a result.
    fn rounding(value: f64) -> f64;
    fn launch<D: Device>(
        plan: &Plan,
        device: &D,
        y: &mut DeviceSlice<Self>,
        w: &DeviceSlice<Self>,
        x: &DeviceSlice<Self>,
    ) -> Result<(), D::Error>;
}

macro_rules! half {
    ($ty:ty, $launch:ident, $rounding:expr) => {
        impl Half for $ty {
            const NAME: &'static str = stringify!($ty);

            fn narrow(value: f32) -> Self {
                <$ty>::from_f32(value)
            }

            fn wide(self) -> f32 {
                self.to_f32()
            }

            fn rounding(value: f64) -> f64 {
                $rounding(value)
            }

            fn launch<D: Device>(
                plan: &Plan,
                device: &D,
                y: &mut DeviceSlice<Self>,
                w: &DeviceSlice<Self>,
                x: &DeviceSlice<Self>,
            ) -> Result<(), D::Error> {
                plan.$launch(device, y, w, x)
            }
        }
    };
}

/// Half a unit in the last place of 8 bits.
const BF16_ROUNDING: f64 = 1.0 / (1 << 8) as f64 / 2.0;

half!(bf16, launch_bf16, |value: f64| value.abs() * BF16_ROUNDING * 2.0);
half!(f16, launch_f16, |value: f64| value.abs() * F16_ROUNDING * 2.0 + F16_SUBNORMAL_ROUNDING);

fn check<T: Half, D: Device>(device: &D, plan: Plan) {
    let Shape { n_tokens, n_rows, n_cols } = plan.shape;
    let mut rng = Rng::new(11);
    let mut matrix = |n: usize| rng.normal(n, 1.0).into_iter().map(T::narrow).collect::<Vec<T>>();
    let (w, x) = (matrix(n_rows * n_cols), matrix(n_tokens * n_cols));
    let device_w = device.upload(&w, Purpose::Weights).unwrap();
    let device_x = device.upload(&x, Purpose::Activations).unwrap();
    let mut y = device.alloc::<T>(n_tokens * n_rows, Purpose::Activations).unwrap();
    T::launch(&plan, device, &mut y, &device_w, &device_x).unwrap();

    let wide = |values: &[T]| values.iter().map(|value| f64::from(value.wide())).collect::<Vec<_>>();
    let (w, x) = (wide(&w), wide(&x));
    let mut expected = vec![0.0; n_tokens * n_rows];
    reference::linear(&mut expected, &w, &x, n_cols);
    let sums = linear_magnitudes(&w, &x, n_cols);
    let found: Vec<f32> = device.download(&y).unwrap().into_iter().map(T::wide).collect();
    // The tensor cores may cut off what they add, instead of rounding it: twice the error of each addition. What is
    // rounded to 16 bits is off by that error already.
    let bound = |i: usize| dot_bound(2 * n_cols, sums[i]) + T::rounding(expected[i]);
    assert_within(&format!("{} {plan}", T::NAME), &found, &expected, &[n_tokens, n_rows], bound);
}

const fn shape(n_tokens: usize, n_rows: usize, n_cols: usize) -> Shape {
    Shape { n_tokens, n_rows, n_cols }
}

/// Partial tiles in all dimensions: 130 = 128 + 2 tokens, rows that end within a box, 136 = 2 · 64 + 8 columns.
#[test]
fn partial_tiles() {
    for rows in [64, 128, 192, 224, 256] {
        let shape = shape(130, rows as usize + 40, 136);
        on_hopper!(|device| check::<bf16, _>(device, Plan::tiles(shape, rows, 2)));
    }
}

/// Two blocks take five tiles, so that rings and staged boxes go on from one tile to the next; more stages than a
/// ring has.
#[test]
fn blocks_take_several_tiles() {
    on_hopper!(|device| check::<bf16, _>(device, Plan::tiles(shape(128, 5 * 128, 384), 128, 2)));
    on_hopper!(|device| check::<f16, _>(device, Plan::tiles(shape(200, 512, 320), 256, 3)));
    on_hopper!(|device| check::<f16, _>(device, Plan::tiles(shape(8, 400, 64), 192, 3)));
    on_hopper!(|device| check::<f16, _>(device, Plan::tiles(shape(8, 448, 64), 224, 3)));
    on_hopper!(|device| check::<f16, _>(device, Plan::tiles(shape(8, 128, 64), 128, 3)));
    on_hopper!(|device| check::<f16, _>(device, Plan::tiles(shape(8, 320, 64 * 9), 64, 3)));
}

/// Blocks that load for each other: partial tiles in all dimensions; a second block that has but two tokens, or none.
#[test]
fn clusters_of_partial_tiles() {
    for rows in [128, 192, 224, 256] {
        let shape = shape(130, rows as usize + 40, 136);
        on_hopper!(|device| check::<bf16, _>(device, Plan::multicast(shape, rows, 2)));
    }
    on_hopper!(|device| check::<f16, _>(device, Plan::multicast(shape(100, 24, 72), 128, 132)));
}

/// One cluster, or two, take several tiles each, in more stages than a ring has.
#[test]
fn clusters_take_several_tiles() {
    on_hopper!(|device| check::<bf16, _>(device, Plan::multicast(shape(200, 3 * 128, 7 * 64), 128, 2)));
    on_hopper!(|device| check::<f16, _>(device, Plan::multicast(shape(300, 256, 320), 192, 4)));
    on_hopper!(|device| check::<f16, _>(device, Plan::multicast(shape(8, 448, 64), 224, 2)));
    on_hopper!(|device| check::<f16, _>(device, Plan::multicast(shape(8, 512, 64), 256, 2)));
}

/// The tiles of products whose columns are divided between two blocks.
const PAIRS: [(u32, u32); 4] = [(16, 128), (64, 128), (128, 64), (128, 96)];

/// Columns divided between two blocks: partial tiles in all dimensions, several tiles of tokens and of rows.
#[test]
fn pairs_of_partial_tiles() {
    for (tokens, rows) in PAIRS {
        let shape = shape(tokens as usize + 3, rows as usize + 8, 5 * 64 + 8);
        on_hopper!(|device| check::<bf16, _>(device, Plan::pair(shape, tokens, rows)));
        on_hopper!(|device| check::<f16, _>(device, Plan::pair(shape, tokens, rows)));
    }
}

/// One stage for the first block and one or two for the second; more stages than a ring has; few tokens, so that whole
/// warps have none.
#[test]
fn long_and_short_pairs() {
    for (tokens, rows) in PAIRS {
        on_hopper!(|device| check::<f16, _>(device, Plan::pair(shape(1, 8, 2 * 64), tokens, rows)));
        on_hopper!(|device| check::<bf16, _>(device, Plan::pair(shape(9, 16, 3 * 64), tokens, rows)));
    }
    on_hopper!(|device| check::<f16, _>(device, Plan::pair(shape(16, 200, 41 * 64), 16, 128)));
    on_hopper!(|device| check::<bf16, _>(device, Plan::pair(shape(5, 128, 28 * 64), 64, 128)));
    on_hopper!(|device| check::<bf16, _>(device, Plan::pair(shape(70, 16, 28 * 64), 128, 64)));
    on_hopper!(|device| check::<f16, _>(device, Plan::pair(shape(70, 16, 20 * 64), 128, 96)));
}

/// Columns divided among the four blocks of a cluster: partial tiles in all dimensions, stages that do not divide evenly.
#[test]
fn split_columns() {
    let shape = shape(67, 136, 5 * 64 + 8);
    on_hopper!(|device| check::<bf16, _>(device, Plan::split(shape)));
    on_hopper!(|device| check::<f16, _>(device, Plan::split(shape)));
}

/// More stages a block than its ring has; one stage a block; few tokens, so that whole warps have none.
#[test]
fn long_and_short_splits() {
    on_hopper!(|device| check::<bf16, _>(device, Plan::split(shape(5, 128, 36 * 64))));
    on_hopper!(|device| check::<f16, _>(device, Plan::split(shape(1, 8, 4 * 64))));
}

#[test]
fn one_token_one_stage() {
    on_hopper!(|device| check::<bf16, _>(device, Plan::tiles(shape(1, 8, 8), 128, 132)));
    on_hopper!(|device| check::<f16, _>(device, Plan::new(shape(1, 8, 8), 132)));
}

/// The same bits whatever the order of blocks, warps and lanes.
#[test]
fn any_order_gives_the_same_bits() {
    for plan in [
        Plan::pair(shape(9, 136, 5 * 64), 16, 128),
        Plan::pair(shape(9, 136, 5 * 64), 128, 96),
        Plan::split(shape(9, 136, 5 * 64)),
    ] {
        let results = [0, 1, 2].map(|seed| {
            let device = Emulator::checked().with_seed(seed);
            let mut rng = Rng::new(3);
            let mut matrix = |n: usize| rng.normal(n, 1.0).into_iter().map(f16::from_f32).collect::<Vec<_>>();
            let w = device.upload(&matrix(136 * 320), Purpose::Weights).unwrap();
            let x = device.upload(&matrix(9 * 320), Purpose::Activations).unwrap();
            let mut y = device.alloc(9 * 136, Purpose::Activations).unwrap();
            plan.launch_f16(&device, &mut y, &w, &x).unwrap();
            device.download(&y).unwrap()
        });
        assert!(results[0] == results[1] && results[1] == results[2], "{plan}");
    }
}

/// What the plan is for: the shapes of Llama-3-8B on 132 multiprocessors. Each block has work, and pieces fit.
#[test]
fn plans() {
    let of_tokens = |n_tokens: usize| {
        let matrices = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)];
        let plan = |(n_rows, n_cols)| Plan::new(shape(n_tokens, n_rows, n_cols), 132).to_string();
        matrices.map(plan).join("\n")
    };
    insta::assert_snapshot!(of_tokens(16), @r"
    16 x 6144 x 4096: 96 blocks, tiles of 16 x 128, each divided between 2
    16 x 4096 x 4096: 64 blocks, tiles of 16 x 128, each divided between 2
    16 x 28672 x 4096: 448 blocks, tiles of 16 x 128, each divided between 2
    16 x 4096 x 14336: 64 blocks, tiles of 16 x 128, each divided between 2
    ");
    insta::assert_snapshot!(of_tokens(64), @r"
    64 x 6144 x 4096: 96 blocks, tiles of 64 x 128, each divided between 2
    64 x 4096 x 4096: 64 blocks, tiles of 64 x 128, each divided between 2
    64 x 28672 x 4096: 448 blocks, tiles of 64 x 128, each divided between 2
    64 x 4096 x 14336: 64 blocks, tiles of 64 x 128, each divided between 2
    ");
    insta::assert_snapshot!(of_tokens(128), @r"
    128 x 6144 x 4096: 128 blocks, tiles of 128 x 96, each divided between 2
    128 x 4096 x 4096: 128 blocks, tiles of 128 x 64, each divided between 2
    128 x 28672 x 4096: 128 blocks, tiles of 128 x 224
    128 x 4096 x 14336: 128 blocks, tiles of 128 x 64, each divided between 2
    ");
    insta::assert_snapshot!(of_tokens(512), @r"
    512 x 6144 x 4096: 128 blocks, tiles of 128 x 192, 2 a cluster
    512 x 4096 x 4096: 128 blocks, tiles of 128 x 128, 2 a cluster
    512 x 28672 x 4096: 132 blocks, tiles of 128 x 224, 2 a cluster
    512 x 4096 x 14336: 128 blocks, tiles of 128 x 128, 2 a cluster
    ");
    insta::assert_snapshot!(of_tokens(8192), @r"
    8192 x 6144 x 4096: 132 blocks, tiles of 128 x 256, 2 a cluster
    8192 x 4096 x 4096: 132 blocks, tiles of 128 x 256, 2 a cluster
    8192 x 28672 x 4096: 132 blocks, tiles of 128 x 256, 2 a cluster
    8192 x 4096 x 14336: 132 blocks, tiles of 128 x 256, 2 a cluster
    ");
}

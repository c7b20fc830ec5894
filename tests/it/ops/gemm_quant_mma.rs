//! Products with weights in fragments on the tensor cores of any GPU against the reference.

use kernels_gpu::gemm_quant_mma::product::{GemmQuantMma, Product, TILE_TOKENS};
use kernels_gpu::launch::{Device, Purpose};
use kernels_gpu::quant::fragments::QuantFragments;
use kernels_gpu::quant::halves::WEIGHT_FACTOR;
use kernels_gpu::quant::layout::GpuLayout;
use kernels_gpu::quant::{
    BF16, F16, IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0,
};
use kernels_gpu::simt::emulator::{Access, Emulator, View};
use testkit::compare::F16_SUBNORMAL_ROUNDING;
use testkit::data::{RandomBlock, packed};

use super::gemm_quant::Random;

fn launch<Q: GemmQuantMma + GpuLayout + RandomBlock, D: Device>(
    device: &D,
    case: &Random<Q>,
    product: Product,
) -> Vec<f32> {
    let w = device.upload(&packed(&case.blocks, product.n_cols), Purpose::Weights).unwrap();
    let x = device.upload(&case.x.halves, Purpose::Activations).unwrap();
    let x_scales = device.upload(&case.x.scales, Purpose::Activations).unwrap();
    let mut y = device.alloc(product.n_tokens * product.n_rows, Purpose::Activations).unwrap();
    product.launch::<Q, D>(device, &mut y, &w, (&x, &x_scales)).unwrap();
    device.download(&y).unwrap()
}

fn check<Q: GemmQuantMma + QuantFragments + GpuLayout + RandomBlock, D: Device>(
    device: &D,
    [n_tokens, n_rows, n_cols]: [usize; 3],
    tile_tokens: usize,
) {
    let product = Product { n_tokens, n_rows, n_cols, tile_tokens };
    let case = Random::<Q>::new(n_tokens, n_rows, n_cols);
    let found = launch(device, &case, product);
    case.assert_product(&product.to_string(), &found, 0);
}

/// The same of floats, which are off by `error` each.
fn check_floats<Q: GemmQuantMma + GpuLayout + RandomBlock, D: Device>(
    device: &D,
    [n_tokens, n_rows, n_cols]: [usize; 3],
    error: f64,
) {
    let case = Random::<Q>::with_errors([n_tokens, n_rows, n_cols], |_, w| vec![error; w.len()]);
    for tile_tokens in TILE_TOKENS {
        let product = Product { n_tokens, n_rows, n_cols, tile_tokens };
        let found = launch(device, &case, product);
        case.assert_product(&product.to_string(), &found, 0);
    }
}

/// Partial tiles in all dimensions, the last columns half a tile of weights; and one product of each dimension.
#[test]
fn floats() {
    let of_bf16 = F16_SUBNORMAL_ROUNDING / f64::from(WEIGHT_FACTOR);
    for shape in [[70, 75, 160], [1, 1, 32], [130, 140, 768]] {
        on_every_device!(|device| check_floats::<F16, _>(device, shape, 0.0));
        on_every_device!(|device| check_floats::<BF16, _>(device, shape, of_bf16));
    }
}

/// Partial tiles in all dimensions: 70 = 64 + 6 tokens, rows that end within a warp's 16 and leave warps without any, a last
/// unit of 32 columns, or a block of 256; every format and both tiles.
#[test]
fn every_format() {
    macro_rules! every_format {
        ($($format:ty, $n_cols:literal;)*) => {$(
            on_every_device!(|device| check::<$format, _>(device, [70, 75, $n_cols], 64));
            on_every_device!(|device| check::<$format, _>(device, [70, 75, $n_cols], 128));
        )*};
    }
    every_format! {
        Q2_K, 256;
        Q3_K, 256;
        Q4_0, 160;
        Q4_1, 160;
        Q5_0, 160;
        Q5_1, 160;
        Q8_0, 160;
        Q4_K, 256;
        Q5_K, 256;
        Q6_K, 256;
        IQ4_NL, 160;
        IQ4_XS, 256;
        MXFP4, 160;
    }
}

/// More stages than shared memory has, several blocks in both directions.
#[test]
fn long_rows_many_blocks() {
    on_every_device!(|device| check::<Q4_K, _>(device, [130, 140, 768], 128));
    on_every_device!(|device| check::<Q8_0, _>(device, [65, 68, 736], 64));
}

#[test]
fn one_token_one_row() {
    on_every_device!(|device| check::<Q8_0, _>(device, [1, 1, 32], 64));
    on_every_device!(|device| check::<Q6_K, _>(device, [1, 1, 256], 128));
}

/// Rows of 2880 columns, which end in the middle of a unit and of a stage's ring.
#[test]
fn columns_end_in_the_middle_of_a_unit() {
    on_every_device!(|device| check::<MXFP4, _>(device, [3, 17, 2880], 64));
}

/// The same bits whatever the order of blocks, warps and lanes.
#[test]
fn any_order_gives_the_same_bits() {
    let product = Product::new(9, 70, 512);
    let case = Random::<Q4_K>::new(9, 70, 512);
    let results = [0, 1, 2].map(|seed| launch(&Emulator::checked().with_seed(seed), &case, product));
    assert!(results[0] == results[1] && results[1] == results[2]);
}

/// Shared memory has no bank conflicts, and a block reads its weights once, and one unit twice: its last.
#[test]
fn weights_come_once_a_block() {
    for tokens in TILE_TOKENS {
        let device = Emulator::checked().counting();
        let case = Random::<Q4_K>::new(tokens, tokens, 512);
        launch(&device, &case, Product::new(tokens, tokens, 512));
        let report = device.report().expect("a counting emulator reports");
        assert_eq!((report.bank_conflicts(), report.excess_sectors()), (0, 0), "{report:#?}");
        let of_w = report.sites.iter().filter(|s| s.view == View::Param("w") && s.access == Access::Read);
        let found: u64 = of_w.map(|site| site.transactions).sum();
        // A unit of 16 rows by 128 columns: the quants, and the scales of 256 columns.
        let unit_bytes = 16 * 64 + 16 * 16;
        assert_eq!(found as usize, tokens / 16 * (512 / 128 + 1) * unit_bytes / 32, "sectors of w");
    }
}

//! Grouped rows times their experts' matrices on the tensor cores of any GPU against the reference.

use kernels_gpu::launch::{Device, Purpose};
use kernels_gpu::moe_gemm_mma::product::{MoeGemmMma, Product};
use kernels_gpu::quant::layout::GpuLayout;
use kernels_gpu::quant::{MXFP4, Q4_K, Q5_K, Q6_K, Q8_0};
use kernels_gpu::simt::emulator::Emulator;
use testkit::data::RandomBlock;

use super::moe_gemm::Grouped;

fn launch<Q: MoeGemmMma + GpuLayout + RandomBlock, D: Device>(
    device: &D,
    case: &Grouped<Q>,
    product: Product,
) -> Vec<f32> {
    let w = device.upload(&case.w(), Purpose::Weights).unwrap();
    let x = device.upload(&case.random.x.halves, Purpose::Activations).unwrap();
    let x_scales = device.upload(&case.random.x.scales, Purpose::Activations).unwrap();
    let offsets = device.upload(&case.offsets, Purpose::Activations).unwrap();
    let mut y = device.alloc(product.n_assigned * product.n_rows, Purpose::Activations).unwrap();
    product.launch::<Q, D>(device, &mut y, &w, (&x, &x_scales), &offsets).unwrap();
    device.download(&y).unwrap()
}

fn check<Q: MoeGemmMma + GpuLayout + RandomBlock>(
    counts: &[u32],
    [n_rows, n_cols]: [usize; 2],
    tile_tokens: usize,
) {
    let case = Grouped::<Q>::new(counts, [n_rows, n_cols]);
    let (n_assigned, n_experts) = (case.n_assigned(), case.n_experts());
    let product = Product { n_assigned, n_experts, n_rows, n_cols, tile_tokens };
    on_every_device!(|device| case.assert_product(&product.to_string(), &launch(device, &case, product)));
}

/// Experts without rows, with a few, with a tile and with more; rows that end within a warp's 16, a last unit of 32 columns or
/// a block of 256.
#[test]
fn experts_with_any_number_of_rows_in_every_format() {
    let counts = [0, 70, 1, 0, 0, 64, 5, 0];
    check::<Q8_0>(&counts, [75, 160], 64);
    check::<Q4_K>(&counts, [75, 256], 64);
    check::<Q5_K>(&counts, [75, 256], 64);
    check::<Q6_K>(&counts, [75, 256], 64);
    check::<MXFP4>(&counts, [75, 160], 64);
}

#[test]
fn wide_tiles() {
    check::<MXFP4>(&[3, 0, 129, 128], [140, 288], 128);
    check::<Q6_K>(&[1, 2], [5, 256], 128);
}

/// More experts than a warp has lanes.
#[test]
fn seventy_experts() {
    let counts: Vec<u32> = (0..70).map(|expert| [2, 0, 0, 1, 0, 9, 0][expert % 7]).collect();
    check::<MXFP4>(&counts, [18, 64], 64);
    let mut counts = vec![0; 256];
    (counts[0], counts[255]) = (1, 2);
    check::<MXFP4>(&counts, [4, 32], 64);
}

/// All rows to one expert: blocks that find nothing to do.
#[test]
fn one_expert_for_all() {
    check::<MXFP4>(&[0, 0, 9, 0], [40, 64], 128);
    check::<MXFP4>(&[1], [1, 32], 64);
}

/// The columns of gpt-oss, 22 units and a half.
#[test]
fn rows_of_2880() {
    check::<MXFP4>(&[2, 3], [16, 2880], 64);
}

/// The same bits whatever the order of blocks, warps and lanes.
#[test]
fn any_order_gives_the_same_bits() {
    let case = Grouped::<MXFP4>::new(&[5, 0, 66], [70, 160]);
    let product = Product::new(71, 3, 70, 160);
    let results = [0, 1, 2].map(|seed| launch(&Emulator::checked().with_seed(seed), &case, product));
    assert!(results[0] == results[1] && results[1] == results[2]);
}

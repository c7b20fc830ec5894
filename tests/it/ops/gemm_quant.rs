//! Products with quantised weights on Hopper's tensor cores against the reference, by every plan.

use kernels_gpu::gemm_quant::plan::{GemmQuant, Plan, Shape, TILE_TOKENS};
use kernels_gpu::launch::{Device, Purpose};
use kernels_gpu::narrow::place;
use kernels_gpu::quant::fragments::QuantFragments;
use kernels_gpu::quant::halves::WEIGHT_FACTOR;
use kernels_gpu::quant::layout::GpuLayout;
use kernels_gpu::quant::{
    IQ4_NL, IQ4_XS, MXFP4, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, QuantBlock, decode_blocks,
};
use kernels_gpu::simt::emulator::{Access, Emulator, View};
use kernels_gpu::simt::f16;
use testkit::compare::{F16_ROUNDING, F16_SUBNORMAL_ROUNDING, assert_within, dot_bound, linear_magnitudes};
use testkit::data::{RandomBlock, Rng, packed, weights};
use testkit::reference::{self, widen};

/// Activations as the kernel takes them, and their values.
pub struct Activations {
    pub halves: Vec<f16>,
    pub scales: Vec<f32>,
    values: Vec<f64>,
}

/// Tokens of very different size: each has its own power of two.
pub fn activations(rng: &mut Rng, n_tokens: usize, n_cols: usize) -> Activations {
    let mut halves = vec![f16::from_bits(0); n_tokens * n_cols];
    let scales: Vec<f32> = (0..n_tokens).map(|t| 2f32.powi(t as i32 % 7 * 5 - 15)).collect();
    let mut values = Vec::with_capacity(halves.len());
    for (i, x) in rng.normal(n_tokens * n_cols, 100.0).into_iter().enumerate() {
        let (token, col) = (i / n_cols, i % n_cols);
        let half = f16::from_f32(x);
        halves[token * n_cols + place(col)] = half;
        values.push(f64::from(half.to_f32()) * f64::from(scales[token]));
    }
    Activations { halves, scales, values }
}

fn launch<Q: GemmQuant, D: Device>(device: &D, plan: Plan, w: &[u8], x: &Activations) -> Vec<f32> {
    let w = device.upload(w, Purpose::Weights).unwrap();
    let x_halves = device.upload(&x.halves, Purpose::Activations).unwrap();
    let x_scales = device.upload(&x.scales, Purpose::Activations).unwrap();
    let mut y = device.alloc(plan.shape.n_tokens * plan.shape.n_rows, Purpose::Activations).unwrap();
    let mut workspace = device.alloc(plan.workspace_len().max(1), Purpose::Other).unwrap();
    plan.launch::<Q, D>(device, &mut y, &w, (&x_halves, &x_scales), &mut workspace).unwrap();
    device.download(&y).unwrap()
}

fn check<Q: GemmQuant + GpuLayout + RandomBlock, D: Device>(device: &D, plan: Plan) {
    let Shape { n_tokens, n_rows, n_cols } = plan.shape;
    let case = Random::<Q>::new(n_tokens, n_rows, n_cols);
    let found = launch::<Q, D>(device, plan, &packed(&case.blocks, n_cols), &case.x);
    // Parts are added, and halves of columns.
    case.assert_product(&plan.to_string(), &found, plan.n_parts as usize + 1);
}

/// A product with random weights and activations.
pub struct Random<Q> {
    pub blocks: Vec<Q>,
    pub x: Activations,
    values: Vec<f32>,
    /// How far a weight may be from what is multiplied instead.
    errors: Vec<f64>,
    shape: [usize; 3],
}

impl<Q: QuantFragments + RandomBlock> Random<Q> {
    pub fn new(n_tokens: usize, n_rows: usize, n_cols: usize) -> Self {
        Self::with_errors([n_tokens, n_rows, n_cols], Self::roundings)
    }

    /// A weight is scale · (q − middle) + the value of the middle, all of them times the factor. The result is rounded to
    /// f16. In blocks of 256 so are scales and middles before; those of the other formats are halves, and their middle is zero.
    fn roundings(blocks: &[Q], w: &[f64]) -> Vec<f64> {
        let mut middles = vec![0.0f64; w.len()];
        if Q::HAS_OFFSET && Q::MIDDLE > 0 {
            let decoded = |byte: u8| {
                let mut values = vec![0.0f32; w.len()];
                decode_blocks(
                    &blocks.iter().map(|block| block.with_quants(byte)).collect::<Vec<Q>>(),
                    &mut values,
                );
                widen(&values)
            };
            let part = f64::from(Q::MIDDLE) / f64::from(2 * Q::MIDDLE - 1);
            let of_extremes = |(lowest, highest): (f64, f64)| lowest + (highest - lowest) * part;
            middles = decoded(0).into_iter().zip(decoded(0xff)).map(of_extremes).collect();
        }
        let subnormal = (128.0 + 2.0) * F16_SUBNORMAL_ROUNDING / f64::from(WEIGHT_FACTOR);
        let rounding = |(&w, &middle): (&f64, &f64)| {
            let before =
                if Q::ELEMENTS == 256 { F16_ROUNDING * ((w - middle).abs() + middle.abs()) } else { 0.0 };
            before + F16_ROUNDING * (w.abs() + before) + subnormal
        };
        w.iter().zip(&middles).map(rounding).collect()
    }
}

impl<Q: RandomBlock> Random<Q> {
    /// One with the errors of weights that `errors` says.
    pub fn with_errors(shape: [usize; 3], errors: impl Fn(&[Q], &[f64]) -> Vec<f64>) -> Self {
        let [n_tokens, n_rows, n_cols] = shape;
        let mut rng = Rng::new(17);
        let (blocks, values) = weights::<Q>(&mut rng, n_rows * n_cols / Q::ELEMENTS);
        let x = activations(&mut rng, n_tokens, n_cols);
        let errors = errors(&blocks, &widen(&values));
        Self { blocks, x, values, errors, shape }
    }

    /// Compares a product, to whose sums `n_additions` come beside those of the columns, with the reference.
    pub fn assert_product(&self, what: &str, found: &[f32], n_additions: usize) {
        let [n_tokens, n_rows, _] = self.shape;
        let (expected, bounds) = self.product(n_additions);
        assert_within(&format!("{} {what}", Q::NAME), found, &expected, &[n_tokens, n_rows], |i| bounds[i]);
    }

    /// The product by the reference, and how far each result may be from it.
    pub fn product(&self, n_additions: usize) -> (Vec<f64>, Vec<f64>) {
        let [n_tokens, n_rows, n_cols] = self.shape;
        let w = widen(&self.values);
        let mut expected = vec![0.0; n_tokens * n_rows];
        reference::linear(&mut expected, &w, &self.x.values, n_cols);

        let weights_off = linear_magnitudes(&self.errors, &self.x.values, n_cols);
        let sums = linear_magnitudes(&w, &self.x.values, n_cols);
        // The tensor cores may cut off what they add, instead of rounding it: twice the error of each addition. Sums are
        // multiplied by a scale after all; that is a power of two.
        let chain = 2 * n_cols + n_additions;
        let bound = |(sum, off): (&f64, &f64)| off + dot_bound(chain, sum + off);
        let bounds = sums.iter().zip(&weights_off).map(bound).collect();
        (expected, bounds)
    }
}

const fn shape(n_tokens: usize, n_rows: usize, n_cols: usize) -> Shape {
    Shape { n_tokens, n_rows, n_cols }
}

/// Partial tiles in all dimensions: 70 = 64 + 6 tokens, rows that end within a warp's 16 and leave a consumer without
/// any, a last unit of 32 columns, or a block of 256; every format and two blocks, also of three consumers, and with
/// divided columns.
#[test]
fn every_format() {
    macro_rules! every_format {
        ($($format:ty, $n_cols:literal;)*) => {$(
            let small = shape(70, 152, $n_cols);
            for plan in [Plan::with(small, 64, 1, 2), Plan::wide(small, 2), Plan::split(small).unwrap()] {
                on_hopper!(|device| check::<$format, _>(device, plan));
            }
        )*};
    }
    every_format! {
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

/// Wide tiles: a last one with one token, more stages than the ring has, and blocks that take several.
#[test]
fn wide_tiles() {
    on_hopper!(|device| check::<Q4_K, _>(device, Plan::with(shape(257, 20, 512), 256, 1, 1)));
    on_hopper!(|device| check::<Q8_0, _>(device, Plan::with(shape(129, 132, 736), 128, 1, 3)));
    on_hopper!(|device| check::<Q6_K, _>(device, Plan::with(shape(3, 260, 512), 128, 1, 2)));
}

/// Three consumers: more stages than the ring has, and a block that takes several tiles.
#[test]
fn high_tiles() {
    on_hopper!(|device| check::<Q8_0, _>(device, Plan::wide(shape(129, 388, 736), 2)));
    on_hopper!(|device| check::<Q4_K, _>(device, Plan::wide(shape(5, 4, 256), 132)));
}

/// Columns divided between two blocks: more stages than the ring has, unequal halves, several clusters; one of the halves of
/// the tokens is empty.
#[test]
fn split_columns() {
    on_hopper!(|device| check::<Q4_K, _>(device, Plan::split(shape(257, 20, 3 * 256)).unwrap()));
    on_hopper!(|device| check::<Q8_0, _>(device, Plan::split(shape(200, 132, 7 * 128 + 32)).unwrap()));
    on_hopper!(|device| check::<Q6_K, _>(device, Plan::split(shape(3, 260, 512)).unwrap()));
}

/// Whole tiles for every block, and divided columns of the rows that remain.
#[test]
fn rounds_and_the_rest() {
    let plan = Plan::rounds(shape(257, 512 + 140, 288), 8).unwrap();
    assert_eq!((plan.whole_rows, plan.n_blocks), (512, [8, 8]));
    on_hopper!(|device| check::<Q8_0, _>(device, plan));
    // Nothing remains; no whole round.
    assert_eq!(Plan::rounds(shape(257, 512, 288), 8), None);
    assert_eq!(Plan::rounds(shape(257, 256, 288), 8), None);
}

/// More tiles of tokens than a group, the last group smaller; three blocks.
#[test]
fn groups_of_tiles() {
    on_hopper!(|device| check::<Q4_0, _>(device, Plan::with(shape(18 * 64 - 5, 132, 32), 64, 1, 3)));
}

#[test]
fn one_token_one_block() {
    for tokens in TILE_TOKENS {
        on_hopper!(|device| check::<Q8_0, _>(device, Plan::with(shape(1, 4, 32), tokens, 1, 132)));
    }
}

/// Columns in parts, the last one smaller; blocks that take several parts.
#[test]
fn divided_columns() {
    on_hopper!(|device| check::<Q4_K, _>(device, Plan::with(shape(5, 136, 5 * 256), 64, 4, 132)));
    on_hopper!(|device| check::<Q8_0, _>(device, Plan::with(shape(66, 20, 5 * 128 - 32), 64, 3, 2)));
}

/// The same bits whatever the order of blocks, warps and lanes.
#[test]
fn any_order_gives_the_same_bits() {
    let plan = Plan::with(shape(9, 136, 512), 64, 2, 3);
    let mut rng = Rng::new(3);
    let (blocks, _) = weights::<Q4_K>(&mut rng, 136 * 2);
    let (w, x) = (packed(&blocks, 512), activations(&mut rng, 9, 512));
    let results = [0, 1, 2].map(|seed| launch::<Q4_K, _>(&Emulator::checked().with_seed(seed), plan, &w, &x));
    assert!(results[0] == results[1] && results[1] == results[2]);
}

/// A weight that f16 cannot hold gives no number, rather than a wrong one; its neighbours are unharmed.
#[test]
fn too_large_a_weight_is_seen() {
    let n_cols = 64;
    let mut file = vec![0u8; 16 * n_cols / 32 * 34];
    for (i, block) in file.chunks_exact_mut(34).enumerate() {
        let scale: f32 = if i == 2 * 5 { 9.0 } else { 0.5 };
        block[..2].copy_from_slice(&f16::from_f32(scale).to_bits().to_le_bytes());
        block[2..].fill(127);
    }
    let mut w = vec![0; Q8_0::matrix_bytes(16, n_cols)];
    Q8_0::pack(&mut w, &file, 16, n_cols);
    let x = activations(&mut Rng::new(4), 2, n_cols);
    let y = launch::<Q8_0, _>(&Emulator::checked(), Plan::with(shape(2, 16, n_cols), 64, 1, 1), &w, &x);
    assert!(y.iter().enumerate().all(|(i, y)| y.is_finite() == (i % 16 != 5)), "{y:?}");
}

/// A warp reads the weights of a unit once for each tile of tokens, in whole sectors, and a block one unit too many: the first
/// of no more work. Staging results takes no wavefront more than needed.
#[test]
fn weights_come_once_a_tile() {
    for (shape, tokens, n_items) in [(shape(64, 256, 512), 64, 2), (shape(65, 512, 256), 64, 8)] {
        let plan = Plan::with(shape, tokens, 1, 4);
        let device = Emulator::checked().counting();
        let mut rng = Rng::new(5);
        let (blocks, _) = weights::<Q4_K>(&mut rng, shape.n_rows * shape.n_cols / Q4_K::ELEMENTS);
        let (w, x) = (packed(&blocks, shape.n_cols), activations(&mut rng, shape.n_tokens, shape.n_cols));
        launch::<Q4_K, _>(&device, plan, &w, &x);
        let report = device.report().expect("a counting emulator reports");
        assert_eq!((report.bank_conflicts(), report.excess_sectors()), (0, 0), "{report:#?}");
        let of_w = report.sites.iter().filter(|s| s.view == View::Param("w") && s.access == Access::Read);
        let found: u64 = of_w.map(|site| site.transactions).sum();
        // A unit of 16 rows by 128 columns: the quants, and the scales of 256 columns.
        let unit_bytes = 16 * 64 + 16 * 16;
        let units = n_items * shape.n_cols / 128 + plan.n_blocks[0] as usize;
        assert_eq!(found as usize, 8 * units * unit_bytes / 32, "sectors of w");
    }
}

/// What the plan is for: the shapes of Llama-3-8B on 132 multiprocessors.
#[test]
fn plans() {
    let plan = |n_tokens, n_rows, n_cols| Plan::new(shape(n_tokens, n_rows, n_cols), 132).to_string();
    insta::assert_snapshot!(plan(8192, 6144, 4096), @"8192 x 6144 x 4096: 132 blocks, tiles of 256 x 128");
    insta::assert_snapshot!(plan(512, 6144, 4096), @"512 x 6144 x 4096: 128 blocks, tiles of 128 x 192");
    insta::assert_snapshot!(plan(512, 28672, 4096), @"512 x 28672 x 4096: 132 blocks, tiles of 256 x 128, from row 25344 on 104 blocks, tiles of 256 x 128 among 2");
    insta::assert_snapshot!(plan(512, 4096, 4096), @"512 x 4096 x 4096: 128 blocks, tiles of 256 x 128 among 2");
    insta::assert_snapshot!(plan(512, 4096, 14336), @"512 x 4096 x 14336: 128 blocks, tiles of 256 x 128 among 2");
    insta::assert_snapshot!(plan(17, 4096, 14336), @"17 x 4096 x 14336: 128 blocks, tiles of 64 x 128, 4 parts of 3584 columns");
    insta::assert_snapshot!(plan(64, 6144, 4096), @"64 x 6144 x 4096: 96 blocks, tiles of 64 x 128, 2 parts of 2048 columns");
    let narrow = Plan::within(shape(17, 4096, 14336), 132, 2 * 64 * 4096).to_string();
    insta::assert_snapshot!(narrow, @"17 x 4096 x 14336: 64 blocks, tiles of 64 x 128, 2 parts of 7168 columns");
    insta::assert_snapshot!(plan(128, 28672, 4096), @"128 x 28672 x 4096: 132 blocks, tiles of 128 x 128");
}

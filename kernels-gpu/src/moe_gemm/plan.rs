//! Which of the products to launch, and how.

use std::fmt;

use super::*;
use crate::gemm_quant::{CLUSTER, TILE_ROWS};
use crate::launch::{Device, DeviceSlice, Grid, Matrix};
use crate::moe::MAX_EXPERTS;
use crate::quant::fragments::QuantFragments;

/// A product y [n_assigned, n_rows] of x [n_assigned, n_cols] and w [n_experts, n_rows, n_cols].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows of x and y.
    pub n_assigned: usize,
    pub n_experts: usize,
    /// Rows of an expert's matrix, columns of y.
    pub n_rows: usize,
    /// Columns of x and w; a multiple of 32.
    pub n_cols: usize,
}

/// How a product is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub shape: Shape,
    /// Tokens of a tile: 64, 128 or 256.
    pub tile_tokens: u32,
    pub n_blocks: u32,
}

/// The sizes of tiles that there are.
pub const TILE_TOKENS: [u32; 3] = [256, 128, 64];

impl Plan {
    /// The plan for a GPU with this many multiprocessors.
    ///
    /// # Panics
    /// As [`Plan::with`].
    pub fn new(shape: Shape, n_multiprocessors: u32) -> Self {
        let plans = TILE_TOKENS.map(|tokens| Self::with(shape, tokens, n_multiprocessors));
        plans.into_iter().min_by_key(|plan| plan.cost(n_multiprocessors)).expect("three plans")
    }

    /// The plan with tiles of so many tokens.
    ///
    /// # Panics
    /// If a dimension is zero, or one that no kernel takes.
    pub fn with(shape: Shape, tile_tokens: u32, n_multiprocessors: u32) -> Self {
        let Shape { n_assigned, n_experts, n_rows, n_cols } = shape;
        assert!(n_assigned > 0 && n_experts > 0 && n_rows > 0 && n_cols > 0, "an empty product: {shape:?}");
        assert!(
            n_cols.is_multiple_of(32) && n_experts <= MAX_EXPERTS,
            "rows of w must be multiples of 32 elements, experts up to {MAX_EXPERTS}: {shape:?}"
        );
        assert!(TILE_TOKENS.contains(&tile_tokens), "tiles of {tile_tokens} tokens");
        let n_assigned = u32::try_from(n_assigned).expect("assignments are counted in 32 bits");
        let row_tiles = (n_rows as u32).div_ceil(CLUSTER * TILE_ROWS);
        // More tiles there cannot be: each but an expert's last one is full.
        let most_tiles = n_assigned / tile_tokens + n_assigned.min(n_experts as u32);
        let n_blocks = CLUSTER * n_clusters(n_multiprocessors).min(most_tiles * row_tiles);
        Plan { shape, tile_tokens, n_blocks }
    }

    /// What the plan costs, if tokens spread evenly: then half of the last tiles' tokens are there. To weigh plans against each
    /// other, the numbers need not be exact.
    fn cost(&self, n_multiprocessors: u32) -> u64 {
        let Shape { n_assigned, n_experts, n_rows, n_cols } = self.shape;
        let (unit, results) = match self.tile_tokens {
            256 => (2048, 2500),
            128 => (1500, 1300),
            _ => (1250, 700),
        };
        let tiles = (n_assigned / self.tile_tokens as usize + n_experts / 2).max(n_assigned.min(n_experts));
        let items = tiles * n_rows.div_ceil((CLUSTER * TILE_ROWS) as usize);
        let rounds = items.div_ceil(n_clusters(n_multiprocessors) as usize) as u64;
        rounds * (n_cols.div_ceil(UNIT_COLS as usize) as u64 * unit + results)
    }

    /// Launches the product of w in fragments of format `Q` and x with its scales, both in grouped order.
    ///
    /// # Errors
    /// Those of the device.
    ///
    /// # Panics
    /// If a span is too small.
    pub fn launch<Q: MoeGemm, D: Device>(
        &self,
        device: &D,
        y: &mut DeviceSlice<f32>,
        w: &DeviceSlice<u8>,
        (x, x_scales): (&DeviceSlice<f16>, &DeviceSlice<f32>),
        offsets: &DeviceSlice<u32>,
    ) -> Result<(), D::Error> {
        let Shape { n_assigned, n_experts, n_rows, n_cols } = self.shape;
        let needed =
            [n_assigned * n_rows, n_experts * Q::matrix_bytes(n_rows, n_cols), n_assigned, n_experts + 1];
        let found = [y.len(), w.len(), x_scales.len(), offsets.len()];
        assert!(
            found.iter().zip(needed).all(|(&found, needed)| found >= needed),
            "{self}: y, w, scales and offsets are {found:?} long, not {needed:?}"
        );
        Q::launch(self, device, y, w, (Matrix::new(x, n_assigned, n_cols), x_scales), offsets)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape { n_assigned, n_experts, n_rows, n_cols } = self.shape;
        write!(
            f,
            "{n_assigned} rows of {n_experts} x {n_rows} x {n_cols}: {} blocks, tiles of {} x {TILE_ROWS}",
            self.n_blocks, self.tile_tokens
        )
    }
}

/// Clusters that run at once.
fn n_clusters(n_multiprocessors: u32) -> u32 {
    (n_multiprocessors / CLUSTER).max(1)
}

/// A format that experts can have.
pub trait MoeGemm: QuantFragments {
    /// Launches the product.
    ///
    /// # Errors
    /// Those of the device.
    fn launch<D: Device>(
        plan: &Plan,
        device: &D,
        y: &mut DeviceSlice<f32>,
        w: &DeviceSlice<u8>,
        x: (Matrix<'_, f16>, &DeviceSlice<f32>),
        offsets: &DeviceSlice<u32>,
    ) -> Result<(), D::Error>;
}

macro_rules! formats {
    ($($format:ty: $n256:ident, $n128:ident, $n64:ident;)*) => {$(
        impl MoeGemm for $format {
            fn launch<D: Device>(
                plan: &Plan,
                device: &D,
                y: &mut DeviceSlice<f32>,
                w: &DeviceSlice<u8>,
                (x, x_scales): (Matrix<'_, f16>, &DeviceSlice<f32>),
                offsets: &DeviceSlice<u32>,
            ) -> Result<(), D::Error> {
                let Shape { n_assigned, n_experts, n_rows, n_cols } = plan.shape;
                let (n_assigned, n_experts) = (n_assigned as u32, n_experts as u32);
                let (n_rows, n_cols, grid) = (n_rows as u32, n_cols as u32, Grid::x(plan.n_blocks));
                macro_rules! launch {
                    ($kernel:ident) => {
                        device.launch(
                            $kernel { y, w, x, x_scales, offsets, n_assigned, n_experts, n_rows, n_cols },
                            grid,
                        )
                    };
                }
                match plan.tile_tokens {
                    256 => launch!($n256),
                    128 => launch!($n128),
                    _ => launch!($n64),
                }
            }
        }
    )*};
}

formats! {
    Q8_0: moe_gemm_q8_0_t256, moe_gemm_q8_0_t128, moe_gemm_q8_0_t64;
    Q4_K: moe_gemm_q4_k_t256, moe_gemm_q4_k_t128, moe_gemm_q4_k_t64;
    Q5_K: moe_gemm_q5_k_t256, moe_gemm_q5_k_t128, moe_gemm_q5_k_t64;
    Q6_K: moe_gemm_q6_k_t256, moe_gemm_q6_k_t128, moe_gemm_q6_k_t64;
    MXFP4: moe_gemm_mxfp4_t256, moe_gemm_mxfp4_t128, moe_gemm_mxfp4_t64;
}

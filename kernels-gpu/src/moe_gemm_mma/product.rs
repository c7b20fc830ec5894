//! Which of the products to launch, and how.

use std::fmt;

use super::*;
use crate::gemm_quant_mma::tile_rows;
use crate::launch::{Device, DeviceSlice, Grid};
use crate::quant::fragments::QuantFragments;

/// Tokens that a tile can have.
pub const TILE_TOKENS: [usize; 2] = [64, 128];

/// A product y [n_assigned, n_rows] of x [n_assigned, n_cols] and w [n_experts, n_rows, n_cols].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// Rows of x and y.
    pub n_assigned: usize,
    pub n_experts: usize,
    /// Rows of an expert's matrix, columns of y.
    pub n_rows: usize,
    /// Columns of x and w; a multiple of 32.
    pub n_cols: usize,
    /// Tokens of a tile: one of [`TILE_TOKENS`].
    pub tile_tokens: usize,
}

impl Product {
    /// The product with the tiles that suit so many rows.
    pub fn new(n_assigned: usize, n_experts: usize, n_rows: usize, n_cols: usize) -> Self {
        let tile_tokens = if n_assigned <= 128 * n_experts { 64 } else { 128 };
        Self { n_assigned, n_experts, n_rows, n_cols, tile_tokens }
    }

    /// Launches the product of w in fragments of format `Q` and x with its scales, both in grouped order.
    ///
    /// # Errors
    /// Those of the device.
    ///
    /// # Panics
    /// If a span is too small, or the columns are no multiple of 32, or x has 2^32 elements or more.
    pub fn launch<Q: MoeGemmMma, D: Device>(
        &self,
        device: &D,
        y: &mut DeviceSlice<f32>,
        w: &DeviceSlice<u8>,
        (x, x_scales): (&DeviceSlice<f16>, &DeviceSlice<f32>),
        offsets: &DeviceSlice<u32>,
    ) -> Result<(), D::Error> {
        let Self { n_assigned, n_experts, n_rows, n_cols, .. } = *self;
        let w_bytes = n_experts * Q::matrix_bytes(n_rows, n_cols);
        let needed = [n_assigned * n_rows, w_bytes, n_assigned * n_cols, n_assigned, n_experts + 1];
        let found = [y.len(), w.len(), x.len(), x_scales.len(), offsets.len()];
        assert!(
            found.iter().zip(needed).all(|(&found, needed)| found >= needed),
            "{self}: y, w, x, scales and offsets are {found:?} long, not {needed:?}"
        );
        assert!(
            n_cols.is_multiple_of(32) && u32::try_from(n_assigned * n_cols).is_ok(),
            "{self}: columns must be a multiple of 32, elements of x below 2^32"
        );
        Q::launch(self, device, y, w, (x, x_scales), offsets)
    }

    /// Blocks along tokens and rows. More tiles of tokens there cannot be: each but an expert's last one is full.
    fn grid(&self) -> Grid {
        let tiles = self.n_assigned / self.tile_tokens + self.n_assigned.min(self.n_experts);
        let row_tiles = self.n_rows.div_ceil(tile_rows(self.tile_tokens));
        let blocks = |n: usize| u32::try_from(n).expect("a grid that fits");
        Grid::xy(blocks(tiles), blocks(row_tiles))
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { n_assigned, n_experts, n_rows, n_cols, tile_tokens } = self;
        write!(
            f,
            "{n_assigned} rows of {n_experts} x {n_rows} x {n_cols}, tiles of {tile_tokens} x {}",
            tile_rows(*tile_tokens)
        )
    }
}

/// A format that experts can have.
pub trait MoeGemmMma: QuantFragments {
    /// Launches the product; the spans are long enough.
    ///
    /// # Errors
    /// Those of the device.
    fn launch<D: Device>(
        product: &Product,
        device: &D,
        y: &mut DeviceSlice<f32>,
        w: &DeviceSlice<u8>,
        x: (&DeviceSlice<f16>, &DeviceSlice<f32>),
        offsets: &DeviceSlice<u32>,
    ) -> Result<(), D::Error>;
}

macro_rules! formats {
    ($($format:ty: $t128:ident, $t64:ident;)*) => {$(
        impl MoeGemmMma for $format {
            fn launch<D: Device>(
                product: &Product,
                device: &D,
                y: &mut DeviceSlice<f32>,
                w: &DeviceSlice<u8>,
                (x, x_scales): (&DeviceSlice<f16>, &DeviceSlice<f32>),
                offsets: &DeviceSlice<u32>,
            ) -> Result<(), D::Error> {
                let Product { n_assigned, n_experts, n_rows, n_cols, tile_tokens } = *product;
                let [n_assigned, n_experts, n_rows, n_cols] =
                    [n_assigned, n_experts, n_rows, n_cols].map(|n| n as u32);
                macro_rules! launch {
                    ($kernel:ident) => {
                        device.launch(
                            $kernel { y, w, x, x_scales, offsets, n_assigned, n_experts, n_rows, n_cols },
                            product.grid(),
                        )
                    };
                }
                match tile_tokens {
                    128 => launch!($t128),
                    64 => launch!($t64),
                    _ => panic!("no product with tiles of {tile_tokens} tokens"),
                }
            }
        }
    )*};
}

formats! {
    Q8_0: moe_gemm_mma_q8_0_t128, moe_gemm_mma_q8_0_t64;
    Q4_K: moe_gemm_mma_q4_k_t128, moe_gemm_mma_q4_k_t64;
    Q5_K: moe_gemm_mma_q5_k_t128, moe_gemm_mma_q5_k_t64;
    Q6_K: moe_gemm_mma_q6_k_t128, moe_gemm_mma_q6_k_t64;
    MXFP4: moe_gemm_mma_mxfp4_t128, moe_gemm_mma_mxfp4_t64;
}

//! Which of the products to launch, and how.

use std::fmt;

use super::*;
use crate::launch::{Device, DeviceSlice, Grid};
use crate::quant::fragments::Fragments;

/// Tokens that a tile can have.
pub const TILE_TOKENS: [usize; 2] = [64, 128];

/// A product y [n_tokens, n_rows] = x [n_tokens, n_cols] · w [n_rows, n_cols]ᵀ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// Rows of x and y.
    pub n_tokens: usize,
    /// Rows of w, columns of y.
    pub n_rows: usize,
    /// Columns of x and w; a multiple of 32.
    pub n_cols: usize,
    /// Tokens of a tile: one of [`TILE_TOKENS`].
    pub tile_tokens: usize,
}

impl Product {
    /// The product with the tiles that suit so many tokens.
    pub fn new(n_tokens: usize, n_rows: usize, n_cols: usize) -> Self {
        Self { n_tokens, n_rows, n_cols, tile_tokens: if n_tokens <= 64 { 64 } else { 128 } }
    }

    /// Whether there are kernels for rows of this length.
    pub const fn takes(n_cols: usize) -> bool {
        n_cols.is_multiple_of(32)
    }

    /// Launches the product of w in fragments of format `Q` and x with its scales.
    ///
    /// # Errors
    /// Those of the device.
    ///
    /// # Panics
    /// If a span is too small, or the columns are no multiple of 32, or x has 2^32 elements or more.
    pub fn launch<Q: GemmQuantMma, D: Device>(
        &self,
        device: &D,
        y: &mut DeviceSlice<f32>,
        w: &DeviceSlice<u8>,
        (x, x_scales): (&DeviceSlice<f16>, &DeviceSlice<f32>),
    ) -> Result<(), D::Error> {
        let Self { n_tokens, n_rows, n_cols, .. } = *self;
        let needed = [n_tokens * n_rows, Q::matrix_bytes(n_rows, n_cols), n_tokens * n_cols, n_tokens];
        let found = [y.len(), w.len(), x.len(), x_scales.len()];
        assert!(
            found.iter().zip(needed).all(|(&found, needed)| found >= needed),
            "{self}: y, w, x and scales are {found:?} long, not {needed:?}"
        );
        assert!(
            Self::takes(n_cols) && u32::try_from(n_tokens * n_cols).is_ok(),
            "{self}: columns must be a multiple of 32, elements of x below 2^32"
        );
        Q::launch(self, device, y, w, (x, x_scales))
    }

    /// Blocks along tokens and rows.
    fn grid(&self) -> Grid {
        let rows = tile_rows(self.tile_tokens);
        let blocks = |n: usize, tile: usize| u32::try_from(n.div_ceil(tile)).expect("a grid that fits");
        Grid::xy(blocks(self.n_tokens, self.tile_tokens), blocks(self.n_rows, rows))
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { n_tokens, n_rows, n_cols, tile_tokens } = self;
        write!(f, "{n_tokens} x {n_rows} x {n_cols}, tiles of {tile_tokens} x {}", tile_rows(*tile_tokens))
    }
}

/// A format that weights can have.
pub trait GemmQuantMma: Fragments {
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
    ) -> Result<(), D::Error>;
}

macro_rules! formats {
    ($($format:ty: $t128:ident, $t64:ident;)*) => {$(
        impl GemmQuantMma for $format {
            fn launch<D: Device>(
                product: &Product,
                device: &D,
                y: &mut DeviceSlice<f32>,
                w: &DeviceSlice<u8>,
                (x, x_scales): (&DeviceSlice<f16>, &DeviceSlice<f32>),
            ) -> Result<(), D::Error> {
                let Product { n_tokens, n_rows, n_cols, tile_tokens } = *product;
                let [n_tokens, n_rows, n_cols] = [n_tokens, n_rows, n_cols].map(|n| n as u32);
                match tile_tokens {
                    128 => device.launch($t128 { y, w, x, x_scales, n_tokens, n_rows, n_cols }, product.grid()),
                    64 => device.launch($t64 { y, w, x, x_scales, n_tokens, n_rows, n_cols }, product.grid()),
                    _ => panic!("no product with tiles of {tile_tokens} tokens"),
                }
            }
        }
    )*};
}

formats! {
    F16: gemm_quant_mma_f16_t128, gemm_quant_mma_f16_t64;
    BF16: gemm_quant_mma_bf16_t128, gemm_quant_mma_bf16_t64;
    Q2_K: gemm_quant_mma_q2_k_t128, gemm_quant_mma_q2_k_t64;
    Q3_K: gemm_quant_mma_q3_k_t128, gemm_quant_mma_q3_k_t64;
    Q4_0: gemm_quant_mma_q4_0_t128, gemm_quant_mma_q4_0_t64;
    Q4_1: gemm_quant_mma_q4_1_t128, gemm_quant_mma_q4_1_t64;
    Q5_0: gemm_quant_mma_q5_0_t128, gemm_quant_mma_q5_0_t64;
    Q5_1: gemm_quant_mma_q5_1_t128, gemm_quant_mma_q5_1_t64;
    Q8_0: gemm_quant_mma_q8_0_t128, gemm_quant_mma_q8_0_t64;
    Q4_K: gemm_quant_mma_q4_k_t128, gemm_quant_mma_q4_k_t64;
    Q5_K: gemm_quant_mma_q5_k_t128, gemm_quant_mma_q5_k_t64;
    Q6_K: gemm_quant_mma_q6_k_t128, gemm_quant_mma_q6_k_t64;
    IQ4_NL: gemm_quant_mma_iq4_nl_t128, gemm_quant_mma_iq4_nl_t64;
    IQ4_XS: gemm_quant_mma_iq4_xs_t128, gemm_quant_mma_iq4_xs_t64;
    MXFP4: gemm_quant_mma_mxfp4_t128, gemm_quant_mma_mxfp4_t64;
}

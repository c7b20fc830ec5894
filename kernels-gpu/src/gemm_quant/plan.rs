//! Which of the products to launch, and how.

use std::fmt;

use super::*;
use crate::launch::{Device, DeviceSlice, Grid, Matrix, MatrixMut};

/// A product y [n_tokens, n_rows] = x [n_tokens, n_cols] · w [n_rows, n_cols]ᵀ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows of x and y.
    pub n_tokens: usize,
    /// Rows of w, columns of y; a multiple of 4.
    pub n_rows: usize,
    /// Columns of x and w; a multiple of 32.
    pub n_cols: usize,
}

/// How a product is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What is multiplied.
    pub shape: Shape,
    /// Tokens of a tile: 64, 128 or 256.
    pub tile_tokens: u32,
    /// Rows of a tile: [`TILE_ROWS`], or of 128 tokens also [`WIDE_ROWS`].
    pub tile_rows: u32,
    /// Whether the two blocks of a cluster divide the columns of one tile, of 256 tokens; else they have a tile each.
    pub is_split: bool,
    /// Into how many parts the columns are divided. The sums of several parts go to the workspace first.
    pub n_parts: u32,
    /// Units of 128 columns in a part, all but the last.
    pub part_units: u32,
    /// Blocks of the product.
    pub n_blocks: u32,
}

/// The sizes of tiles that there are.
pub const TILE_TOKENS: [u32; 3] = [256, 128, 64];
/// Rows of the higher tiles.
pub const WIDE_ROWS: u32 = 3 * CONSUMER_ROWS;
/// More parts than this are never worth their sums.
const PARTS_MAX: u32 = 16;

impl Plan {
    /// The plan for a GPU with this many multiprocessors.
    ///
    /// # Panics
    /// If a dimension is zero, or rows of x, w or y have a length that no kernel takes.
    pub fn new(shape: Shape, n_multiprocessors: u32) -> Self {
        Self::within(shape, n_multiprocessors, usize::MAX)
    }

    /// The same with a workspace of at most `workspace_len` elements. One block's results for each multiprocessor, so
    /// [`Plan::ROUND_LEN`] of them, are enough for the best plan of nearly any shape.
    ///
    /// # Panics
    /// As [`Plan::new`].
    pub fn within(shape: Shape, n_multiprocessors: u32, workspace_len: usize) -> Self {
        let whole = TILE_TOKENS.into_iter().flat_map(|tokens| {
            (1..=PARTS_MAX).map(move |n_parts| Self::with(shape, tokens, n_parts, n_multiprocessors))
        });
        let split = (shape.n_cols > UNIT_COLS as usize).then(|| Self::split(shape));
        whole
            .chain([Self::wide(shape, n_multiprocessors)])
            .chain(split)
            .filter(|plan| plan.workspace_len() <= workspace_len)
            .min_by_key(|plan| plan.cost(n_multiprocessors))
            .expect("undivided products need no workspace")
    }

    /// Most results of a block, one tile.
    pub const ROUND_LEN: usize = TILE_TOKENS[0] as usize * TILE_ROWS as usize;

    /// Whether there are kernels for rows of this length.
    pub const fn takes(n_rows: usize, n_cols: usize) -> bool {
        n_rows.is_multiple_of(4) && n_cols.is_multiple_of(32)
    }

    /// The plan with tiles of so many tokens and at most so many parts.
    ///
    /// # Panics
    /// As [`Plan::new`].
    pub fn with(shape: Shape, tile_tokens: u32, n_parts: u32, n_multiprocessors: u32) -> Self {
        let Shape { n_tokens, n_rows, n_cols } = shape;
        assert!(n_tokens > 0 && n_rows > 0 && n_cols > 0, "an empty product: {shape:?}");
        assert!(
            Self::takes(n_rows, n_cols),
            "rows of y must be multiples of 16 bytes, and rows of w of 32 elements: {shape:?}"
        );
        assert!(TILE_TOKENS.contains(&tile_tokens), "no product with tiles of {tile_tokens} tokens");
        let n_units = (n_cols as u32).div_ceil(UNIT_COLS);
        let part_units = n_units.div_ceil(n_parts);
        let n_parts = n_units.div_ceil(part_units);
        let (tile_rows, is_split) = (TILE_ROWS, false);
        let plan = Self { shape, tile_tokens, tile_rows, is_split, n_parts, part_units, n_blocks: 0 };
        Self { n_blocks: CLUSTER * plan.n_items().min(n_clusters(n_multiprocessors)), ..plan }
    }

    /// The plan with tiles of [`WIDE_ROWS`] rows by 128 tokens.
    ///
    /// # Panics
    /// As [`Plan::new`].
    pub fn wide(shape: Shape, n_multiprocessors: u32) -> Self {
        let plan = Self { tile_rows: WIDE_ROWS, ..Self::with(shape, 128, 1, n_multiprocessors) };
        Self { n_blocks: CLUSTER * plan.n_items().min(n_clusters(n_multiprocessors)), ..plan }
    }

    /// The plan that divides the columns of a tile between the blocks of a cluster.
    ///
    /// # Panics
    /// As [`Plan::new`], and if there are no more than 128 columns.
    pub fn split(shape: Shape) -> Self {
        assert!(shape.n_cols > UNIT_COLS as usize, "columns for one block: {shape:?}");
        let plan = Self { is_split: true, ..Self::with(shape, split::TILE_TOKENS, 1, 1) };
        Self { n_blocks: CLUSTER * plan.n_items(), ..plan }
    }

    /// What clusters work on: pairs of tiles times parts, or tiles.
    fn n_items(&self) -> u32 {
        let rows = if self.is_split { self.tile_rows } else { CLUSTER * self.tile_rows };
        let row_tiles = (self.shape.n_rows as u32).div_ceil(rows);
        self.padded_tokens() / self.tile_tokens * row_tiles * self.n_parts
    }

    /// Tokens of whole tiles.
    fn padded_tokens(&self) -> u32 {
        (self.shape.n_tokens as u32).next_multiple_of(self.tile_tokens)
    }

    /// What the plan costs, in cycles of a multiprocessor: rounds of blocks, and the traffic of several parts. A unit takes the
    /// tensor cores 8 cycles a token; with few tokens its decoding takes longer. (To weigh plans against each other, this
    /// need not be exact. The numbers choose the fastest plans that an H100 was measured with.)
    fn cost(&self, n_multiprocessors: u32) -> u64 {
        const START: u64 = 1500;
        const SUM_START: u64 = 4000;
        const CACHE_BYTES: u64 = 3500;
        let (unit, results) = match (self.tile_tokens, self.tile_rows) {
            _ if self.is_split => (1024, 5000),
            (256, _) => (2048, 2500),
            (_, WIDE_ROWS) => (1530, 1300),
            (128, _) => (1500, 1300),
            _ => (1250, 700),
        };
        let rounds = u64::from(self.n_items().div_ceil(n_clusters(n_multiprocessors)));
        let product = rounds * (u64::from(self.part_units) * unit + results) + START;
        let sum = match self.n_parts {
            1 => 0,
            n => {
                2 * (4 * n as usize * self.shape.n_tokens * self.shape.n_rows) as u64 / CACHE_BYTES
                    + SUM_START
            }
        };
        product + sum
    }

    /// Elements of the workspace.
    pub fn workspace_len(&self) -> usize {
        match self.n_parts {
            1 => 0,
            n => (n * self.padded_tokens()) as usize * self.shape.n_rows,
        }
    }

    /// Launches the product of w in fragments of format `Q` and x with its scales; `workspace` has at least
    /// [`Plan::workspace_len`] elements.
    ///
    /// # Errors
    /// Those of the device.
    ///
    /// # Panics
    /// If a span is too small.
    pub fn launch<Q: GemmQuant, D: Device>(
        &self,
        device: &D,
        y: &mut DeviceSlice<f32>,
        w: &DeviceSlice<u8>,
        (x, x_scales): (&DeviceSlice<f16>, &DeviceSlice<f32>),
        workspace: &mut DeviceSlice<f32>,
    ) -> Result<(), D::Error> {
        let Shape { n_tokens, n_rows, n_cols } = self.shape;
        let needed = (n_tokens * n_rows, Q::matrix_bytes(n_rows, n_cols), n_tokens, self.workspace_len());
        let found = (y.len(), w.len(), x_scales.len(), workspace.len());
        assert!(
            found.0 >= needed.0 && found.1 >= needed.1 && found.2 >= needed.2 && found.3 >= needed.3,
            "{self}: y, w, scales and workspace are {found:?} long, not {needed:?}"
        );
        let x = Matrix::new(x, n_tokens, n_cols);
        if self.n_parts == 1 {
            let y = MatrixMut::new(y, n_tokens, n_rows);
            return Q::launch(self, device, y, w, x, x_scales);
        }
        let stride = self.padded_tokens() as usize * n_rows;
        let parts = MatrixMut::new(workspace, self.n_parts as usize * self.padded_tokens() as usize, n_rows);
        Q::launch(self, device, parts, w, x, x_scales)?;
        let n = n_tokens * n_rows;
        let sum = gemm_quant_sum_f32 {
            y,
            parts: &*workspace,
            n: n as u32,
            stride: stride as u32,
            n_parts: self.n_parts,
        };
        device.launch(sum, Grid::cover(n, (SUM_THREADS * SUM_VECTOR) as usize))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape { n_tokens, n_rows, n_cols } = self.shape;
        write!(
            f,
            "{n_tokens} x {n_rows} x {n_cols}: {} blocks, tiles of {} x {}",
            self.n_blocks, self.tile_tokens, self.tile_rows
        )?;
        if self.is_split {
            write!(f, ", each split among {CLUSTER}")?;
        }
        match self.n_parts {
            1 => Ok(()),
            n => write!(f, ", {n} parts of {} columns", self.part_units * UNIT_COLS),
        }
    }
}

/// Clusters that run at once.
fn n_clusters(n_multiprocessors: u32) -> u32 {
    (n_multiprocessors / CLUSTER).max(1)
}

/// A format that weights can have.
pub trait GemmQuant: QuantFragments {
    /// Launches the product alone; y has the plan's parts.
    ///
    /// # Errors
    /// Those of the device.
    fn launch<D: Device>(
        plan: &Plan,
        device: &D,
        y: MatrixMut<'_, f32>,
        w: &DeviceSlice<u8>,
        x: Matrix<'_, f16>,
        x_scales: &DeviceSlice<f32>,
    ) -> Result<(), D::Error>;
}

macro_rules! formats {
    ($($format:ty: $n256:ident, $n128:ident, $n64:ident, $r192:ident, $split:ident;)*) => {$(
        impl GemmQuant for $format {
            fn launch<D: Device>(
                plan: &Plan,
                device: &D,
                y: MatrixMut<'_, f32>,
                w: &DeviceSlice<u8>,
                x: Matrix<'_, f16>,
                x_scales: &DeviceSlice<f32>,
            ) -> Result<(), D::Error> {
                let Shape { n_tokens, n_rows, n_cols } = plan.shape;
                let (n_tokens, n_rows, n_cols) = (n_tokens as u32, n_rows as u32, n_cols as u32);
                let (part_units, grid) = (plan.part_units, Grid::x(plan.n_blocks));
                match (plan.tile_tokens, plan.tile_rows) {
                    _ if plan.is_split => {
                        device.launch($split { y, w, x, x_scales, n_tokens, n_rows, n_cols }, grid)
                    }
                    (_, WIDE_ROWS) => {
                        device.launch($r192 { y, w, x, x_scales, n_tokens, n_rows, n_cols, part_units }, grid)
                    }
                    (256, _) => {
                        device.launch($n256 { y, w, x, x_scales, n_tokens, n_rows, n_cols, part_units }, grid)
                    }
                    (128, _) => {
                        device.launch($n128 { y, w, x, x_scales, n_tokens, n_rows, n_cols, part_units }, grid)
                    }
                    _ => device.launch($n64 { y, w, x, x_scales, n_tokens, n_rows, n_cols, part_units }, grid),
                }
            }
        }
    )*};
}

formats! {
    Q4_0: gemm_quant_q4_0_t256, gemm_quant_q4_0_t128, gemm_quant_q4_0_t64, gemm_quant_q4_0_r192, gemm_quant_q4_0_split;
    Q4_1: gemm_quant_q4_1_t256, gemm_quant_q4_1_t128, gemm_quant_q4_1_t64, gemm_quant_q4_1_r192, gemm_quant_q4_1_split;
    Q5_0: gemm_quant_q5_0_t256, gemm_quant_q5_0_t128, gemm_quant_q5_0_t64, gemm_quant_q5_0_r192, gemm_quant_q5_0_split;
    Q5_1: gemm_quant_q5_1_t256, gemm_quant_q5_1_t128, gemm_quant_q5_1_t64, gemm_quant_q5_1_r192, gemm_quant_q5_1_split;
    Q8_0: gemm_quant_q8_0_t256, gemm_quant_q8_0_t128, gemm_quant_q8_0_t64, gemm_quant_q8_0_r192, gemm_quant_q8_0_split;
    Q4_K: gemm_quant_q4_k_t256, gemm_quant_q4_k_t128, gemm_quant_q4_k_t64, gemm_quant_q4_k_r192, gemm_quant_q4_k_split;
    Q5_K: gemm_quant_q5_k_t256, gemm_quant_q5_k_t128, gemm_quant_q5_k_t64, gemm_quant_q5_k_r192, gemm_quant_q5_k_split;
    Q6_K: gemm_quant_q6_k_t256, gemm_quant_q6_k_t128, gemm_quant_q6_k_t64, gemm_quant_q6_k_r192, gemm_quant_q6_k_split;
    IQ4_NL: gemm_quant_iq4_nl_t256, gemm_quant_iq4_nl_t128, gemm_quant_iq4_nl_t64, gemm_quant_iq4_nl_r192, gemm_quant_iq4_nl_split;
    IQ4_XS: gemm_quant_iq4_xs_t256, gemm_quant_iq4_xs_t128, gemm_quant_iq4_xs_t64, gemm_quant_iq4_xs_r192, gemm_quant_iq4_xs_split;
    MXFP4: gemm_quant_mxfp4_t256, gemm_quant_mxfp4_t128, gemm_quant_mxfp4_t64, gemm_quant_mxfp4_r192, gemm_quant_mxfp4_split;
}

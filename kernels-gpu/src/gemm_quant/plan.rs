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
    /// Rows of w whose tiles each have one block. After them come tiles of 256 tokens by [`TILE_ROWS`] rows, whose columns the
    /// two blocks of a cluster divide.
    pub whole_rows: usize,
    /// Into how many parts the columns are divided. The sums of several parts go to the workspace first.
    pub n_parts: u32,
    /// Units of 128 columns in a part, all but the last.
    pub part_units: u32,
    /// Blocks of the product with whole tiles, and of the other one.
    pub n_blocks: [u32; 2],
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
        let split = [Self::split(shape), Self::rounds(shape, n_multiprocessors)];
        whole
            .chain([Self::wide(shape, n_multiprocessors)])
            .chain(split.into_iter().flatten())
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
        let (tile_rows, whole_rows) = (TILE_ROWS, n_rows);
        let plan = Self { shape, tile_tokens, tile_rows, whole_rows, n_parts, part_units, n_blocks: [0; 2] };
        plan.with_blocks(n_multiprocessors)
    }

    /// The plan with tiles of [`WIDE_ROWS`] rows by 128 tokens.
    ///
    /// # Panics
    /// As [`Plan::new`].
    pub fn wide(shape: Shape, n_multiprocessors: u32) -> Self {
        let plan = Self { tile_rows: WIDE_ROWS, ..Self::with(shape, 128, 1, n_multiprocessors) };
        plan.with_blocks(n_multiprocessors)
    }

    /// The plan that divides the columns of all tiles; none if there are too few.
    ///
    /// # Panics
    /// As [`Plan::new`].
    pub fn split(shape: Shape) -> Option<Self> {
        let plan = Self { whole_rows: 0, ..Self::with(shape, split::TILE_TOKENS, 1, 1) };
        (shape.n_cols > UNIT_COLS as usize).then(|| plan.with_blocks(1))
    }

    /// The plan with as many whole tiles as give every multiprocessor the same number, and divided columns of those that
    /// remain; none if there are too few tiles or columns, or if none remain.
    ///
    /// # Panics
    /// As [`Plan::new`].
    pub fn rounds(shape: Shape, n_multiprocessors: u32) -> Option<Self> {
        let whole = Self::with(shape, split::TILE_TOKENS, 1, n_multiprocessors);
        let token_tiles = whole.padded_tokens() / whole.tile_tokens;
        let n_rounds = whole.n_items() / n_clusters(n_multiprocessors);
        let row_tiles = CLUSTER * (n_rounds * n_clusters(n_multiprocessors) / token_tiles);
        let whole_rows = (row_tiles * TILE_ROWS) as usize;
        let remain = (1..shape.n_rows).contains(&whole_rows) && shape.n_cols > UNIT_COLS as usize;
        remain.then(|| Self { whole_rows, ..whole }.with_blocks(n_multiprocessors))
    }

    fn with_blocks(self, n_multiprocessors: u32) -> Self {
        let whole = self.n_items().min(n_clusters(n_multiprocessors));
        Self { n_blocks: [CLUSTER * whole, CLUSTER * self.n_split()], ..self }
    }

    /// Pairs of whole tiles times parts.
    fn n_items(&self) -> u32 {
        let row_tiles = (self.whole_rows as u32).div_ceil(CLUSTER * self.tile_rows);
        self.padded_tokens() / self.tile_tokens * row_tiles * self.n_parts
    }

    /// Tiles whose columns are divided.
    fn n_split(&self) -> u32 {
        let row_tiles = (self.shape.n_rows - self.whole_rows).div_ceil(TILE_ROWS as usize);
        self.padded_tokens() / self.tile_tokens * row_tiles as u32
    }

    /// Tokens of whole tiles.
    fn padded_tokens(&self) -> u32 {
        (self.shape.n_tokens as u32).next_multiple_of(self.tile_tokens)
    }

    /// What the plan costs, in cycles of a multiprocessor: rounds of blocks, and the traffic of several parts. Beside half a cycle
    /// a token, each of a consumer's eight products of a unit takes the tensor cores some 50 cycles. (To weigh plans against
    /// each other, this need not be exact. The numbers are fitted to times of an H100, with the shapes of an 8B model.)
    fn cost(&self, n_multiprocessors: u32) -> u64 {
        const START: u64 = 3500;
        const SPLIT_RESULTS: u64 = 8000;
        const UNIT_256: u64 = 2840;
        const SUM_START: u64 = 7000;
        const CACHE_BYTES: u64 = 2900;
        let (unit, results) = match (self.tile_tokens, self.tile_rows) {
            (256, _) => (UNIT_256, 2500),
            (_, WIDE_ROWS) => (2650, 1300),
            (128, _) => (1944, 1300),
            _ => (1472, 700),
        };
        let rounds = |items: u32| u64::from(items.div_ceil(n_clusters(n_multiprocessors)));
        let mut cost = 0;
        if self.whole_rows > 0 {
            cost += rounds(self.n_items()) * (u64::from(self.part_units) * unit + results) + START;
        }
        if self.n_split() > 0 {
            let n_units = u64::from(self.part_units.div_ceil(CLUSTER));
            cost += rounds(self.n_split()) * (n_units * UNIT_256 + SPLIT_RESULTS) + START;
        }
        cost + match self.n_parts {
            1 => 0,
            n => {
                2 * (4 * n as usize * self.shape.n_tokens * self.shape.n_rows) as u64 / CACHE_BYTES
                    + SUM_START
            }
        }
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
        let x = (Matrix::new(x, n_tokens, n_cols), x_scales);
        if self.n_parts == 1 {
            let whole_rows = self.whole_rows;
            if whole_rows > 0 {
                let y = MatrixMut::strided(y, n_tokens, whole_rows, n_rows);
                Q::launch(self, device, y, w, x)?;
            }
            if whole_rows < n_rows {
                let y = y.slice_mut(whole_rows..y.len());
                let y = MatrixMut::strided(y, n_tokens, n_rows - whole_rows, n_rows);
                let w = w.slice(Q::matrix_bytes(whole_rows, n_cols)..w.len());
                Q::launch_split(self, device, y, w, x)?;
            }
            return Ok(());
        }
        let stride = self.padded_tokens() as usize * n_rows;
        let parts = MatrixMut::new(workspace, self.n_parts as usize * self.padded_tokens() as usize, n_rows);
        Q::launch(self, device, parts, w, x)?;
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
        let [n_whole, n_split] = self.n_blocks;
        write!(f, "{n_tokens} x {n_rows} x {n_cols}: ")?;
        if n_whole > 0 {
            write!(f, "{n_whole} blocks, tiles of {} x {}", self.tile_tokens, self.tile_rows)?;
        }
        if n_split > 0 {
            let and = if n_whole > 0 { format!(", from row {} on ", self.whole_rows) } else { String::new() };
            write!(
                f,
                "{and}{n_split} blocks, tiles of {} x {TILE_ROWS} among {CLUSTER}",
                split::TILE_TOKENS
            )?;
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
    /// Launches the product with whole tiles alone; y has the plan's whole rows, or its parts.
    ///
    /// # Errors
    /// Those of the device.
    fn launch<D: Device>(
        plan: &Plan,
        device: &D,
        y: MatrixMut<'_, f32>,
        w: &DeviceSlice<u8>,
        x: (Matrix<'_, f16>, &DeviceSlice<f32>),
    ) -> Result<(), D::Error>;

    /// Launches the product with the columns of tiles divided; y and w have the rows after the plan's whole ones.
    ///
    /// # Errors
    /// Those of the device.
    fn launch_split<D: Device>(
        plan: &Plan,
        device: &D,
        y: MatrixMut<'_, f32>,
        w: &DeviceSlice<u8>,
        x: (Matrix<'_, f16>, &DeviceSlice<f32>),
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
                (x, x_scales): (Matrix<'_, f16>, &DeviceSlice<f32>),
            ) -> Result<(), D::Error> {
                let (n_tokens, n_cols) = (plan.shape.n_tokens as u32, plan.shape.n_cols as u32);
                let (n_rows, part_units, grid) =
                    (plan.whole_rows as u32, plan.part_units, Grid::x(plan.n_blocks[0]));
                macro_rules! launch {
                    ($kernel:ident) => {
                        device.launch($kernel { y, w, x, x_scales, n_tokens, n_rows, n_cols, part_units }, grid)
                    };
                }
                match (plan.tile_tokens, plan.tile_rows) {
                    (256, _) => launch!($n256),
                    (_, WIDE_ROWS) => launch!($r192),
                    (128, _) => launch!($n128),
                    _ => launch!($n64),
                }
            }

            fn launch_split<D: Device>(
                plan: &Plan,
                device: &D,
                y: MatrixMut<'_, f32>,
                w: &DeviceSlice<u8>,
                (x, x_scales): (Matrix<'_, f16>, &DeviceSlice<f32>),
            ) -> Result<(), D::Error> {
                let (n_tokens, n_cols) = (plan.shape.n_tokens as u32, plan.shape.n_cols as u32);
                let n_rows = (plan.shape.n_rows - plan.whole_rows) as u32;
                let product = $split { y, w, x, x_scales, n_tokens, n_rows, n_cols };
                device.launch(product, Grid::x(plan.n_blocks[1]))
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

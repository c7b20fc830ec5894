//! Which of the products to launch, and how.

use super::few::{gemm_few_bf16, gemm_few_f16};
use super::multicast::*;
use super::split::*;
use super::turns::{gemm_turns_bf16, gemm_turns_f16};
use super::*;
use crate::launch::{Device, DeviceSlice, Grid, Matrix, MatrixMut};

/// A product y [n_tokens, n_rows] = x [n_tokens, n_cols] · w [n_rows, n_cols]ᵀ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows of x and y.
    pub n_tokens: usize,
    /// Rows of w, columns of y; a multiple of 8.
    pub n_rows: usize,
    /// Columns of x and w; a multiple of 8.
    pub n_cols: usize,
}

/// How a product is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whole tiles of [`TILE_TOKENS`] by this many rows (64, 128, 192, 224 or 256).
    Tiles {
        /// Rows of a tile.
        rows: u32,
    },
    /// The same, a cluster for each 2 tiles along the tokens (of 128, 192, 224 or 256 rows).
    Multicast {
        /// Rows of a tile.
        rows: u32,
    },
    /// Columns divided among the blocks of a cluster: tiles of 64 or 128 tokens by 128 rows.
    Split {
        /// Tokens of a tile.
        tokens: u32,
        /// Blocks of a cluster (2 or 4).
        blocks: u32,
    },
    /// The same with tiles of 16 tokens by 128 rows, clusters of 2.
    Few,
    /// Tiles of 64 by 64, whose stages the consumers of a block take in turns; clusters of 2 tiles along the tokens.
    Turns,
}

/// A product's kind and blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What is multiplied.
    pub shape: Shape,
    /// How.
    pub kind: Kind,
    /// Blocks of the product.
    pub n_blocks: u32,
}

impl Shape {
    /// Tiles of so many tokens and rows.
    fn n_tiles(self, tokens: u32, rows: u32) -> u32 {
        (self.n_tokens.div_ceil(tokens as usize) * self.n_rows.div_ceil(rows as usize)) as u32
    }

    fn n_stages(self) -> u32 {
        self.n_cols.div_ceil(STAGE_COLS as usize) as u32
    }
}

impl Plan {
    /// The plan for a GPU with this many multiprocessors.
    ///
    /// # Panics
    /// If a dimension is zero, or rows of w, x or y are no multiple of 16 bytes.
    pub fn new(shape: Shape, n_multiprocessors: u32) -> Self {
        let Shape { n_tokens, n_rows, n_cols } = shape;
        assert!(n_tokens > 0 && n_rows > 0 && n_cols > 0, "an empty product: {shape:?}");
        assert!(
            n_rows.is_multiple_of(8) && n_cols.is_multiple_of(8),
            "rows of y and w must be multiples of 16 bytes: {shape:?}"
        );
        let n = n_multiprocessors;
        let mut plans: Vec<Plan> = [256, 224, 192, 128, 64].map(|rows| Self::tiles(shape, rows, n)).into();
        plans.extend([256, 224, 192, 128].map(|rows| Self::multicast(shape, rows, n)));
        // More than one tile along the tokens would read w again.
        for (tokens, blocks) in [(64, 2), (64, 4), (128, 2), (128, 4)] {
            if n_tokens <= tokens as usize && shape.n_stages() >= blocks {
                plans.push(Self::split(shape, tokens, blocks));
            }
        }
        if n_tokens <= few::TILE_TOKENS as usize && shape.n_stages() >= few::BLOCKS as u32 {
            plans.push(Self::few(shape));
        }
        plans.push(Self::turns(shape, n));
        plans.into_iter().min_by_key(|plan| plan.cost_ns(n)).expect("ten candidates at least")
    }

    /// The plan with whole tiles of `rows` rows.
    pub fn tiles(shape: Shape, rows: u32, n_multiprocessors: u32) -> Self {
        let n_blocks = shape.n_tiles(TILE_TOKENS, rows).min(n_multiprocessors);
        Self { shape, kind: Kind::Tiles { rows }, n_blocks }
    }

    /// The plan with whole tiles of `rows` rows in clusters.
    pub fn multicast(shape: Shape, rows: u32, n_multiprocessors: u32) -> Self {
        let n_blocks = 2 * shape.n_tiles(2 * TILE_TOKENS, rows).min(n_clusters(2, n_multiprocessors));
        Self { shape, kind: Kind::Multicast { rows }, n_blocks }
    }

    /// The plan that divides the columns of a tile of `tokens` by 128 rows among `blocks` blocks.
    ///
    /// # Panics
    /// If there are less than 64 columns for one of the blocks.
    pub fn split(shape: Shape, tokens: u32, blocks: u32) -> Self {
        assert!(shape.n_stages() >= blocks, "{} columns for {blocks} blocks", shape.n_cols);
        let n_blocks = blocks * shape.n_tiles(tokens, split::TILE_ROWS);
        Self { shape, kind: Kind::Split { tokens, blocks }, n_blocks }
    }

    /// The plan that divides the columns of a tile of 16 tokens by 128 rows among two blocks.
    ///
    /// # Panics
    /// If there are less than 64 columns for one of the blocks.
    pub fn few(shape: Shape) -> Self {
        let blocks = few::BLOCKS as u32;
        assert!(shape.n_stages() >= blocks, "{} columns for {blocks} blocks", shape.n_cols);
        let n_blocks = blocks * shape.n_tiles(few::TILE_TOKENS, few::TILE_ROWS);
        Self { shape, kind: Kind::Few, n_blocks }
    }

    /// The plan with tiles of 64 by 64.
    pub fn turns(shape: Shape, n_multiprocessors: u32) -> Self {
        let n_blocks = 2 * shape.n_tiles(2 * turns::TILE, turns::TILE).min(n_clusters(2, n_multiprocessors));
        Self { shape, kind: Kind::Turns, n_blocks }
    }

    /// What the plan costs: the slower of reading from memory and of the work of one multiprocessor, a tenth of the faster,
    /// since they do not overlap in full, and what it takes to begin and end. Times of an H100, fitted to those of the
    /// shapes of an 8B model from 16 to 8,192 tokens, of which each gets a plan that takes at most 3 % longer than the best.
    fn cost_ns(&self, n_multiprocessors: u32) -> u64 {
        const LAUNCH_NS: u64 = 2000;
        const EXCHANGE_NS: u64 = 700;
        const ROUND_NS: u64 = 1500;
        let Shape { n_tokens, n_rows, n_cols } = self.shape;
        let n_stages = u64::from(self.shape.n_stages());
        // Tiles, blocks of a cluster, blocks that divide a tile's columns, time of a stage.
        let (n_tiles, cluster, parts, stage_ns) = match self.kind {
            Kind::Tiles { rows } => {
                let stage_ns = match rows {
                    256 => 735,
                    224 => 668,
                    192 => 570,
                    128 => 395,
                    _ => 235,
                };
                (self.shape.n_tiles(TILE_TOKENS, rows), 1, 1, stage_ns)
            }
            Kind::Multicast { rows } => {
                let stage_ns = match rows {
                    256 => 725,
                    224 => 662,
                    192 => 548,
                    _ => 385,
                };
                (self.shape.n_tiles(2 * TILE_TOKENS, rows), 2, 1, stage_ns)
            }
            Kind::Split { tokens, blocks } => {
                let stage_ns = if tokens == 64 { 180 } else { 450 };
                (self.shape.n_tiles(tokens, split::TILE_ROWS), blocks, blocks, stage_ns)
            }
            Kind::Few => {
                let blocks = few::BLOCKS as u32;
                (self.shape.n_tiles(few::TILE_TOKENS, few::TILE_ROWS), blocks, blocks, 200)
            }
            Kind::Turns => (self.shape.n_tiles(2 * turns::TILE, turns::TILE), 2, 1, 205),
        };
        let rounds = u64::from(n_tiles.div_ceil(n_clusters(cluster, n_multiprocessors)));
        let work = rounds * n_stages.div_ceil(u64::from(parts)) * stage_ns;
        let exchange = if parts > 1 { EXCHANGE_NS + (rounds - 1) * ROUND_NS } else { 0 };
        // With few tokens the next kernel's weights are already being read.
        let memory_bytes_per_ns = if self.kind == Kind::Few { 3300 } else { 2900 };
        let memory = gemm_bytes(n_tokens, n_rows, n_cols) / memory_bytes_per_ns;
        LAUNCH_NS + exchange + work.max(memory) + work.min(memory) / 10
    }
}

/// Clusters that run at once, one block a multiprocessor. Multiprocessors are in groups of up to 18, which need not hold whole
/// clusters of 4: 32 of those took two rounds on the 132 of an H100, so 4 are counted for every 18.
fn n_clusters(blocks: u32, n_multiprocessors: u32) -> u32 {
    let n = if blocks < 4 { n_multiprocessors / blocks } else { n_multiprocessors * 4 / 18 };
    n.max(1)
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Shape { n_tokens, n_rows, n_cols } = self.shape;
        write!(f, "{n_tokens} x {n_rows} x {n_cols}: {} blocks, ", self.n_blocks)?;
        match self.kind {
            Kind::Tiles { rows } => write!(f, "tiles of {TILE_TOKENS} x {rows}"),
            Kind::Multicast { rows } => write!(f, "tiles of {TILE_TOKENS} x {rows}, 2 a cluster"),
            Kind::Split { tokens, blocks } => {
                write!(f, "tiles of {tokens} x {}, each split among {blocks}", split::TILE_ROWS)
            }
            Kind::Few => write!(
                f,
                "tiles of {} x {}, each split among {}",
                few::TILE_TOKENS,
                few::TILE_ROWS,
                few::BLOCKS
            ),
            Kind::Turns => write!(f, "tiles of {0} x {0} in turns, 2 a cluster", turns::TILE),
        }
    }
}

macro_rules! launch {
    (
        $name:ident, $ty:ty,
        tiles { $($tile_rows:literal: $tiles:ident,)* }
        multicast { $($multicast:literal: $multicasts:ident,)* }
        split { $($split:tt: $splits:ident,)* }
        $few:ident, $turns:ident
    ) => {
        impl Plan {
            /// Launches the product.
            ///
            /// # Errors
            /// Those of the device.
            ///
            /// # Panics
            /// If a span is too small.
            pub fn $name<D: Device>(
                &self,
                device: &D,
                y: &mut DeviceSlice<$ty>,
                w: &DeviceSlice<$ty>,
                x: &DeviceSlice<$ty>,
            ) -> Result<(), D::Error> {
                let Shape { n_tokens, n_rows, n_cols } = self.shape;
                let (w, x) = (Matrix::new(w, n_rows, n_cols), Matrix::new(x, n_tokens, n_cols));
                let (len, grid) = (n_tokens * n_rows, Grid::x(self.n_blocks));
                assert!(y.len() >= len, "y has {} elements, not {len}", y.len());
                let [n_tokens, n_rows, n_cols] = [n_tokens, n_rows, n_cols].map(|n| n as u32);
                match self.kind {
                    Kind::Tiles { rows } => {
                        let y = MatrixMut::new(y, n_tokens as usize, n_rows as usize);
                        match rows {
                            $($tile_rows => device.launch($tiles { y, w, x, n_tokens, n_rows, n_cols }, grid),)*
                            _ => panic!("no product with tiles of {rows} rows"),
                        }
                    }
                    Kind::Multicast { rows } => {
                        let y = MatrixMut::new(y, n_tokens as usize, n_rows as usize);
                        match rows {
                            $($multicast => device.launch($multicasts { y, w, x, n_tokens, n_rows, n_cols }, grid),)*
                            _ => panic!("no product with clusters of tiles of {rows} rows"),
                        }
                    }
                    Kind::Split { tokens, blocks } => match (blocks, tokens) {
                        $($split => device.launch($splits { y, w, x, n_tokens, n_rows, n_cols }, grid),)*
                        _ => panic!("no product with tiles of {tokens} tokens split among {blocks}"),
                    },
                    Kind::Few => device.launch($few { y, w, x, n_tokens, n_rows, n_cols }, grid),
                    Kind::Turns => device.launch($turns { y, w, x, n_tokens, n_rows, n_cols }, grid),
                }
            }
        }
    };
}

launch! {
    launch_bf16, bf16,
    tiles {
        256: gemm_wgmma_bf16_n256,
        224: gemm_wgmma_bf16_n224,
        192: gemm_wgmma_bf16_n192,
        128: gemm_wgmma_bf16_n128,
        64: gemm_wgmma_bf16_n64,
    }
    multicast {
        256: gemm_multicast_bf16_n256,
        224: gemm_multicast_bf16_n224,
        192: gemm_multicast_bf16_n192,
        128: gemm_multicast_bf16_n128,
    }
    split {
        (2, 64): gemm_split2_bf16_t64,
        (4, 64): gemm_split4_bf16_t64,
        (2, 128): gemm_split2_bf16_t128,
        (4, 128): gemm_split4_bf16_t128,
    }
    gemm_few_bf16, gemm_turns_bf16
}
launch! {
    launch_f16, f16,
    tiles {
        256: gemm_wgmma_f16_n256,
        224: gemm_wgmma_f16_n224,
        192: gemm_wgmma_f16_n192,
        128: gemm_wgmma_f16_n128,
        64: gemm_wgmma_f16_n64,
    }
    multicast {
        256: gemm_multicast_f16_n256,
        224: gemm_multicast_f16_n224,
        192: gemm_multicast_f16_n192,
        128: gemm_multicast_f16_n128,
    }
    split {
        (2, 64): gemm_split2_f16_t64,
        (4, 64): gemm_split4_f16_t64,
        (2, 128): gemm_split2_f16_t128,
        (4, 128): gemm_split4_f16_t128,
    }
    gemm_few_f16, gemm_turns_f16
}

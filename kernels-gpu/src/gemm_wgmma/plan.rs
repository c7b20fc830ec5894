//! Which of the products to launch, and how.

use super::few::{gemm_few_bf16, gemm_few_f16};
use super::multicast::*;
use super::pair::*;
use super::split::{gemm_split_bf16, gemm_split_f16};
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
    /// Columns divided between the two blocks of a cluster: tiles of 16 or 64 tokens by 128 rows, or of 128 by 64 or 96.
    Pair {
        /// Tokens of a tile.
        tokens: u32,
        /// Rows of a tile.
        rows: u32,
    },
    /// Columns divided among the four blocks of a cluster: tiles of 64 tokens by 128 rows.
    Split,
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
        // More than one tile along the tokens reads w again; two of 128 tokens do it from the second-level cache.
        for (tokens, rows, tokens_max) in [(16, 128, 16), (64, 128, 64), (128, 64, 256), (128, 96, 256)] {
            if n_tokens <= tokens_max && shape.n_stages() >= pair::BLOCKS {
                plans.push(Self::pair(shape, tokens, rows));
            }
        }
        if n_tokens <= split::TILE_TOKENS as usize && shape.n_stages() >= split::BLOCKS as u32 {
            plans.push(Self::split(shape));
        }
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

    /// The plan that divides the columns of a tile of `tokens` by `rows` between two blocks.
    ///
    /// # Panics
    /// If there are less than 64 columns for one of the blocks.
    pub fn pair(shape: Shape, tokens: u32, rows: u32) -> Self {
        assert!(shape.n_stages() >= pair::BLOCKS, "{} columns for {} blocks", shape.n_cols, pair::BLOCKS);
        let n_blocks = pair::BLOCKS * shape.n_tiles(tokens, rows);
        Self { shape, kind: Kind::Pair { tokens, rows }, n_blocks }
    }

    /// The plan that divides the columns of a tile of 64 tokens by 128 rows among four blocks.
    ///
    /// # Panics
    /// If there are less than 64 columns for one of the blocks.
    pub fn split(shape: Shape) -> Self {
        let blocks = split::BLOCKS as u32;
        assert!(shape.n_stages() >= blocks, "{} columns for {blocks} blocks", shape.n_cols);
        let n_blocks = blocks * shape.n_tiles(split::TILE_TOKENS, split::TILE_ROWS);
        Self { shape, kind: Kind::Split, n_blocks }
    }

    /// What the plan costs: the slower of reading from memory and of the work of one multiprocessor, a tenth of the faster,
    /// since they do not overlap in full, and what it takes to begin and end. Times of an H100, fitted to those of the
    /// shapes of an 8B model from 16 to 8,192 tokens, of which each gets a plan that takes at most 3 % longer than the best.
    fn cost_ns(&self, n_multiprocessors: u32) -> u64 {
        const LAUNCH_NS: u64 = 2000;
        const EXCHANGE_NS: u64 = 700;
        const ROUND_NS: u64 = 1500;
        let Shape { n_tokens, n_rows, n_cols } = self.shape;
        let n_stages = self.shape.n_stages();
        // Tiles, blocks of a cluster, stages of the block that has the most of them, time of a stage.
        let (n_tiles, cluster, n_stages, stage_ns) = match self.kind {
            Kind::Tiles { rows } => {
                let stage_ns = match rows {
                    256 => 735,
                    224 => 668,
                    192 => 570,
                    128 => 395,
                    _ => 235,
                };
                (self.shape.n_tiles(TILE_TOKENS, rows), 1, n_stages, stage_ns)
            }
            Kind::Multicast { rows } => {
                let stage_ns = match rows {
                    256 => 725,
                    224 => 662,
                    192 => 548,
                    _ => 385,
                };
                (self.shape.n_tiles(2 * TILE_TOKENS, rows), 2, n_stages, stage_ns)
            }
            Kind::Pair { tokens, rows } => {
                let stage_ns = match (tokens, rows) {
                    (16, _) => 160,
                    (64, _) => 180,
                    (_, 64) => 300,
                    _ => 375,
                };
                let n_second = n_stages - first_stages(n_stages, lead(tokens));
                (self.shape.n_tiles(tokens, rows), pair::BLOCKS, n_second, stage_ns)
            }
            Kind::Split => {
                let blocks = split::BLOCKS as u32;
                let n_tiles = self.shape.n_tiles(split::TILE_TOKENS, split::TILE_ROWS);
                (n_tiles, blocks, n_stages.div_ceil(blocks), 180)
            }
        };
        let rounds = u64::from(n_tiles.div_ceil(n_clusters(cluster, n_multiprocessors)));
        let work = rounds * u64::from(n_stages) * stage_ns;
        // What the end of a tile takes, and what memory gives: of pairs, half of the blocks end while the other half reads.
        let (ends, bytes_per_ns) = match self.kind {
            Kind::Pair { .. } => ((rounds - 1) * ROUND_NS, 3100),
            Kind::Split => (EXCHANGE_NS + (rounds - 1) * ROUND_NS, 2900),
            _ => (0, 2900),
        };
        let memory = gemm_bytes(n_tokens, n_rows, n_cols) / bytes_per_ns;
        LAUNCH_NS + ends + work.max(memory) + work.min(memory) / 10
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
            Kind::Pair { tokens, rows } => {
                write!(f, "tiles of {tokens} x {rows}, each divided between {}", pair::BLOCKS)
            }
            Kind::Split => {
                let (tokens, rows) = (split::TILE_TOKENS, split::TILE_ROWS);
                write!(f, "tiles of {tokens} x {rows}, each divided among {}", split::BLOCKS)
            }
        }
    }
}

macro_rules! launch {
    (
        $name:ident, $ty:ty,
        tiles { $($tile_rows:literal: $tiles:ident,)* }
        multicast { $($multicast:literal: $multicasts:ident,)* }
        pair { $($pair:tt: $pairs:ident,)* }
        $split:ident
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
                    Kind::Pair { tokens, rows } => match (tokens, rows) {
                        $($pair => device.launch($pairs { y, w, x, n_tokens, n_rows, n_cols }, grid),)*
                        _ => panic!("no product with tiles of {tokens} by {rows} divided between two"),
                    },
                    Kind::Split => device.launch($split { y, w, x, n_tokens, n_rows, n_cols }, grid),
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
    pair {
        (16, 128): gemm_few_bf16,
        (64, 128): gemm_pair_bf16_t64_n128,
        (128, 64): gemm_pair_bf16_t128_n64,
        (128, 96): gemm_pair_bf16_t128_n96,
    }
    gemm_split_bf16
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
    pair {
        (16, 128): gemm_few_f16,
        (64, 128): gemm_pair_f16_t64_n128,
        (128, 64): gemm_pair_f16_t128_n64,
        (128, 96): gemm_pair_f16_t128_n96,
    }
    gemm_split_f16
}

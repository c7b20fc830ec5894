//! Which of the products to launch, and how.

use super::multicast::*;
use super::split::*;
use super::stream::{
    PIECES_THREADS, PIECES_VECTOR, gemm_pieces_bf16, gemm_pieces_f16, gemm_stream_bf16_t64,
    gemm_stream_bf16_t128, gemm_stream_f16_t64, gemm_stream_f16_t128,
};
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
    /// The same, a cluster for each 2 tiles (of 128, 192, 224 or 256 rows) or 4 (128 or 192) along the tokens.
    Multicast {
        /// Rows of a tile.
        rows: u32,
        /// Blocks of a cluster.
        blocks: u32,
    },
    /// A tile's columns divided among the blocks of a cluster: 64 tokens by 128 or 192 rows, or 128 by 128.
    Split {
        /// Tokens of a tile.
        tokens: u32,
        /// Rows of a tile.
        rows: u32,
        /// Blocks of a cluster (2 or 4).
        blocks: u32,
    },
    /// Stages divided among the blocks, tiles of this many tokens (64 or 128), and the adding of pieces.
    Stream {
        /// Tokens of a tile.
        tokens: u32,
        /// Stages of a tile.
        stages_per_tile: u32,
        /// Stages of a block.
        stages_per_block: u32,
        /// Pieces of a tile at most.
        n_slots: u32,
    },
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

/// Up to so many tokens a product is bound by reading w, and worth dividing evenly among all blocks.
const STREAM_TOKENS_MAX: usize = 128;

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
        let clusters = [(256, 2), (224, 2), (192, 2), (128, 2), (192, 4), (128, 4)];
        plans.extend(clusters.map(|(rows, blocks)| Self::multicast(shape, rows, blocks, n)));
        for (tokens, rows) in [(64, 128), (64, 192), (128, 128)] {
            let possible = [2, 4].into_iter().filter(|&blocks| shape.n_stages() >= blocks);
            plans.extend(possible.map(|blocks| Self::split(shape, tokens, rows, blocks)));
        }
        if n_tokens <= STREAM_TOKENS_MAX && n_rows <= (STREAM_ROWS * n) as usize {
            plans.push(Self::stream(shape, n));
        }
        plans.into_iter().min_by_key(|plan| plan.cost_ns(n)).expect("ten candidates at least")
    }

    /// The plan with whole tiles of `rows` rows.
    pub fn tiles(shape: Shape, rows: u32, n_multiprocessors: u32) -> Self {
        let n_blocks = shape.n_tiles(TILE_TOKENS, rows).min(n_multiprocessors);
        Self { shape, kind: Kind::Tiles { rows }, n_blocks }
    }

    /// The plan with whole tiles of `rows` rows in clusters of `blocks`.
    pub fn multicast(shape: Shape, rows: u32, blocks: u32, n_multiprocessors: u32) -> Self {
        let n_clusters = shape.n_tiles(blocks * TILE_TOKENS, rows).min(n_clusters(blocks, n_multiprocessors));
        Self { shape, kind: Kind::Multicast { rows, blocks }, n_blocks: blocks * n_clusters }
    }

    /// The plan that divides the columns of a tile of `tokens` by `rows` among `blocks` blocks.
    ///
    /// # Panics
    /// If there are less than 64 columns for one of the blocks.
    pub fn split(shape: Shape, tokens: u32, rows: u32, blocks: u32) -> Self {
        assert!(shape.n_stages() >= blocks, "{} columns for {blocks} blocks", shape.n_cols);
        let n_blocks = blocks * shape.n_tiles(tokens, rows);
        Self { shape, kind: Kind::Split { tokens, rows, blocks }, n_blocks }
    }

    /// The plan that divides the stages.
    pub fn stream(shape: Shape, n_multiprocessors: u32) -> Self {
        let tokens: u32 = if shape.n_tokens <= 64 { 64 } else { 128 };
        let n_tiles = shape.n_tokens.div_ceil(tokens as usize) * shape.n_rows.div_ceil(STREAM_ROWS as usize);
        let per_tile = shape.n_cols.div_ceil(STAGE_COLS as usize);
        // Few tiles: each in so many parts that all blocks run at once, else an equal stretch for each block.
        let parts = (1..=n_multiprocessors as usize / n_tiles).map(|n| {
            let stages = per_tile.div_ceil(n);
            (per_tile.next_multiple_of(stages), stages)
        });
        let equal = (per_tile, (n_tiles * per_tile).div_ceil(n_multiprocessors as usize));
        let cost = |(tile, block): &(usize, usize)| stream_cost_ns(shape, n_tiles * per_tile, *tile, *block);
        let (tile, block) = parts.chain([equal]).min_by_key(cost).expect("one at least");
        Self {
            shape,
            kind: Kind::Stream {
                tokens,
                stages_per_tile: tile as u32,
                stages_per_block: block as u32,
                n_slots: n_slots(tile, block) as u32,
            },
            n_blocks: (n_tiles * tile).div_ceil(block) as u32,
        }
    }

    /// What the plan costs: the slower of reading from memory and of the work of one multiprocessor, a tenth of the faster,
    /// since they do not overlap in full, and what it takes to begin and end. Times of an H100, measured where all
    /// multiprocessors work.
    fn cost_ns(&self, n_multiprocessors: u32) -> u64 {
        const MEMORY_BYTES_PER_NS: u64 = 3000;
        const LAUNCH_NS: u64 = 3000;
        const EXCHANGE_NS: u64 = 500;
        const ROUND_NS: u64 = 1500;
        let Shape { n_tokens, n_rows, n_cols } = self.shape;
        let n_stages = u64::from(self.shape.n_stages());
        let rounds = |n: u32, at_once: u32| u64::from(n.div_ceil(at_once));
        let (work, extra) = match self.kind {
            Kind::Tiles { rows } => {
                let stage = match rows {
                    256 => 670,
                    224 => 620,
                    192 => 520,
                    128 => 370,
                    _ => 250,
                };
                (rounds(self.shape.n_tiles(TILE_TOKENS, rows), n_multiprocessors) * n_stages * stage, 0)
            }
            Kind::Multicast { rows, blocks } => {
                let stage = match (rows, blocks) {
                    (256, _) => 660,
                    (224, _) => 610,
                    (192, 2) => 505,
                    (192, _) => 500,
                    (_, 2) => 355,
                    _ => 350,
                };
                let at_once = n_clusters(blocks, n_multiprocessors);
                (rounds(self.shape.n_tiles(blocks * TILE_TOKENS, rows), at_once) * n_stages * stage, 0)
            }
            Kind::Split { tokens, rows, blocks } => {
                let stage = match (tokens, rows) {
                    (64, 128) => 250,
                    (64, _) => 350,
                    _ => 370,
                };
                let rounds = rounds(self.shape.n_tiles(tokens, rows), n_clusters(blocks, n_multiprocessors));
                let work = rounds * n_stages.div_ceil(u64::from(blocks)) * stage;
                (work, EXCHANGE_NS + (rounds - 1) * ROUND_NS)
            }
            Kind::Stream { stages_per_tile, stages_per_block, .. } => {
                let n_stages = self.n_blocks * stages_per_block;
                let (tile, block) = (stages_per_tile as usize, stages_per_block as usize);
                (stream_cost_ns(self.shape, n_stages as usize, tile, block), ROUND_NS)
            }
        };
        let memory = gemm_bytes(n_tokens, n_rows, n_cols) / MEMORY_BYTES_PER_NS;
        LAUNCH_NS + extra + work.max(memory) + work.min(memory) / 10
    }

    /// Elements of the f32 workspace.
    pub fn workspace_len(&self) -> usize {
        match self.kind {
            Kind::Tiles { .. } | Kind::Multicast { .. } | Kind::Split { .. } => 0,
            Kind::Stream { n_slots, .. } => n_slots as usize * self.shape.n_tokens * self.shape.n_rows,
        }
    }
}

/// Clusters that run at once, one block a multiprocessor. Multiprocessors are in groups of up to 18, which need not hold whole
/// clusters of 4: 32 of those took two rounds on the 132 of an H100, so 4 are counted for every 18.
fn n_clusters(blocks: u32, n_multiprocessors: u32) -> u32 {
    let n = if blocks == 2 { n_multiprocessors / 2 } else { n_multiprocessors * 4 / 18 };
    n.max(1)
}

/// Rows of a tile of the divided product.
const STREAM_ROWS: u32 = 128;

/// Pieces of a tile at most: those of a stretch that divides the tile, else one more.
fn n_slots(stages_per_tile: usize, stages_per_block: usize) -> usize {
    let pieces = stages_per_tile.div_ceil(stages_per_block);
    if stages_per_tile.is_multiple_of(stages_per_block) { pieces } else { pieces + 1 }
}

/// What a division costs: the slower of memory and of one block's stages, and the traffic of the pieces. The rates are
/// an H100's: they weigh one division against another, and need not be exact.
fn stream_cost_ns(shape: Shape, n_stages: usize, stages_per_tile: usize, stages_per_block: usize) -> u64 {
    const MEMORY_BYTES_PER_NS: usize = 3000;
    const CACHE_BYTES_PER_NS: usize = 4000;
    const STAGE_NS: usize = 370;
    let w_bytes = n_stages * (STREAM_ROWS * STAGE_COLS) as usize * 2;
    let reading = (w_bytes / MEMORY_BYTES_PER_NS).max(stages_per_block * STAGE_NS);
    let piece_bytes = shape.n_tokens * shape.n_rows * size_of::<f32>();
    let n_pieces = n_slots(stages_per_tile, stages_per_block);
    (reading + 2 * n_pieces * piece_bytes / CACHE_BYTES_PER_NS) as u64
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Shape { n_tokens, n_rows, n_cols } = self.shape;
        write!(f, "{n_tokens} x {n_rows} x {n_cols}: {} blocks, ", self.n_blocks)?;
        match self.kind {
            Kind::Tiles { rows } => write!(f, "tiles of {TILE_TOKENS} x {rows}"),
            Kind::Multicast { rows, blocks } => {
                write!(f, "tiles of {TILE_TOKENS} x {rows}, {blocks} a cluster")
            }
            Kind::Split { tokens, rows, blocks } => {
                write!(f, "tiles of {tokens} x {rows}, each split among {blocks}")
            }
            Kind::Stream { tokens, stages_per_block, n_slots, .. } => write!(
                f,
                "tiles of {tokens} x {}, {stages_per_block} stages of {STAGE_COLS} columns a block, up to {n_slots} pieces",
                STREAM_ROWS
            ),
        }
    }
}

macro_rules! launch {
    (
        $name:ident, $ty:ty,
        tiles { $($tile_rows:literal: $tiles:ident,)* }
        multicast { $($multicast:tt: $multicasts:ident,)* }
        split { $($split:tt: $splits:ident,)* }
        $t64:ident, $t128:ident, $pieces:ident
    ) => {
        impl Plan {
            /// Launches the product; `workspace` has at least [`Plan::workspace_len`] elements.
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
                workspace: &mut DeviceSlice<f32>,
            ) -> Result<(), D::Error> {
                let Shape { n_tokens, n_rows, n_cols } = self.shape;
                let (wm, xm) = (Matrix::new(w, n_rows, n_cols), Matrix::new(x, n_tokens, n_cols));
                let (len, grid) = (n_tokens * n_rows, Grid::x(self.n_blocks));
                let (n_tokens, n_rows, n_cols) = (n_tokens as u32, n_rows as u32, n_cols as u32);
                assert!(y.len() >= len, "y has {} elements, not {len}", y.len());
                match self.kind {
                    Kind::Tiles { rows } => {
                        let y = MatrixMut::new(y, n_tokens as usize, n_rows as usize);
                        let (w, x) = (wm, xm);
                        match rows {
                            $($tile_rows => device.launch($tiles { y, w, x, n_tokens, n_rows, n_cols }, grid),)*
                            _ => panic!("no product with tiles of {rows} rows"),
                        }
                    }
                    Kind::Multicast { rows, blocks } => {
                        let y = MatrixMut::new(y, n_tokens as usize, n_rows as usize);
                        let (w, x) = (wm, xm);
                        match (blocks, rows) {
                            $($multicast => device.launch($multicasts { y, w, x, n_tokens, n_rows, n_cols }, grid),)*
                            _ => panic!("no product with tiles of {rows} rows, {blocks} a cluster"),
                        }
                    }
                    Kind::Split { tokens, rows, blocks } => {
                        let (w, x) = (wm, xm);
                        match (blocks, tokens, rows) {
                            $($split => device.launch($splits { y, w, x, n_tokens, n_rows, n_cols }, grid),)*
                            _ => panic!("no product with tiles of {tokens} x {rows} split among {blocks}"),
                        }
                    }
                    Kind::Stream { tokens, stages_per_tile, stages_per_block, .. } => {
                        let needed = self.workspace_len();
                        assert!(
                            workspace.len() >= needed,
                            "a workspace of {}, not {needed}",
                            workspace.len()
                        );
                        let (w, x, pieces) = (wm, xm, &mut *workspace);
                        if tokens == 64 {
                            let product = $t64 {
                                pieces,
                                w,
                                x,
                                n_tokens,
                                n_rows,
                                n_cols,
                                stages_per_tile,
                                stages_per_block,
                            };
                            device.launch(product, grid)?;
                        } else {
                            let product = $t128 {
                                pieces,
                                w,
                                x,
                                n_tokens,
                                n_rows,
                                n_cols,
                                stages_per_tile,
                                stages_per_block,
                            };
                            device.launch(product, grid)?;
                        }
                        let (tile_tokens, tile_rows, pieces) = (tokens, STREAM_ROWS, &*workspace);
                        let sum = $pieces {
                            y,
                            pieces,
                            n_tokens,
                            n_rows,
                            tile_tokens,
                            tile_rows,
                            stages_per_tile,
                            stages_per_block,
                        };
                        device.launch(sum, Grid::cover(len, (PIECES_THREADS * PIECES_VECTOR) as usize))
                    }
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
        (2, 256): gemm_multicast2_bf16_n256,
        (2, 224): gemm_multicast2_bf16_n224,
        (2, 192): gemm_multicast2_bf16_n192,
        (2, 128): gemm_multicast2_bf16_n128,
        (4, 192): gemm_multicast4_bf16_n192,
        (4, 128): gemm_multicast4_bf16_n128,
    }
    split {
        (2, 64, 128): gemm_split2_bf16_t64_n128,
        (2, 64, 192): gemm_split2_bf16_t64_n192,
        (2, 128, 128): gemm_split2_bf16_t128_n128,
        (4, 64, 128): gemm_split4_bf16_t64_n128,
        (4, 64, 192): gemm_split4_bf16_t64_n192,
        (4, 128, 128): gemm_split4_bf16_t128_n128,
    }
    gemm_stream_bf16_t64, gemm_stream_bf16_t128, gemm_pieces_bf16
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
        (2, 256): gemm_multicast2_f16_n256,
        (2, 224): gemm_multicast2_f16_n224,
        (2, 192): gemm_multicast2_f16_n192,
        (2, 128): gemm_multicast2_f16_n128,
        (4, 192): gemm_multicast4_f16_n192,
        (4, 128): gemm_multicast4_f16_n128,
    }
    split {
        (2, 64, 128): gemm_split2_f16_t64_n128,
        (2, 64, 192): gemm_split2_f16_t64_n192,
        (2, 128, 128): gemm_split2_f16_t128_n128,
        (4, 64, 128): gemm_split4_f16_t64_n128,
        (4, 64, 192): gemm_split4_f16_t64_n192,
        (4, 128, 128): gemm_split4_f16_t128_n128,
    }
    gemm_stream_f16_t64, gemm_stream_f16_t128, gemm_pieces_f16
}

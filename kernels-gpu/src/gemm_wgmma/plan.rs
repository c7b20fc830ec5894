//! Which of the products to launch, and how.

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

/// Up to so many tokens a product is bound by reading w, and worth dividing by columns.
const STREAM_TOKENS_MAX: usize = 128;

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
        if n_tokens <= STREAM_TOKENS_MAX && n_rows <= STREAM_ROWS as usize * n_multiprocessors as usize {
            Self::stream(shape, n_multiprocessors)
        } else {
            let by_cost =
                |rows: &u32| (Self::tiles(shape, *rows, n_multiprocessors).cost(n_multiprocessors), *rows);
            let rows = [256, 224, 192, 128].into_iter().min_by_key(by_cost).expect("four candidates");
            Self::tiles(shape, rows, n_multiprocessors)
        }
    }

    /// The plan with whole tiles of `rows` rows.
    pub fn tiles(shape: Shape, rows: u32, n_multiprocessors: u32) -> Self {
        let n_tiles = shape.n_tokens.div_ceil(TILE_TOKENS as usize) * shape.n_rows.div_ceil(rows as usize);
        Self { shape, kind: Kind::Tiles { rows }, n_blocks: (n_tiles as u32).min(n_multiprocessors) }
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

    /// What whole tiles cost, in rounds of blocks times the time of a tile: a wide tile takes less time an element, since
    /// it reads less of shared memory for each product (relative times measured on an H100).
    fn cost(&self, n_multiprocessors: u32) -> u64 {
        let Kind::Tiles { rows } = self.kind else { unreachable!("only whole tiles are compared") };
        let n_tiles =
            self.shape.n_tokens.div_ceil(TILE_TOKENS as usize) * self.shape.n_rows.div_ceil(rows as usize);
        let time = match rows {
            256 => 256 * 100,
            224 => 224 * 102,
            192 => 192 * 106,
            _ => 128 * 124,
        };
        n_tiles.div_ceil(n_multiprocessors as usize) as u64 * time
    }

    /// Elements of the f32 workspace.
    pub fn workspace_len(&self) -> usize {
        match self.kind {
            Kind::Tiles { .. } => 0,
            Kind::Stream { n_slots, .. } => n_slots as usize * self.shape.n_tokens * self.shape.n_rows,
        }
    }
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
            Kind::Stream { tokens, stages_per_block, n_slots, .. } => write!(
                f,
                "tiles of {tokens} x {}, {stages_per_block} stages of {STAGE_COLS} columns a block, up to {n_slots} pieces",
                STREAM_ROWS
            ),
        }
    }
}

macro_rules! launch {
    ($name:ident, $ty:ty, $n256:ident, $n224:ident, $n192:ident, $n128:ident, $n64:ident, $t64:ident, $t128:ident, $pieces:ident) => {
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
                            256 => device.launch($n256 { y, w, x, n_tokens, n_rows, n_cols }, grid),
                            224 => device.launch($n224 { y, w, x, n_tokens, n_rows, n_cols }, grid),
                            192 => device.launch($n192 { y, w, x, n_tokens, n_rows, n_cols }, grid),
                            128 => device.launch($n128 { y, w, x, n_tokens, n_rows, n_cols }, grid),
                            64 => device.launch($n64 { y, w, x, n_tokens, n_rows, n_cols }, grid),
                            _ => panic!("no product with tiles of {rows} rows"),
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

launch!(
    launch_bf16,
    bf16,
    gemm_wgmma_bf16_n256,
    gemm_wgmma_bf16_n224,
    gemm_wgmma_bf16_n192,
    gemm_wgmma_bf16_n128,
    gemm_wgmma_bf16_n64,
    gemm_stream_bf16_t64,
    gemm_stream_bf16_t128,
    gemm_pieces_bf16
);
launch!(
    launch_f16,
    f16,
    gemm_wgmma_f16_n256,
    gemm_wgmma_f16_n224,
    gemm_wgmma_f16_n192,
    gemm_wgmma_f16_n128,
    gemm_wgmma_f16_n64,
    gemm_stream_f16_t64,
    gemm_stream_f16_t128,
    gemm_pieces_f16
);

//! Rows of a weight matrix, decoded piece by piece. Eight lanes share a piece: four that have 16 bytes of every group of it,
//! twice, of which each decodes half, so that together they write whole cache lines.

use super::fragments::{FloatFragments, Fragments, QuantFragments, TILE_ROWS, four_values, global_tile};
use super::layout::GpuLayout;
use super::{
    BF16, F16, F32, IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0,
};
use crate::simt::prelude::*;

/// Lanes that share a piece.
pub const LANES: usize = 8;

/// Lanes that share the scales of a row's sub-blocks.
const SCALE_LANES: usize = 4;

/// Most columns of a piece; a format's group is one, if it is larger.
const MOST_COLS: usize = 128;

/// A format whose rows can be decoded by pieces.
pub trait Pieces: GpuLayout {
    /// Columns of a piece.
    const PIECE_COLS: usize;

    /// Hands the values of a piece to `take(col, values)`: lane l of its eight gets those of columns `col` to `col + 3` for each
    /// `col` = 32 i + 4 l of the piece, bit for bit those of [`QuantBlock::decode`](super::QuantBlock::decode). Past the last column
    /// there are numbers without meaning. A word of the whole warp; all loads come before the first `take`.
    fn piece(matrix: In<u8>, n_cols: usize, row: usize, piece: usize, take: impl Fn(usize, [f32; 4]));
}

/// Lane c of a row's four, and which half of its columns this lane of the piece decodes.
#[inline(always)]
fn lane_and_half() -> (usize, usize) {
    let lane = warp::lane_id() as usize % LANES;
    (lane % SCALE_LANES, lane / SCALE_LANES)
}

impl Pieces for F32 {
    const PIECE_COLS: usize = MOST_COLS;

    #[inline(always)]
    fn piece(matrix: In<u8>, n_cols: usize, row: usize, piece: usize, take: impl Fn(usize, [f32; 4])) {
        const LOADS: usize = MOST_COLS / (4 * LANES);
        let first = piece * MOST_COLS + warp::lane_id() as usize % LANES * 4;
        let mut values = [[0.0; 4]; LOADS];
        let mut i = 0;
        while i < LOADS {
            let col = first + 4 * LANES * i;
            if col < n_cols {
                values[i] = Self::values(matrix, n_cols, row, col);
            }
            i += 1;
        }
        let mut i = 0;
        while i < LOADS {
            take(first + 4 * LANES * i, values[i]);
            i += 1;
        }
    }
}

/// [`Pieces::piece`] of floats: several groups.
#[inline(always)]
fn float_piece<Q: FloatFragments>(
    matrix: In<u8>,
    n_cols: usize,
    row: usize,
    piece: usize,
    take: impl Fn(usize, [f32; 4]),
) {
    const GROUPS: usize = 4;
    const { assert!(GROUPS * Q::GROUP_COLS == MOST_COLS && Q::GROUP_STEPS == 2) };
    let (first, (c, half)) = (piece * MOST_COLS, lane_and_half());
    let mut quants = [None; GROUPS];
    let mut group = 0;
    while group < GROUPS {
        let col = first + group * Q::GROUP_COLS;
        if col < n_cols {
            let tile = global_tile::<Q>(matrix, n_cols, row / TILE_ROWS, col / Q::TILE_COLS);
            quants[group] = Some(Q::row_quants(tile, row % TILE_ROWS, c, col % Q::TILE_COLS / Q::GROUP_COLS));
        }
        group += 1;
    }
    let mut group = 0;
    while group < GROUPS {
        if let Some(quants) = &quants[group] {
            let (near, far) = (Q::words(quants, 0), Q::words(quants, 1));
            let words = if half == 0 { near } else { far };
            let ([a, b], [c_, d]) = (Q::floats(words[0]), Q::floats(words[2]));
            take(first + group * Q::GROUP_COLS + 16 * half + 4 * c, [a, b, c_, d]);
        }
        group += 1;
    }
}

/// [`Pieces::piece`] of quants: lane c decodes the scales of sub-blocks c, c + 4 …, which all lanes then use.
#[inline(always)]
fn quant_piece<Q: QuantFragments + Pieces>(
    matrix: In<u8>,
    n_cols: usize,
    row: usize,
    piece: usize,
    take: impl Fn(usize, [f32; 4]),
) {
    const SCALES_MAX: usize = 4;
    const GROUPS_MAX: usize = 2;
    let (n_groups, n_scales) = const {
        let n_scales = (Q::PIECE_COLS / Q::SUB).div_ceil(SCALE_LANES);
        assert!(Q::STEP_COLS == 32 && Q::TILE_COLS.is_multiple_of(Q::PIECE_COLS) && n_scales <= SCALES_MAX);
        (Q::PIECE_COLS / Q::GROUP_COLS, n_scales)
    };
    let ((c, half), first) = (lane_and_half(), piece * Q::PIECE_COLS);
    let tile = global_tile::<Q>(matrix, n_cols, row / TILE_ROWS, first / Q::TILE_COLS);
    let (row, in_tile) = (row % TILE_ROWS, first % Q::TILE_COLS);
    let of_rows = Q::scales(tile, row % 8, c);
    let mut quants = [Q::row_quants(tile, row, c, in_tile / Q::GROUP_COLS); GROUPS_MAX];
    let mut group = 1;
    while group < n_groups {
        quants[group] = Q::row_quants(tile, row, c, in_tile / Q::GROUP_COLS + group);
        group += 1;
    }
    let (mut scales, mut offsets) = ([0.0; SCALES_MAX], [0.0; SCALES_MAX]);
    let mut t = 0;
    while t < n_scales {
        let of_tile = in_tile / (SCALE_LANES * Q::SUB) + t;
        scales[t] = Q::scale(&of_rows, of_tile, row / 8);
        offsets[t] = Q::offset(&of_rows, of_tile, row / 8);
        t += 1;
    }

    let first_lane = warp::lane_id() / SCALE_LANES as u32 * SCALE_LANES as u32;
    let mut step = 0;
    while step < Q::PIECE_COLS / Q::STEP_COLS {
        // The sub-block of the lane's half of the step: of 32 elements, or of 16.
        let subs = Q::STEP_COLS / Q::SUB;
        let sub = step * subs + if subs == 2 { half } else { 0 };
        let lane = first_lane + (sub % SCALE_LANES) as u32;
        let t = step * subs / SCALE_LANES;
        let scale = warp::shuffle_idx(scales[t], lane);
        let offset = if Q::HAS_OFFSET { warp::shuffle_idx(offsets[t], lane) } else { 0.0 };
        let words = Q::words(&quants[step / Q::GROUP_STEPS], step % Q::GROUP_STEPS);
        let word = if half == 0 { words[0] } else { words[2] };
        take(first + Q::STEP_COLS * step + 16 * half + 4 * c, four_values::<Q>(word, scale, offset));
        step += 1;
    }
}

macro_rules! pieces {
    ($($decode:ident: $($format:ty),+;)+) => {$($(
        impl Pieces for $format {
            const PIECE_COLS: usize =
                if Self::GROUP_COLS > MOST_COLS { Self::GROUP_COLS } else { MOST_COLS };

            #[inline(always)]
            fn piece(
                matrix: In<u8>,
                n_cols: usize,
                row: usize,
                piece: usize,
                take: impl Fn(usize, [f32; 4]),
            ) {
                $decode::<Self>(matrix, n_cols, row, piece, take);
            }
        }
    )+)+};
}

pieces! {
    float_piece: F16, BF16;
    quant_piece: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, Q2_K, Q3_K, IQ4_NL, IQ4_XS, MXFP4;
}

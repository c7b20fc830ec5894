//! Rows of a weight matrix, decoded piece by piece: four lanes share a piece, in which each has 16 bytes of every group.

use super::fragments::{FloatFragments, Fragments, QuantFragments, TILE_ROWS, four_values, global_tile};
use super::layout::GpuLayout;
use super::{
    BF16, F16, F32, IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0,
};
use crate::simt::prelude::*;

/// Lanes that share a piece.
pub const LANES: usize = 4;

/// Most columns of a piece; a format's group is one, if it is larger.
const MOST_COLS: usize = 128;

/// A format whose rows can be decoded by pieces.
pub trait Pieces: GpuLayout {
    /// Columns of a piece.
    const PIECE_COLS: usize;

    /// Hands the values of a piece to `take(col, values)`: lane c of its four gets those of columns `col` to `col + 3` for each
    /// `col` = 16 i + 4 c of the piece, bit for bit those of [`QuantBlock::decode`](super::QuantBlock::decode). Past the last
    /// column there are numbers without meaning. A word of the whole warp; all loads come before the first `take`.
    fn piece(matrix: In<u8>, n_cols: usize, row: usize, piece: usize, take: impl Fn(usize, [f32; 4]));
}

/// Which of the four lanes of a piece this is.
#[inline(always)]
fn lane_of_piece() -> usize {
    warp::lane_id() as usize % LANES
}

impl Pieces for F32 {
    const PIECE_COLS: usize = MOST_COLS;

    #[inline(always)]
    fn piece(matrix: In<u8>, n_cols: usize, row: usize, piece: usize, take: impl Fn(usize, [f32; 4])) {
        const LOADS: usize = MOST_COLS / (4 * LANES);
        let first = piece * MOST_COLS + 4 * lane_of_piece();
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
    let (first, lane) = (piece * MOST_COLS, lane_of_piece());
    let mut quants = [None; GROUPS];
    let mut group = 0;
    while group < GROUPS {
        let col = first + group * Q::GROUP_COLS;
        if col < n_cols {
            let tile = global_tile::<Q>(matrix, n_cols, row / TILE_ROWS, col / Q::TILE_COLS);
            quants[group] =
                Some(Q::row_quants(tile, row % TILE_ROWS, lane, col % Q::TILE_COLS / Q::GROUP_COLS));
        }
        group += 1;
    }
    let mut group = 0;
    while group < GROUPS {
        if let Some(quants) = &quants[group] {
            let mut step = 0;
            while step < Q::GROUP_STEPS {
                let words = Q::words(quants, step);
                let ([a, b], [c, d]) = (Q::floats(words[0]), Q::floats(words[2]));
                take(first + group * Q::GROUP_COLS + Q::STEP_COLS * step + 4 * lane, [a, b, c, d]);
                step += 1;
            }
        }
        group += 1;
    }
}

/// [`Pieces::piece`] of quants: lane c decodes the scales of sub-blocks c, c + 4 …, which all four then use.
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
        let n_scales = (Q::PIECE_COLS / Q::SUB).div_ceil(LANES);
        assert!(Q::STEP_COLS == 32 && Q::TILE_COLS.is_multiple_of(Q::PIECE_COLS) && n_scales <= SCALES_MAX);
        (Q::PIECE_COLS / Q::GROUP_COLS, n_scales)
    };
    let (c, first) = (lane_of_piece(), piece * Q::PIECE_COLS);
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
        let of_tile = in_tile / (LANES * Q::SUB) + t;
        scales[t] = Q::scale(&of_rows, of_tile, row / 8);
        offsets[t] = Q::offset(&of_rows, of_tile, row / 8);
        t += 1;
    }

    let first_lane = warp::lane_id() / LANES as u32 * LANES as u32;
    let mut sub = 0;
    while sub < Q::PIECE_COLS / Q::SUB {
        let lane = first_lane + (sub % LANES) as u32;
        let scale = warp::shuffle_idx(scales[sub / LANES], lane);
        let offset = if Q::HAS_OFFSET { warp::shuffle_idx(offsets[sub / LANES], lane) } else { 0.0 };
        let mut i = sub * Q::SUB / 16;
        while i < (sub + 1) * Q::SUB / 16 {
            let step = i / 2;
            let words = Q::words(&quants[step / Q::GROUP_STEPS], step % Q::GROUP_STEPS);
            take(first + 16 * i + 4 * c, four_values::<Q>(words[i % 2 * 2], scale, offset));
            i += 1;
        }
        sub += 1;
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

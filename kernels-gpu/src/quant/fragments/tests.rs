//! The layout against the decoding that the golden blocks prove.

use super::*;
use crate::quant::{
    BF16, F16, IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0,
    decode_blocks,
};

/// A tile on the host.
#[derive(Clone, Copy)]
struct HostTile<'a>(&'a [u8]);

impl TileBytes for HostTile<'_> {
    fn word(self, i: usize) -> u32 {
        u32::from_le_bytes(self.0[4 * i..4 * i + 4].try_into().expect("four bytes"))
    }

    fn words2(self, i: usize) -> [u32; 2] {
        assert!(i.is_multiple_of(2), "word {i}");
        [self.word(i), self.word(i + 1)]
    }

    fn words4(self, i: usize) -> [u32; 4] {
        assert!(i.is_multiple_of(4), "word {i}");
        std::array::from_fn(|j| self.word(i + j))
    }
}

/// Random bytes: a linear congruential generator's highest ones.
fn file_bytes(n: usize) -> Vec<u8> {
    let mut state = 12345u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..n).map(|_| next()).collect()
}

/// All values of a matrix of odd shape, and zeros past it, bit for bit.
fn check<Q: Fragments + bytemuck::Pod>() {
    for (n_rows, n_blocks) in [(1, 1), (16, 4), (19, 7), (33, 9)] {
        let n_cols = n_blocks * if Q::ELEMENTS == 1 { 11 } else { Q::ELEMENTS };
        let file = file_bytes(n_rows * n_cols / Q::ELEMENTS * Q::BYTES);
        let mut expected = vec![0.0; n_rows * n_cols];
        decode_blocks::<Q>(bytemuck::cast_slice(&file), &mut expected);
        let mut gpu = vec![0xee; Q::matrix_bytes(n_rows, n_cols)];
        Q::pack(&mut gpu, &file, n_rows, n_cols);
        let tiles_per_row = Q::tiles_per_row(n_cols);
        for row in 0..n_rows.next_multiple_of(TILE_ROWS) {
            for col in 0..tiles_per_row * Q::TILE_COLS {
                let tile = row / TILE_ROWS * tiles_per_row + col / Q::TILE_COLS;
                let tile = HostTile(&gpu[tile * Q::TILE_BYTES..][..Q::TILE_BYTES]);
                let found = Q::values(tile, row % TILE_ROWS, col % Q::TILE_COLS / 4 * 4)[col % 4];
                let inside = row < n_rows && col < n_cols;
                let expected = if inside { expected[row * n_cols + col] } else { 0.0 };
                // Random scales can be infinite or no numbers; and past the matrix a zero may be negative.
                let same = found.to_bits() == expected.to_bits()
                    || found.is_nan() && expected.is_nan()
                    || !inside && found == 0.0;
                assert!(same, "{} {n_rows} × {n_cols}, [{row}, {col}]: {found:?}, not {expected:?}", Q::NAME);
            }
        }
    }
}

/// Every byte of a tile is written by exactly one piece of one row.
fn check_cover<Q: Fragments>() {
    let mut writes = vec![0; Q::TILE_BYTES];
    for row in 0..TILE_ROWS {
        for i in 0..Q::ROW_WORDS {
            let (at, _) = Q::pack_word(row, i, |_| 0);
            assert!(at.is_multiple_of(4), "{} word {i} of row {row} at {at}", Q::NAME);
            writes[at..at + 4].iter_mut().for_each(|n| *n += 1);
        }
        for i in 0..Q::ROW_HALVES {
            let (at, _) = Q::pack_half(row, i, |_| 0);
            assert!(at.is_multiple_of(2), "{} half {i} of row {row} at {at}", Q::NAME);
            writes[at..at + 2].iter_mut().for_each(|n| *n += 1);
        }
    }
    assert_eq!(writes.iter().position(|&n| n != 1), None, "{}: a byte written not once", Q::NAME);
    assert!(Q::TILE_BYTES.is_multiple_of(32), "{}: tiles of {} bytes", Q::NAME, Q::TILE_BYTES);
}

macro_rules! for_each_format {
    ($($test:ident: $format:ty),+ $(,)?) => {$(
        mod $test {
            use super::*;

            #[test]
            fn values_are_those_of_the_blocks() {
                check::<$format>();
            }

            #[test]
            fn tiles_are_covered_once() {
                check_cover::<$format>();
            }
        }
    )+};
}

for_each_format! {
    f16: F16,
    bf16: BF16,
    q4_0: Q4_0,
    q4_1: Q4_1,
    q5_0: Q5_0,
    q5_1: Q5_1,
    q8_0: Q8_0,
    q4_k: Q4_K,
    q5_k: Q5_K,
    q6_k: Q6_K,
    q2_k: Q2_K,
    q3_k: Q3_K,
    iq4_nl: IQ4_NL,
    iq4_xs: IQ4_XS,
    mxfp4: MXFP4,
}

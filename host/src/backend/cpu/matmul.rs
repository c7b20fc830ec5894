//! Products with packed weight matrices.
//!
//! `y[t, r] = Σ_c w[r, c] · x[t, c]`. Every output is sixteen partial sums, lane l taking the columns c ≡ l (mod 16) from
//! left to right, joined at the end. One token or many, one thread or many: the order is the same, so the bits are.
//!
//! - One token ([`Gemv`]): rows are decoded in registers, `GEMV_ROWS` at a time, so that their chains of additions overlap.
//! - Several ([`Gemm`]): a tile of rows is decoded once, then a small square of rows and tokens is summed in registers.

use std::marker::PhantomData;

use super::block::Block;
use super::columns::ColumnStrip;
use super::vector::{Kernel, LANES, Square, Vector};

/// The body once for each group of a block, each time with a constant: loops this long would not be unrolled.
macro_rules! each_group {
    ($block:ty, $group:ident => $body:block) => {
        each_group!(@ $block, $group => $body; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $block:ty, $group:ident => $body:block; $($constant:literal)+) => {
        $(if $constant * LANES < <$block>::ELEMENTS {
            let $group = $constant;
            $body
        })+
    };
}

/// Rows of a matrix-vector product that are computed together.
pub const GEMV_ROWS: usize = 4;

/// Some rows of a matrix: whole blocks, then perhaps a part of one.
#[derive(Clone, Copy)]
pub struct Rows<'a, B> {
    bytes: &'a [u8],
    row_bytes: usize,
    n_cols: usize,
    format: PhantomData<B>,
}

impl<'a, B: Block> Rows<'a, B> {
    /// # Panics
    /// When `bytes` is not a number of rows of `row_bytes`.
    pub fn new(bytes: &'a [u8], row_bytes: usize, n_cols: usize) -> Self {
        assert!(bytes.len().is_multiple_of(row_bytes), "{} bytes in rows of {row_bytes}", bytes.len());
        assert!(
            row_bytes >= n_cols / B::ELEMENTS * size_of::<B>(),
            "{n_cols} columns in rows of {row_bytes} bytes"
        );
        Rows { bytes, row_bytes, n_cols, format: PhantomData }
    }

    /// The whole blocks of a row, and its cut block filled up with zeros.
    #[inline(always)]
    fn row(&self, row: usize) -> (&'a [B], Option<B>) {
        let bytes = &self.bytes[row * self.row_bytes..][..self.row_bytes];
        let (whole, rest) = bytes.split_at(self.n_cols / B::ELEMENTS * size_of::<B>());
        let cut = (!rest.is_empty()).then(|| {
            let mut block = B::zeroed();
            bytemuck::bytes_of_mut(&mut block)[..rest.len()].copy_from_slice(rest);
            block
        });
        (bytemuck::cast_slice(whole), cut)
    }
}

/// out = row `row`, and zeros up to a whole number of vectors.
pub struct DecodeRow<'a, B> {
    pub out: &'a mut [f32],
    pub w: Rows<'a, B>,
    pub row: usize,
}

impl<B: Block> Kernel for DecodeRow<'_, B> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let (blocks, cut) = self.w.row(self.row);
        let out = self.out.as_chunks_mut::<LANES>().0;
        for (block, out) in blocks.iter().chain(&cut).zip(out.chunks_mut(B::ELEMENTS / LANES)) {
            each_group!(B, group => { block.group::<V>(group).store(&mut out[group]); });
        }
    }
}

/// `y[r] = Σ_c w[r, c] · x[c]`.
pub struct Gemv<'a, B> {
    pub y: &'a mut [f32],
    pub w: Rows<'a, B>,
    pub x: &'a [f32],
}

impl<B: Block> Kernel for Gemv<'_, B> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let (together, single) = self.y.as_chunks_mut::<GEMV_ROWS>();
        let n_together = together.len() * GEMV_ROWS;
        for (i, y) in together.iter_mut().enumerate() {
            *y = dot_rows::<V, B, GEMV_ROWS>(&self.w, GEMV_ROWS * i, self.x);
        }
        for (i, y) in single.iter_mut().enumerate() {
            [*y] = dot_rows::<V, B, 1>(&self.w, n_together + i, self.x);
        }
    }
}

/// The products of `N` neighbouring rows with `x`.
#[inline(always)]
fn dot_rows<V: Vector, B: Block, const N: usize>(w: &Rows<'_, B>, first_row: usize, x: &[f32]) -> [f32; N] {
    let rows: [(&[B], Option<B>); N] = std::array::from_fn(|i| w.row(first_row + i));
    let mut sums = [V::splat(0.0); N];
    let n_blocks = x.len() / B::ELEMENTS;
    for block in 0..n_blocks {
        let x = &x[block * B::ELEMENTS..][..B::ELEMENTS];
        for (sum, (blocks, _)) in sums.iter_mut().zip(&rows) {
            let block = &blocks[block];
            let x = x.as_chunks::<LANES>().0;
            each_group!(B, group => { *sum = block.group::<V>(group).mul_add(V::load(&x[group]), *sum); });
        }
    }
    let x = &x[n_blocks * B::ELEMENTS..];
    if !x.is_empty() {
        let x = V::load_partial(x);
        for (sum, (_, cut)) in sums.iter_mut().zip(&rows) {
            if let Some(block) = cut {
                *sum = block.group::<V>(0).mul_add(x, *sum);
            }
        }
    }
    sums.map(V::sum)
}

/// `y[t, r] = Σ_c w[r, c] · x[t, c]` for a tile of decoded rows and the strip of y that is theirs.
pub struct Gemm<'a> {
    pub y: ColumnStrip<'a>,
    /// `[n_rows, n_cols rounded up to whole vectors]`.
    pub w: &'a [f32],
    /// `[n_tokens, n_cols]`.
    pub x: &'a [f32],
    pub n_cols: usize,
}

impl Kernel for Gemm<'_> {
    #[inline(always)]
    fn run<V: Vector>(mut self) {
        match V::SQUARE {
            Square::Rows1Tokens2 => self.squares::<V, 1, 2>(),
            Square::Rows2Tokens3 => self.squares::<V, 2, 3>(),
            Square::Rows4Tokens4 => self.squares::<V, 4, 4>(),
        }
    }
}

impl Gemm<'_> {
    #[inline(always)]
    fn squares<V: Vector, const R: usize, const T: usize>(&mut self) {
        let n_tokens = self.x.len() / self.n_cols;
        let whole = n_tokens / T * T;
        for token in (0..whole).step_by(T) {
            self.strip::<V, R, T>(token);
        }
        for token in whole..n_tokens {
            self.strip::<V, R, 1>(token);
        }
    }

    /// All rows of the tile with `T` tokens.
    #[inline(always)]
    fn strip<V: Vector, const R: usize, const T: usize>(&mut self, token: usize) {
        let n_rows = self.w.len() / self.n_cols.next_multiple_of(LANES);
        let whole = n_rows / R * R;
        for row in (0..whole).step_by(R) {
            self.square::<V, R, T>(row, token);
        }
        for row in whole..n_rows {
            self.square::<V, 1, T>(row, token);
        }
    }

    #[inline(always)]
    fn square<V: Vector, const R: usize, const T: usize>(&mut self, row: usize, token: usize) {
        let stride = self.n_cols.next_multiple_of(LANES);
        let w: [&[f32]; R] = std::array::from_fn(|r| &self.w[(row + r) * stride..][..stride]);
        let x: [&[f32]; T] = std::array::from_fn(|t| &self.x[(token + t) * self.n_cols..][..self.n_cols]);
        let mut sums = [[V::splat(0.0); T]; R];
        let n_whole = self.n_cols / LANES * LANES;
        for col in (0..n_whole).step_by(LANES) {
            let x: [V; T] = std::array::from_fn(|t| V::load(lanes_at(x[t], col)));
            for (sums, w) in sums.iter_mut().zip(&w) {
                let w = V::load(lanes_at(w, col));
                for (sum, x) in sums.iter_mut().zip(&x) {
                    *sum = w.mul_add(*x, *sum);
                }
            }
        }
        if n_whole < self.n_cols {
            for (sums, w) in sums.iter_mut().zip(&w) {
                let w = V::load(lanes_at(w, n_whole));
                for (sum, x) in sums.iter_mut().zip(&x) {
                    *sum = w.mul_add(V::load_partial(&x[n_whole..]), *sum);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (t, sum) in sums.into_iter().enumerate() {
                self.y.set(token + t, row + r, sum.sum());
            }
        }
    }
}

#[inline(always)]
fn lanes_at(values: &[f32], first: usize) -> &[f32; LANES] {
    values[first..first + LANES].try_into().expect("sixteen values")
}

//! One vector in the form in which products take it, as the kernel writes it whose result it is. So no launch between the two
//! has to bring it there.

use super::x::padded_cols;
use super::{XOrder, float, quant};
use crate::quant::{BF16, F16};
use crate::simt::prelude::*;

/// The place of one converted vector.
#[derive(Clone, Copy)]
pub struct XPlace {
    pub words: Out<u32>,
    pub numbers: Out<f32>,
    /// [`XOrder::code`].
    pub order: u32,
}

const F16_CODE: u32 = 0;
const BF16_CODE: u32 = 1;
const FIXED_CODE: u32 = 2;

impl XOrder {
    /// The order of one vector, for kernels that write any.
    ///
    /// # Panics
    /// If it is one of several vectors.
    pub const fn code(self) -> u32 {
        match self {
            XOrder::F16 => F16_CODE,
            XOrder::BF16 => BF16_CODE,
            XOrder::Fixed => FIXED_CODE,
            XOrder::Parts { .. } => panic!("several vectors"),
        }
    }

    /// Bytes of one converted vector.
    pub const fn bytes(self, n_cols: usize) -> usize {
        let [n_words, n_numbers] = self.len(1, n_cols);
        4 * (n_words + n_numbers)
    }

    /// Neighbouring columns that are converted together: a kernel that writes them has these in one warp.
    pub const fn group_cols(self) -> usize {
        match self {
            XOrder::Fixed => quant::STRETCH,
            _ => float::TILE_COLS,
        }
    }
}

impl XPlace {
    /// Takes columns 4 i to 4 i + 3 of the vector; past its end zeros, up to [`padded_quads`]. All lanes of a warp say this at
    /// once, neighbours for neighbouring i, the first for a multiple of 16. Of lanes that have none (not `are_there`) nothing
    /// is stored.
    #[inline(always)]
    #[track_caller]
    pub fn store(self, i: usize, values: [f32; 4], are_there: bool) {
        self.store_each([i], [values], [are_there]);
    }

    /// The same `N` times, so that one is worked on while another waits.
    #[inline(always)]
    #[track_caller]
    pub fn store_each<const N: usize>(self, i: [usize; N], values: [[f32; 4]; N], are_there: [bool; N]) {
        let to = (self.words, self.numbers);
        match self.order {
            F16_CODE => {
                let convert = |n: usize| float::convert::<F16>(values[n]);
                each(are_there, convert, |n, converted| float::store(to, i[n], converted));
            }
            BF16_CODE => {
                let convert = |n: usize| float::convert::<BF16>(values[n]);
                each(are_there, convert, |n, converted| float::store(to, i[n], converted));
            }
            _ => {
                let convert = |n: usize| quant::convert(values[n], i[n]);
                each(are_there, convert, |n, converted| quant::store(to, i[n], converted));
            }
        }
    }
}

/// Converts all before it stores the first.
#[inline(always)]
fn each<const N: usize, C: Copy>(
    are_there: [bool; N],
    convert: impl Fn(usize) -> C,
    store: impl Fn(usize, C),
) {
    let mut converted = [convert(0); N];
    let mut n = 1;
    while n < N {
        converted[n] = convert(n);
        n += 1;
    }
    let mut n = 0;
    while n < N {
        if are_there[n] {
            store(n, converted[n]);
        }
        n += 1;
    }
}

/// Fours of columns of a converted vector, those of its padding included: a multiple of 64.
pub const fn padded_quads(n_cols: usize) -> usize {
    padded_cols(n_cols) / 4
}

//! Matrix words of a warp. What moves to and from shared memory is checked lane by lane, as each one's own row; what
//! the lanes exchange is a function of their registers.
//!
//! The layouts are those of the PTX instruction set (`ldmatrix`, `stmatrix`, `mma.m16n8k16`, `mma.m16n8k32`): a lane has
//! the group `lane / 4` and the place `lane % 4` in it.

use std::cell::Cell;
use std::panic::Location;

use half::{bf16, f16};

use super::block::{LANES, current};
use super::collective::{Registers, Word};
use super::view::Local;
use crate::simt::Bits16;

/// Words of a row of eight 16-bit elements.
const ROW_WORDS: usize = 4;
/// Rows of the results of `mma`.
const M: usize = 16;
/// Their columns.
const N: usize = 8;
/// Lanes of a group.
const PLACES: usize = 4;

impl<T: Bits16> Local<T> {
    /// Loads this lane's row, if it has one, and exchanges rows for fragments.
    #[inline(always)]
    #[track_caller]
    pub fn ldmatrix<const X: usize>(self, row: usize, transposed: bool) -> [u32; X] {
        let registers: [Cell<u32>; ROW_WORDS] = Default::default();
        if owns_row(X) {
            set(&registers, words_of_row(self.load::<8>(row)));
        }
        let word = Word::Ldmatrix { n: X, transposed };
        current().say(word, &registers, Location::caller());
        std::array::from_fn(|i| registers[i].get())
    }

    /// Exchanges fragments for rows, and stores this lane's row, if it has one.
    #[inline(always)]
    #[track_caller]
    pub fn stmatrix<const X: usize>(self, row: usize, fragments: [u32; X], transposed: bool) {
        let registers: [Cell<u32>; ROW_WORDS] = Default::default();
        set(&registers, fragments);
        let word = Word::Stmatrix { n: X, transposed };
        current().say(word, &registers, Location::caller());
        if owns_row(X) {
            let words: [u32; ROW_WORDS] = std::array::from_fn(|i| registers[i].get());
            // SAFETY: both are 16 plain bytes.
            self.store::<8>(row, unsafe { std::mem::transmute_copy(&words) });
        }
    }
}

/// Whether the running lane passes one of the rows of that many matrices.
fn owns_row(n_matrices: usize) -> bool {
    (current().index as usize % LANES) < 8 * n_matrices
}

fn words_of_row<T: Bits16>(row: [T; 8]) -> [u32; ROW_WORDS] {
    // SAFETY: both are 16 plain bytes.
    unsafe { std::mem::transmute_copy(&row) }
}

fn set<const W: usize>(registers: &[Cell<u32>], values: [u32; W]) {
    registers.iter().zip(values).for_each(|(register, value)| register.set(value));
}

/// Rows, each in the registers of its lane, become fragments: lane l gets elements 2(l % 4) and 2(l % 4) + 1 of row l / 4 of each
/// matrix, or of its column if it is transposed.
pub fn load(lanes: &[Registers<'_>; LANES], n: usize, transposed: bool) {
    let element = |row: usize, col: usize| half_of(lanes[row][col / 2].get(), col % 2);
    let fragments: [[u32; 4]; LANES] = std::array::from_fn(|lane| {
        std::array::from_fn(|matrix| {
            let (group, first) = (lane / PLACES, lane % PLACES * 2);
            let of = |i: usize| if transposed { (first + i, group) } else { (group, first + i) };
            let pair =
                [of(0), of(1)].map(|(row, col)| if matrix < n { element(8 * matrix + row, col) } else { 0 });
            pair[0] | pair[1] << 16
        })
    });
    lanes.iter().zip(fragments).for_each(|(registers, fragments)| set(registers, fragments));
}

/// The reverse of [`load`].
pub fn store(lanes: &[Registers<'_>; LANES], n: usize, transposed: bool) {
    let rows: [[u32; ROW_WORDS]; LANES] = std::array::from_fn(|lane| {
        let (matrix, row) = (lane / 8, lane % 8);
        let element = |col: usize| {
            let (group, i) = if transposed { (col, row) } else { (row, col) };
            half_of(lanes[group * PLACES + i / 2][matrix].get(), i % 2)
        };
        std::array::from_fn(
            |word| {
                if matrix < n { element(2 * word) | element(2 * word + 1) << 16 } else { 0 }
            },
        )
    });
    lanes.iter().zip(rows).for_each(|(registers, row)| set(registers, row));
}

fn half_of(word: u32, i: usize) -> u32 {
    word >> (16 * i) & 0xffff
}

/// Registers of a lane: four of a, two of b, four of c, which the results replace.
const A: usize = 0;
const B: usize = 4;
const C: usize = 6;

#[inline(always)]
#[track_caller]
fn mma(word: Word, a: [u32; 4], b: [u32; 2], c: [u32; 4]) -> [u32; 4] {
    let registers: [Cell<u32>; 10] = Default::default();
    set(&registers[A..], a);
    set(&registers[B..], b);
    set(&registers[C..], c);
    current().say(word, &registers, Location::caller());
    std::array::from_fn(|i| registers[C + i].get())
}

#[inline(always)]
#[track_caller]
pub fn mma_m16n8k16_f16(a: [u32; 4], b: [u32; 2], c: [f32; 4]) -> [f32; 4] {
    mma(Word::MmaF16, a, b, c.map(f32::to_bits)).map(f32::from_bits)
}

#[inline(always)]
#[track_caller]
pub fn mma_m16n8k16_bf16(a: [u32; 4], b: [u32; 2], c: [f32; 4]) -> [f32; 4] {
    mma(Word::MmaBf16, a, b, c.map(f32::to_bits)).map(f32::from_bits)
}

#[inline(always)]
#[track_caller]
pub fn mma_m16n8k32_s8(a: [u32; 4], b: [u32; 2], c: [i32; 4]) -> [i32; 4] {
    mma(Word::MmaS8, a, b, c.map(i32::cast_unsigned)).map(u32::cast_signed)
}

pub fn multiply_f16(lanes: &[Registers<'_>; LANES]) {
    multiply_floats(lanes, |word| [0, 1].map(|i| f16::from_bits(half_of(word, i) as u16).to_f64()));
}

pub fn multiply_bf16(lanes: &[Registers<'_>; LANES]) {
    multiply_floats(lanes, |word| [0, 1].map(|i| bf16::from_bits(half_of(word, i) as u16).to_f64()));
}

/// The products are exact in f64; they and c are added there, and rounded to f32 once. In which order the hardware adds, and
/// what it cuts off, is not specified.
fn multiply_floats(lanes: &[Registers<'_>; LANES], unpack: impl Fn(u32) -> [f64; 2]) {
    multiply(
        lanes,
        unpack,
        0.0,
        |sum, a, b| sum + a * b,
        |sum, c| ((sum + f64::from(f32::from_bits(c))) as f32).to_bits(),
    );
}

pub fn multiply_s8(lanes: &[Registers<'_>; LANES]) {
    let unpack = |word: u32| word.to_le_bytes().map(|byte| i32::from(byte.cast_signed()));
    multiply(lanes, unpack, 0, |sum, a, b| sum + a * b, |sum, c| sum.cast_unsigned().wrapping_add(c));
}

/// A register holds E neighbouring elements of a row of a, or of a column of b. Register i of a holds those from
/// `E · place + 4E · (i / 2)` on of row `group + 8 · (i % 2)`; register i of b those from `E · place + 4E · i` on of column
/// `group`; register i of c that in row `group + 8 · (i / 2)` and column `2 · place + i % 2`.
fn multiply<V: Copy, const E: usize>(
    lanes: &[Registers<'_>; LANES],
    unpack: impl Fn(u32) -> [V; E],
    zero: V,
    add_product: impl Fn(V, V, V) -> V,
    finish: impl Fn(V, u32) -> u32,
) {
    // Lines of k: of each row of a and each column of b.
    let mut a = [[[zero; E]; 2 * PLACES]; M];
    let mut b = [[[zero; E]; 2 * PLACES]; N];
    for (lane, registers) in lanes.iter().enumerate() {
        let (group, place) = (lane / PLACES, lane % PLACES);
        for i in 0..4 {
            a[group + 8 * (i % 2)][place + PLACES * (i / 2)] = unpack(registers[A + i].get());
        }
        for i in 0..2 {
            b[group][place + PLACES * i] = unpack(registers[B + i].get());
        }
    }
    for (lane, registers) in lanes.iter().enumerate() {
        let (group, place) = (lane / PLACES, lane % PLACES);
        for i in 0..4 {
            let (row, col) = (group + 8 * (i / 2), 2 * place + i % 2);
            let pairs = a[row].as_flattened().iter().zip(b[col].as_flattened());
            let sum = pairs.fold(zero, |sum, (&a, &b)| add_product(sum, a, b));
            let c = &registers[C + i];
            c.set(finish(sum, c.get()));
        }
    }
}

//! Words that lanes say together: what each makes of the lanes' registers.

use std::cell::Cell;
use std::fmt;

use super::block::LANES;
use super::matrix;

/// The registers of one lane: its operands, and then its results.
pub type Registers<'a> = &'a [Cell<u32>];

/// A word that a warp says together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// `warp::shuffle_xor`
    ShuffleXor,
    /// `warp::shuffle_down`
    ShuffleDown,
    /// `warp::shuffle_up`
    ShuffleUp,
    /// `warp::shuffle_idx`
    ShuffleIdx,
    /// `warp::ballot`
    Ballot,
    /// `warp::all`
    All,
    /// `warp::any`
    Any,
    /// `warp::sync`
    Sync,
    /// `warp::sum_f32`
    SumF32,
    /// `warp::max_f32`
    MaxF32,
    /// `Tile::ldmatrix_x1` and its like
    Ldmatrix {
        /// Matrices, 1, 2 or 4.
        n: usize,
        /// Whether each is transposed.
        transposed: bool,
    },
    /// `Tile::stmatrix_x1` and its like
    Stmatrix {
        /// Matrices, 1, 2 or 4.
        n: usize,
        /// Whether each is transposed.
        transposed: bool,
    },
    /// `matrix::mma_m16n8k16_f16`
    MmaF16,
    /// `matrix::mma_m16n8k16_bf16`
    MmaBf16,
    /// `matrix::mma_m16n8k32_s8`
    MmaS8,
    /// `Accumulators::mma` and its like
    Wgmma {
        /// Columns of the results.
        n: usize,
        /// Whether the operands are bf16, not f16.
        is_bf16: bool,
        /// Where the operands are.
        operands: Operands,
    },
}

/// Where the operands of a warpgroup's product are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operands {
    /// `Accumulators::mma`: both in shared memory, K-major.
    Rows,
    /// `Accumulators::mma_registers`: the first in registers; rows of the second are K-elements.
    RegistersAndColumns,
    /// `Accumulators::mma_registers_rows`: the first in registers, the second K-major.
    RegistersAndRows,
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = |transposed| if transposed { "_trans" } else { "" };
        f.write_str(match self {
            Word::ShuffleXor => "warp::shuffle_xor",
            Word::ShuffleDown => "warp::shuffle_down",
            Word::ShuffleUp => "warp::shuffle_up",
            Word::ShuffleIdx => "warp::shuffle_idx",
            Word::Ballot => "warp::ballot",
            Word::All => "warp::all",
            Word::Any => "warp::any",
            Word::Sync => "warp::sync",
            Word::SumF32 => "warp::sum_f32",
            Word::MaxF32 => "warp::max_f32",
            Word::MmaF16 => "matrix::mma_m16n8k16_f16",
            Word::MmaBf16 => "matrix::mma_m16n8k16_bf16",
            Word::MmaS8 => "matrix::mma_m16n8k32_s8",
            Word::Wgmma { operands: Operands::Rows, .. } => "Accumulators::mma",
            Word::Wgmma { operands: Operands::RegistersAndColumns, .. } => "Accumulators::mma_registers",
            Word::Wgmma { operands: Operands::RegistersAndRows, .. } => "Accumulators::mma_registers_rows",
            Word::Ldmatrix { n, transposed } => {
                return write!(f, "Tile::ldmatrix_x{n}{}", suffix(*transposed));
            }
            Word::Stmatrix { n, transposed } => {
                return write!(f, "Tile::stmatrix_x{n}{}", suffix(*transposed));
            }
        })
    }
}

/// Carries out a word of a warp.
pub fn carry_out(word: Word, lanes: &[Registers<'_>; LANES]) {
    match word {
        Word::Ldmatrix { n, transposed } => matrix::load(lanes, n, transposed),
        Word::Stmatrix { n, transposed } => matrix::store(lanes, n, transposed),
        Word::MmaF16 => matrix::multiply_f16(lanes),
        Word::MmaBf16 => matrix::multiply_bf16(lanes),
        Word::MmaS8 => matrix::multiply_s8(lanes),
        _ => {
            for (registers, result) in lanes.iter().zip(one_result(word, lanes)) {
                registers[0].set(result);
            }
        }
    }
}

/// The results of a word that takes a value and an operand (a lane, a distance or a mask) from each lane.
fn one_result(word: Word, registers: &[Registers<'_>; LANES]) -> [u32; LANES] {
    let value = |lane: usize| registers[lane][0].get();
    let operand = |lane: usize| registers[lane][1].get() as usize;
    let lanes = |result: &dyn Fn(usize) -> u32| std::array::from_fn(result);
    let ballot = (0..LANES).fold(0, |bits, lane| bits | value(lane) << lane);
    match word {
        Word::ShuffleXor => lanes(&|lane| value(lane ^ operand(lane))),
        Word::ShuffleDown => lanes(&|lane| {
            let source = lane + operand(lane);
            value(if source < LANES { source } else { lane })
        }),
        Word::ShuffleUp => lanes(&|lane| value(lane.checked_sub(operand(lane)).unwrap_or(lane))),
        Word::ShuffleIdx => lanes(&|lane| value(operand(lane))),
        Word::Ballot => [ballot; LANES],
        Word::All => [u32::from(ballot == u32::MAX); LANES],
        Word::Any => [u32::from(ballot != 0); LANES],
        Word::Sync => [0; LANES],
        Word::SumF32 => butterfly(lanes(&value), |a, b| a + b),
        Word::MaxF32 => butterfly(lanes(&value), f32::max),
        _ => unreachable!("{word} is carried out elsewhere"),
    }
}

/// The steps 16, 8, 4, 2, 1 of a reduction, as the GPU does them.
fn butterfly(values: [u32; LANES], combine: fn(f32, f32) -> f32) -> [u32; LANES] {
    let mut values = values.map(f32::from_bits);
    for mask in [16, 8, 4, 2, 1] {
        values = std::array::from_fn(|lane| combine(values[lane], values[lane ^ mask]));
    }
    values.map(f32::to_bits)
}

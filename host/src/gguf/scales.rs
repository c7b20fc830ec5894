//! Looks at the scales of a tensor's blocks, and at every number of a plain tensor: one NaN among them spoils all text.

use rayon::prelude::*;

use super::types::GgmlType;

/// Bytes that one task looks at, a little more where blocks do not divide it.
const TASK_BYTES: usize = 1 << 20;
/// How many bad blocks are listed.
const MAX_LISTED: usize = 4;

/// What is remarkable in a tensor's blocks.  A plain type such as F16 has blocks of one element, its own scale.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scan {
    pub n_blocks: u64,
    /// Blocks with a NaN or an infinite scale.
    pub n_bad: u64,
    /// The first of them, with what is wrong.
    pub bad: Vec<BadBlock>,
    /// Blocks whose scales are all zero, and with them all elements.
    pub n_zero: u64,
    pub first_zero: Option<u64>,
    /// Blocks with a subnormal scale: legal, but with less than full precision.
    pub n_subnormal: u64,
    pub first_subnormal: Option<u64>,
}

/// A block that cannot be computed with.
#[derive(Clone, Debug, PartialEq)]
pub struct BadBlock {
    /// Index in the tensor.
    pub block: u64,
    /// The field's name, e.g. `d`.
    pub field: &'static str,
    /// `NaN` or `infinite`.
    pub problem: &'static str,
}

impl Scan {
    /// Looks at all blocks of a tensor of type `ty`, on all cores.  Types without scales (integers) have none to look at.
    pub fn of(ty: GgmlType, data: &[u8]) -> Scan {
        let fields = fields(ty);
        let block_bytes = ty.block_bytes() as usize;
        let task_blocks = (TASK_BYTES / block_bytes).max(1);
        let tasks = data.par_chunks(task_blocks * block_bytes).enumerate();
        let scans = tasks
            .map(|(task, bytes)| Scan::of_piece(fields, (task * task_blocks) as u64, block_bytes, bytes));
        scans.reduce(Scan::default, Scan::followed_by)
    }

    fn of_piece(fields: &[Field], first_block: u64, block_bytes: usize, bytes: &[u8]) -> Scan {
        let mut scan = Scan::default();
        for (block, bytes) in (first_block..).zip(bytes.chunks_exact(block_bytes)) {
            scan.n_blocks += 1;
            let (mut is_zero, mut is_subnormal) = (!fields.is_empty(), false);
            for field in fields {
                let class = field.class(bytes);
                is_zero &= class == Class::Zero;
                is_subnormal |= class == Class::Subnormal;
                if let Some(problem) = class.problem() {
                    scan.n_bad += 1;
                    if scan.bad.len() < MAX_LISTED {
                        scan.bad.push(BadBlock { block, field: field.name, problem });
                    }
                    break;
                }
            }
            scan.n_zero += u64::from(is_zero);
            scan.first_zero = scan.first_zero.or(is_zero.then_some(block));
            scan.n_subnormal += u64::from(is_subnormal);
            scan.first_subnormal = scan.first_subnormal.or(is_subnormal.then_some(block));
        }
        scan
    }

    /// The union of two neighbouring pieces.
    fn followed_by(mut self, mut next: Scan) -> Scan {
        self.bad.append(&mut next.bad);
        self.bad.truncate(MAX_LISTED);
        Scan {
            n_blocks: self.n_blocks + next.n_blocks,
            n_bad: self.n_bad + next.n_bad,
            bad: self.bad,
            n_zero: self.n_zero + next.n_zero,
            first_zero: self.first_zero.or(next.first_zero),
            n_subnormal: self.n_subnormal + next.n_subnormal,
            first_subnormal: self.first_subnormal.or(next.first_subnormal),
        }
    }
}

/// How a scale is written.
#[derive(Clone, Copy, Debug)]
enum Format {
    F16,
    BF16,
    F32,
    F64,
    /// A power of two; 255 is NaN in the OCP microscaling standard.
    E8M0,
    /// Unsigned 8-bit float; 127 is NaN.
    UE4M3,
    /// An f16 in the upper four bits of four u16.
    Scattered,
}

/// A scale in a block.
#[derive(Clone, Copy, Debug)]
struct Field {
    name: &'static str,
    format: Format,
    /// Bytes from the start of the block.
    at: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Class {
    Normal,
    Subnormal,
    Zero,
    Infinite,
    Nan,
}

impl Class {
    fn problem(self) -> Option<&'static str> {
        match self {
            Class::Infinite => Some("infinite"),
            Class::Nan => Some("NaN"),
            _ => None,
        }
    }

    /// Of a binary float whose exponent has `exponent_bits` and lies above `mantissa_bits`.
    fn of_bits(bits: u64, mantissa_bits: u32, exponent_bits: u32) -> Class {
        let mantissa = bits & ((1 << mantissa_bits) - 1);
        let max = (1 << exponent_bits) - 1;
        match ((bits >> mantissa_bits) & max, mantissa) {
            (0, 0) => Class::Zero,
            (0, _) => Class::Subnormal,
            (exponent, 0) if exponent == max => Class::Infinite,
            (exponent, _) if exponent == max => Class::Nan,
            _ => Class::Normal,
        }
    }
}

impl Field {
    fn class(self, block: &[u8]) -> Class {
        let field = &block[self.at..];
        let u16_at = |i: usize| u16::from_le_bytes([field[2 * i], field[2 * i + 1]]);
        match self.format {
            Format::F16 => Class::of_bits(u16_at(0).into(), 10, 5),
            Format::BF16 => Class::of_bits(u16_at(0).into(), 7, 8),
            Format::F32 => Class::of_bits(little_endian(&field[..4]), 23, 8),
            Format::F64 => Class::of_bits(little_endian(&field[..8]), 52, 11),
            Format::E8M0 if field[0] == 255 => Class::Nan,
            Format::E8M0 => Class::Normal,
            Format::UE4M3 if field[0] & 127 == 127 => Class::Nan,
            Format::UE4M3 if field[0] & 127 == 0 => Class::Zero,
            Format::UE4M3 => Class::Normal,
            Format::Scattered => {
                let bits = (0..4).fold(0, |bits, i| bits | (u16_at(i) >> 12) << (4 * i));
                Class::of_bits(bits.into(), 10, 5)
            }
        }
    }
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// The scales of each type's block, in ggml's names.
fn fields(ty: GgmlType) -> &'static [Field] {
    use Format::*;
    use GgmlType as T;
    macro_rules! at {
        ($($name:literal $format:ident $at:literal),*) => {
            &[$(Field { name: $name, format: $format, at: $at }),*]
        };
    }
    match ty {
        T::F32 => at!["value" F32 0],
        T::F16 => at!["value" F16 0],
        T::BF16 => at!["value" BF16 0],
        T::F64 => at!["value" F64 0],
        T::I8 | T::I16 | T::I32 | T::I64 => &[],
        T::Q4_0 | T::Q5_0 | T::Q8_0 | T::Q1_0 | T::IQ4_NL | T::IQ4_XS => at!["d" F16 0],
        T::IQ2_XXS | T::IQ2_XS | T::IQ2_S | T::IQ3_XXS | T::IQ3_S | T::IQ1_S => at!["d" F16 0],
        T::Q4_1 | T::Q5_1 => at!["d" F16 0, "m" F16 2],
        T::Q8_1 => at!["d" F16 0, "s" F16 2],
        T::Q2_K => at!["d" F16 80, "dmin" F16 82],
        T::Q3_K => at!["d" F16 108],
        T::Q4_K | T::Q5_K => at!["d" F16 0, "dmin" F16 2],
        T::Q6_K => at!["d" F16 208],
        T::Q8_K => at!["d" F32 0],
        T::IQ1_M => at!["d" Scattered 48],
        T::TQ1_0 => at!["d" F16 52],
        T::TQ2_0 => at!["d" F16 64],
        T::MXFP4 => at!["e" E8M0 0],
        T::NVFP4 => at!["d[0]" UE4M3 0, "d[1]" UE4M3 1, "d[2]" UE4M3 2, "d[3]" UE4M3 3],
    }
}

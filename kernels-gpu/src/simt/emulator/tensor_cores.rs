//! The products of warpgroups (`wgmma`).
//!
//! A product takes place when all 128 threads have asked for it, but as an agent of its own: its operands count as being
//! read until a thread has waited for it.

use std::cell::Cell;
use std::panic::Location;

use half::{bf16, f16};

use super::block::{BlockState, LANES, Thread, current};
use super::check::TENSOR_CORES;
use super::collective::{Registers, Word};
use super::copy_engine::{Rows, piece_of};
use super::violation::Fault;
use crate::simt::wgmma::{K, Operand, SIZE};

/// Rows of a product.
const M: usize = 64;
/// Columns of operands in shared memory.
const COLS: usize = 64;

/// Registers before the results: the operands' handles, their first column, and whether to add.
const A: usize = 0;
const B: usize = 1;
const COL: usize = 2;
const ADD: usize = 3;
const HEADER: usize = 4;

/// Results of a warpgroup's product: `LEN` of each thread.
pub struct Accumulators<const LEN: usize> {
    registers: Box<[Cell<u32>]>,
    /// Whether they were used since the last fence.
    used: Cell<bool>,
}

impl<const LEN: usize> Accumulators<LEN> {
    pub fn zero() -> Self {
        const {
            assert!(matches!(LEN, 32 | 64 | 96 | 112 | 128), "a product has 64, 128, 192, 224 or 256 columns")
        };
        Self { registers: (0..HEADER + LEN).map(|_| Cell::new(0)).collect(), used: Cell::new(true) }
    }

    #[track_caller]
    pub fn get(&self, i: usize) -> f32 {
        if !current().agents.products.is_done() {
            current().violate(Fault::InFlight, Location::caller());
        }
        self.used.set(true);
        f32::from_bits(self.registers[HEADER..][i].get())
    }

    pub fn fence(&mut self) {
        self.used.set(false);
    }

    #[track_caller]
    pub fn mma<T: Operand>(&mut self, a: Rows<T>, b: Rows<T>, k: usize, add: bool) {
        let (thread, location) = (current(), Location::caller());
        a.check_rows(M);
        b.check_rows(2 * LEN);
        assert!(k.is_multiple_of(K) && k + K <= COLS, "K-elements {k} to {} of {COLS}", k + K - 1);
        if self.used.get() {
            thread.violate(Fault::UnfencedResults, location);
        }
        self.registers[A].set(a.handle());
        self.registers[B].set(b.handle());
        self.registers[COL].set(k as u32);
        self.registers[ADD].set(u32::from(add));
        let word = Word::Wgmma { n: 2 * LEN, is_bf16: T::IS_BF16 };
        thread.say_with_group(word, &self.registers, location);
    }

    pub fn commit(&mut self) {
        current().agents.products.commit();
    }

    pub fn wait_but<const PENDING: u32>(&mut self) {
        let thread = current();
        let done = thread.agents.products.wait(PENDING as usize);
        if thread.launched().checked {
            thread.block().clock.learn_time(thread.warp(), agent(thread), done);
        }
    }

    pub fn wait(&mut self) {
        self.wait_but::<0>();
    }
}

/// The agent that multiplies for a thread's warpgroup.
fn agent(thread: &Thread) -> usize {
    TENSOR_CORES + thread.index as usize / SIZE as usize
}

/// Carries out a product of a warpgroup; gives the thread that broke a rule, and how.
pub fn carry_out<'a>(
    word: Word,
    lanes: &[Registers<'_>],
    group: &'a [Thread],
    block: &BlockState,
) -> Result<(), (&'a Thread, Fault)> {
    let Word::Wgmma { n, is_bf16 } = word else { unreachable!("{word} is no word of a warpgroup") };
    let first = &group[0];
    let differs = |registers: &&Registers<'_>| (0..HEADER).any(|i| registers[i].get() != lanes[0][i].get());
    if let Some(other) = lanes.iter().position(|registers| differs(&registers)) {
        return Err((first, Fault::OperandsDiffer { other: group[other].index }));
    }
    let checked = first.launched().checked;
    let agent = agent(first);
    let time = if checked { block.clock.agent_acts(agent) } else { 0 };
    let known = block.clock.known_to_all(group.iter().step_by(LANES).map(Thread::warp));
    let k = lanes[0][COL].get() as usize;
    let unpack =
        |bits: u16| if is_bf16 { bf16::from_bits(bits).to_f64() } else { f16::from_bits(bits).to_f64() };
    let operand = |handle: u32, n_rows: usize| -> Result<Vec<[f64; K]>, Fault> {
        (0..n_rows)
            .map(|row| {
                let mut values = [0.0; K];
                for half in 0..2 {
                    let piece = piece_of(handle, row, k / 8 + half);
                    if checked {
                        block.shadow.agent_reads(first, (agent, time), &known, piece)?;
                    }
                    // SAFETY: 16 bytes of a tile, which `check_rows` checked; the block runs on this thread.
                    let bits = unsafe { block.shared.add(piece.start).cast::<[u16; 8]>().read() };
                    (0..8).for_each(|i| values[8 * half + i] = unpack(bits[i]));
                }
                Ok(values)
            })
            .collect()
    };
    let of_first = |fault| (first, fault);
    let a = operand(lanes[0][A].get(), M).map_err(of_first)?;
    let b = operand(lanes[0][B].get(), n).map_err(of_first)?;
    let add = lanes[0][ADD].get() != 0;
    for (t, registers) in lanes.iter().enumerate() {
        for i in 0..n / 2 {
            let row = 16 * (t / 32) + t % 32 / 4 + 8 * (i / 2 % 2);
            let col = 8 * (i / 4) + 2 * (t % 4) + i % 2;
            let result = &registers[HEADER + i];
            let before = if add { f64::from(f32::from_bits(result.get())) } else { 0.0 };
            let sum = a[row].iter().zip(&b[col]).fold(before, |sum, (a, b)| sum + a * b);
            result.set((sum as f32).to_bits());
        }
    }
    group.iter().for_each(|thread| thread.agents.products.add(time + 1));
    Ok(())
}

pub fn release_registers<const N: u32>() {}

pub fn take_registers<const N: u32>() {}

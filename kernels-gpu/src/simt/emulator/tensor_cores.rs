//! The products of warpgroups (`wgmma`).
//!
//! A product takes place when all 128 threads have asked for it, but as an agent of its own: its operands count as being
//! read until a thread has waited for it.

use std::cell::Cell;
use std::panic::Location;

use half::{bf16, f16};

use super::block::{BlockState, LANES, Thread, current};
use super::check::{Piece, TENSOR_CORES, place};
use super::collective::{Operands, Registers, Word};
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
/// Rows from one tile of 64 columns of b to the next, if b's rows are K-elements.
const TILE_ROWS: usize = 4;
/// Four registers of a, if it is not in shared memory; they are each thread's own.
const FRAGMENTS: usize = 5;
const HEADER: usize = FRAGMENTS + 4;

/// Results of a warpgroup's product: `LEN` of each thread.
pub struct Accumulators<const LEN: usize> {
    registers: Box<[Cell<u32>]>,
    /// Whether they were used since the last fence.
    used: Cell<bool>,
    /// The group of the last product into them.
    group: Cell<u32>,
}

impl<const LEN: usize> Accumulators<LEN> {
    pub fn zero() -> Self {
        const {
            assert!(
                matches!(LEN, 8 | 32 | 48 | 64 | 96 | 112 | 128),
                "a product has 16, 64, 96, 128, 192, 224 or 256 columns"
            )
        };
        Self {
            registers: (0..HEADER + LEN).map(|_| Cell::new(0)).collect(),
            used: Cell::new(true),
            group: Cell::new(0),
        }
    }

    #[track_caller]
    pub fn get(&self, i: usize) -> f32 {
        self.check_done(Location::caller());
        self.used.set(true);
        f32::from_bits(self.registers[HEADER..][i].get())
    }

    #[track_caller]
    pub fn set(&mut self, i: usize, value: f32) {
        self.check_done(Location::caller());
        self.used.set(true);
        self.registers[HEADER..][i].set(value.to_bits());
    }

    fn check_done(&self, location: &'static Location<'static>) {
        if !current().agents.products.is_done(self.group.get()) {
            current().violate(Fault::InFlight, location);
        }
    }

    pub fn fence(&mut self) {
        self.used.set(false);
    }

    #[track_caller]
    pub fn mma<T: Operand>(&mut self, a: Rows<T>, b: Rows<T>, k: usize, add: bool) {
        a.check_rows(M);
        b.check_rows(2 * LEN);
        assert!(k.is_multiple_of(K) && k + K <= COLS, "K-elements {k} to {} of {COLS}", k + K - 1);
        self.registers[A].set(a.handle());
        self.registers[B].set(b.handle());
        self.registers[COL].set(k as u32);
        self.registers[ADD].set(u32::from(add));
        self.say(
            Word::Wgmma { n: 2 * LEN, is_bf16: T::IS_BF16, operands: Operands::Rows },
            Location::caller(),
        );
    }

    #[track_caller]
    pub fn mma_registers<T: Operand>(&mut self, a: [u32; 4], b: Rows<T>, tile_rows: usize, k: usize) {
        assert!(k.is_multiple_of(8), "K-elements from {k} on: rows lie in groups of 8");
        let last_tile = (2 * LEN).div_ceil(COLS) - 1;
        b.check_rows(last_tile * tile_rows + k + K);
        self.registers[B].set(b.handle());
        self.registers[COL].set(k as u32);
        self.registers[ADD].set(1);
        self.registers[TILE_ROWS].set(tile_rows as u32);
        self.registers[FRAGMENTS..HEADER].iter().zip(a).for_each(|(register, value)| register.set(value));
        self.say(
            Word::Wgmma { n: 2 * LEN, is_bf16: T::IS_BF16, operands: Operands::RegistersAndColumns },
            Location::caller(),
        );
    }

    #[track_caller]
    pub fn mma_registers_rows<T: Operand>(&mut self, a: [u32; 4], b: Rows<T>, k: usize, add: bool) {
        b.check_rows(2 * LEN);
        assert!(k.is_multiple_of(K) && k + K <= COLS, "K-elements {k} to {} of {COLS}", k + K - 1);
        self.registers[B].set(b.handle());
        self.registers[COL].set(k as u32);
        self.registers[ADD].set(u32::from(add));
        self.registers[FRAGMENTS..HEADER].iter().zip(a).for_each(|(register, value)| register.set(value));
        let operands = Operands::RegistersAndRows;
        self.say(Word::Wgmma { n: 2 * LEN, is_bf16: T::IS_BF16, operands }, Location::caller());
    }

    fn say(&mut self, word: Word, location: &'static Location<'static>) {
        let thread = current();
        if self.used.get() {
            thread.violate(Fault::UnfencedResults, location);
        }
        self.group.set(thread.agents.products.open_group());
        thread.say_with_group(word, &self.registers, location);
    }

    pub fn commit(&mut self) {
        current().agents.products.commit();
    }

    pub fn wait_but<const PENDING: u32>(&mut self) {
        let thread = current();
        let done = thread.agents.products.wait(PENDING as usize);
        if thread.launched().checked {
            let agent = place(thread.rank, agent(thread));
            thread.block().clock.learn_time(thread.warp(), agent, done);
        }
    }

    #[track_caller]
    pub fn finish_but<const PENDING: u32>(&mut self) {
        self.wait_but::<PENDING>();
        self.check_done(Location::caller());
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
    let Word::Wgmma { n, is_bf16, operands } = word else { unreachable!("{word} is no word of a warpgroup") };
    let first = &group[0];
    let differs =
        |registers: &&Registers<'_>| (0..FRAGMENTS).any(|i| registers[i].get() != lanes[0][i].get());
    if let Some(other) = lanes.iter().position(|registers| differs(&registers)) {
        return Err((first, Fault::OperandsDiffer { other: group[other].index }));
    }
    let checked = first.launched().checked;
    let agent = agent(first);
    let time = if checked { block.clock.agent_acts(place(first.rank, agent)) } else { 0 };
    let known = block.clock.known_to_all(group.iter().step_by(LANES).map(Thread::warp));
    let k = lanes[0][COL].get() as usize;
    let unpack =
        |bits: u16| if is_bf16 { bf16::from_bits(bits).to_f64() } else { f16::from_bits(bits).to_f64() };
    let read = |piece: Piece| -> Result<[f64; 8], Fault> {
        if checked {
            block.shadow.agent_reads(first, (agent, time), &known, piece)?;
        }
        // SAFETY: 16 bytes of a tile, which `check_rows` checked; the block runs on this thread.
        let bits = unsafe { block.shared.add(piece.start).cast::<[u16; 8]>().read() };
        Ok(bits.map(unpack))
    };
    // Rows of an operand, or columns of b if its rows are K-elements.
    let rows = |handle: u32, n_rows: usize| -> Result<Vec<[f64; K]>, Fault> {
        let row = |row| {
            let halves = [0, 1].map(|half| read(piece_of(handle, row, k / 8 + half)));
            let [low, high] = halves;
            let mut values = [0.0; K];
            values[..8].copy_from_slice(&low?);
            values[8..].copy_from_slice(&high?);
            Ok(values)
        };
        (0..n_rows).map(row).collect()
    };
    let columns = |handle: u32, tile_rows: usize| -> Result<Vec<[f64; K]>, Fault> {
        let mut columns = vec![[0.0; K]; n];
        for (piece, columns) in columns.chunks_mut(8).enumerate() {
            for i in 0..K {
                let row = piece / 8 * tile_rows + k + i;
                let values = read(piece_of(handle, row, piece % 8))?;
                columns.iter_mut().zip(values).for_each(|(column, value)| column[i] = value);
            }
        }
        Ok(columns)
    };
    let of_first = |fault| (first, fault);
    let a = match operands {
        Operands::Rows => rows(lanes[0][A].get(), M).map_err(of_first)?,
        Operands::RegistersAndColumns | Operands::RegistersAndRows => fragments(lanes, unpack),
    };
    let b = match operands {
        Operands::Rows | Operands::RegistersAndRows => rows(lanes[0][B].get(), n),
        Operands::RegistersAndColumns => columns(lanes[0][B].get(), lanes[0][TILE_ROWS].get() as usize),
    };
    let b = b.map_err(of_first)?;
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

/// The rows of a that the threads hold.
fn fragments(lanes: &[Registers<'_>], unpack: impl Fn(u16) -> f64) -> Vec<[f64; K]> {
    let mut a = vec![[0.0; K]; M];
    for (t, registers) in lanes.iter().enumerate() {
        for i in 0..4 {
            let (row, col) = (16 * (t / 32) + t % 32 / 4 + 8 * (i % 2), 2 * (t % 4) + 8 * (i / 2));
            let pair = registers[FRAGMENTS + i].get();
            a[row][col] = unpack(pair as u16);
            a[row][col + 1] = unpack((pair >> 16) as u16);
        }
    }
    a
}

/// Operands in registers are read when the product is said.
pub fn fence_operands<const N: usize>(_operands: &mut [[u32; 4]; N]) {}

pub fn release_registers<const N: u32>() {}

pub fn take_registers<const N: u32>() {}

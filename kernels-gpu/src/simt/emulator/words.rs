//! The words of a GPU thread, said by an emulated one.

use std::cell::Cell;
use std::panic::Location;

use half::{bf16, f16};

use super::block::{LANES, current};
use super::collective::Word;
use super::violation::Fault;

pub use super::async_copy::{async_copy_commit, async_copy_wait};
pub use super::cluster::{cluster_block_rank, cluster_start, cluster_sync};
pub use super::copy_engine::{
    Rows, TensorMap, commit_stores, fence_barrier_init, fence_proxy_async, wait_stores_read,
};
pub use super::matrix::*;
pub use super::pairs::*;
pub use super::phase::Barriers;
pub use super::tensor_cores::{Accumulators, fence_operands, release_registers, take_registers};
pub use super::view::{Carver, Global, Local, bytes, words};

#[track_caller]
pub fn trap() -> ! {
    let message = "trap".to_owned();
    current().violate(Fault::Panic { message }, Location::caller())
}

pub fn thread_idx_x() -> u32 {
    current().index
}

pub fn block_dim_x() -> u32 {
    current().launched().meta.threads
}

pub fn block_idx_x() -> u32 {
    current().block().index.x
}

pub fn block_idx_y() -> u32 {
    current().block().index.y
}

pub fn block_idx_z() -> u32 {
    current().block().index.z
}

pub fn grid_dim_x() -> u32 {
    current().launched().grid.x
}

pub fn grid_dim_y() -> u32 {
    current().launched().grid.y
}

pub fn grid_dim_z() -> u32 {
    current().launched().grid.z
}

#[inline(always)]
#[track_caller]
pub fn sync_threads() {
    current().barrier(Location::caller());
}

#[inline(always)]
#[track_caller]
pub fn sync_named(id: u32, n_threads: u32) {
    current().named_barrier(id, n_threads, Location::caller());
}

pub fn pdl_wait() {
    let thread = current();
    thread.waited.set(true);
    thread.launched().note_wait();
}

pub fn pdl_launch_dependents() {}

#[inline(always)]
#[track_caller]
fn warp(word: Word, value: u32, operand: u32) -> u32 {
    let registers = [Cell::new(value), Cell::new(operand)];
    current().say(word, &registers, Location::caller());
    registers[0].get()
}

/// A warp word whose operand names a lane.
#[inline(always)]
#[track_caller]
fn warp_lane(word: Word, value: u32, operand: u32) -> u32 {
    if operand as usize >= LANES {
        current().violate(Fault::NoSuchLane { word, operand }, Location::caller());
    }
    warp(word, value, operand)
}

#[inline(always)]
#[track_caller]
pub fn shuffle_xor(value: u32, mask: u32) -> u32 {
    warp_lane(Word::ShuffleXor, value, mask)
}

#[inline(always)]
#[track_caller]
pub fn shuffle_down(value: u32, delta: u32) -> u32 {
    warp_lane(Word::ShuffleDown, value, delta)
}

#[inline(always)]
#[track_caller]
pub fn shuffle_up(value: u32, delta: u32) -> u32 {
    warp_lane(Word::ShuffleUp, value, delta)
}

#[inline(always)]
#[track_caller]
pub fn shuffle_idx(value: u32, lane: u32) -> u32 {
    warp_lane(Word::ShuffleIdx, value, lane)
}

#[inline(always)]
#[track_caller]
pub fn ballot(predicate: bool) -> u32 {
    warp(Word::Ballot, u32::from(predicate), 0)
}

#[inline(always)]
#[track_caller]
pub fn all(predicate: bool) -> bool {
    warp(Word::All, u32::from(predicate), 0) != 0
}

#[inline(always)]
#[track_caller]
pub fn any(predicate: bool) -> bool {
    warp(Word::Any, u32::from(predicate), 0) != 0
}

#[inline(always)]
#[track_caller]
pub fn sync_warp() {
    warp(Word::Sync, 0, 0);
}

#[inline(always)]
#[track_caller]
pub fn warp_sum_f32(value: f32) -> f32 {
    f32::from_bits(warp(Word::SumF32, value.to_bits(), 0))
}

#[inline(always)]
#[track_caller]
pub fn warp_max_f32(value: f32) -> f32 {
    f32::from_bits(warp(Word::MaxF32, value.to_bits(), 0))
}

pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    a.mul_add(b, c)
}

pub fn exp2(x: f32) -> f32 {
    x.exp2()
}

pub fn exp2_flush(x: f32) -> f32 {
    let result = x.exp2();
    if result < f32::MIN_POSITIVE { 0.0 } else { result }
}

pub fn log2(x: f32) -> f32 {
    x.log2()
}

pub fn rsqrt(x: f32) -> f32 {
    1.0 / x.sqrt()
}

pub fn sqrt(x: f32) -> f32 {
    x.sqrt()
}

pub fn rcp(x: f32) -> f32 {
    1.0 / x
}

pub fn div(a: f32, b: f32) -> f32 {
    a / b
}

pub fn round_to_i32(x: f32) -> i32 {
    x.round_ties_even() as i32
}

pub fn dp4a(a: u32, b: u32, c: i32) -> i32 {
    let products = a.to_le_bytes().into_iter().zip(b.to_le_bytes());
    products.fold(c, |sum, (a, b)| sum.wrapping_add(i32::from(a.cast_signed()) * i32::from(b.cast_signed())))
}

pub fn dp4a_unsigned(a: u32, b: u32, c: i32) -> i32 {
    let products = a.to_le_bytes().into_iter().zip(b.to_le_bytes());
    products.fold(c, |sum, (a, b)| sum.wrapping_add(i32::from(a) * i32::from(b.cast_signed())))
}

pub fn byte_perm(a: u32, b: u32, selector: u32) -> u32 {
    let source = u64::from(a) | u64::from(b) << 32;
    let byte = |i: u32| {
        let (byte, sign) = ((source >> (8 * (selector >> (4 * i) & 7))) as u8, selector >> (4 * i + 3) & 1);
        if sign == 0 { byte } else { (byte as i8 >> 7) as u8 }
    };
    u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
}

pub fn f16_from_f32(x: f32) -> u16 {
    f16::from_f32(x).to_bits()
}

pub fn f16_to_f32(bits: u16) -> f32 {
    f16::from_bits(bits).to_f32()
}

pub fn bf16_from_f32(x: f32) -> u16 {
    bf16::from_f32(x).to_bits()
}

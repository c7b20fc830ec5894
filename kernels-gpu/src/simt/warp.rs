//! Words that the 32 threads of a warp say together. All 32 must come to the same call.

use super::target;

/// Threads of a warp.
pub const SIZE: u32 = 32;

/// Index of the thread in its warp.
#[inline(always)]
pub fn lane_id() -> u32 {
    target::thread_idx_x() % SIZE
}

/// Index of the warp in its block.
#[inline(always)]
pub fn warp_id() -> u32 {
    target::thread_idx_x() / SIZE
}

/// A value that lanes can exchange: a 32-bit number.
pub trait Lane: Copy {
    /// The bits.
    fn to_lane(self) -> u32;
    /// The value with these bits.
    fn from_lane(bits: u32) -> Self;
}

impl Lane for u32 {
    #[inline(always)]
    fn to_lane(self) -> u32 {
        self
    }

    #[inline(always)]
    fn from_lane(bits: u32) -> Self {
        bits
    }
}

impl Lane for i32 {
    #[inline(always)]
    fn to_lane(self) -> u32 {
        self.cast_unsigned()
    }

    #[inline(always)]
    fn from_lane(bits: u32) -> Self {
        bits.cast_signed()
    }
}

impl Lane for f32 {
    #[inline(always)]
    fn to_lane(self) -> u32 {
        self.to_bits()
    }

    #[inline(always)]
    fn from_lane(bits: u32) -> Self {
        f32::from_bits(bits)
    }
}

/// The value of lane `lane_id ^ mask`, `mask` in 0..32.
#[inline(always)]
#[track_caller]
pub fn shuffle_xor<T: Lane>(value: T, mask: u32) -> T {
    T::from_lane(target::shuffle_xor(value.to_lane(), mask))
}

/// The value of lane `lane_id + delta`; past the last lane, one's own.
#[inline(always)]
#[track_caller]
pub fn shuffle_down<T: Lane>(value: T, delta: u32) -> T {
    T::from_lane(target::shuffle_down(value.to_lane(), delta))
}

/// The value of lane `lane_id − delta`; before the first lane, one's own.
#[inline(always)]
#[track_caller]
pub fn shuffle_up<T: Lane>(value: T, delta: u32) -> T {
    T::from_lane(target::shuffle_up(value.to_lane(), delta))
}

/// The value of lane `lane`, in 0..32.
#[inline(always)]
#[track_caller]
pub fn shuffle_idx<T: Lane>(value: T, lane: u32) -> T {
    T::from_lane(target::shuffle_idx(value.to_lane(), lane))
}

/// Bit `l` is the predicate of lane `l`.
#[inline(always)]
#[track_caller]
pub fn ballot(predicate: bool) -> u32 {
    target::ballot(predicate)
}

/// Whether the predicate holds in every lane.
#[inline(always)]
#[track_caller]
pub fn all(predicate: bool) -> bool {
    target::all(predicate)
}

/// Whether the predicate holds in some lane.
#[inline(always)]
#[track_caller]
pub fn any(predicate: bool) -> bool {
    target::any(predicate)
}

/// Waits for the lanes of the warp; what they wrote before, all can read afterwards.
#[inline(always)]
#[track_caller]
pub fn sync() {
    target::sync_warp();
}

/// The sum over the warp, in every lane: a butterfly of steps 16, 8, 4, 2, 1.
#[inline(always)]
#[track_caller]
pub fn sum_f32(value: f32) -> f32 {
    target::warp_sum_f32(value)
}

/// The largest value of the warp, in every lane.
#[inline(always)]
#[track_caller]
pub fn max_f32(value: f32) -> f32 {
    target::warp_max_f32(value)
}

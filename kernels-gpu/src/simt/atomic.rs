//! Read-modify-write of one element, indivisible among all threads of the device. Relaxed order: they
//! order nothing else. Each returns the element's former value.

use super::{InOut, Tile};

/// Memory with atomic operations: [`InOut`] and [`Tile`].
pub trait Target<T> {
    /// `memory[i] += value`
    fn add(self, i: usize, value: T) -> T;
    /// `memory[i] = max(memory[i], value)`
    fn max(self, i: usize, value: T) -> T;
    /// `if memory[i] == expected { memory[i] = new }`
    fn cas(self, i: usize, expected: T, new: T) -> T;
}

/// Memory with atomic addition of floating-point numbers: [`InOut`] and [`Tile`].
pub trait FloatTarget {
    /// `memory[i] += value`
    fn add(self, i: usize, value: f32) -> f32;
}

macro_rules! target {
    ($view:ident) => {
        impl Target<u32> for $view<u32> {
            #[inline(always)]
            #[track_caller]
            fn add(self, i: usize, value: u32) -> u32 {
                self.0.atomic_add_u32(i, value)
            }

            #[inline(always)]
            #[track_caller]
            fn max(self, i: usize, value: u32) -> u32 {
                self.0.atomic_max_u32(i, value)
            }

            #[inline(always)]
            #[track_caller]
            fn cas(self, i: usize, expected: u32, new: u32) -> u32 {
                self.0.atomic_cas_u32(i, expected, new)
            }
        }

        impl FloatTarget for $view<f32> {
            #[inline(always)]
            #[track_caller]
            fn add(self, i: usize, value: f32) -> f32 {
                self.0.atomic_add_f32(i, value)
            }
        }
    };
}

target!(InOut);
target!(Tile);

/// Adds to a floating-point number. The order of additions, and so the rounding, differs from run to run.
#[inline(always)]
#[track_caller]
pub fn add_f32(memory: impl FloatTarget, i: usize, value: f32) -> f32 {
    memory.add(i, value)
}

/// Adds to an integer, wrapping.
#[inline(always)]
#[track_caller]
pub fn add_u32(memory: impl Target<u32>, i: usize, value: u32) -> u32 {
    memory.add(i, value)
}

/// Replaces an integer by a larger one.
#[inline(always)]
#[track_caller]
pub fn max_u32(memory: impl Target<u32>, i: usize, value: u32) -> u32 {
    memory.max(i, value)
}

/// Replaces an integer that equals `expected`.
#[inline(always)]
#[track_caller]
pub fn cas_u32(memory: impl Target<u32>, i: usize, expected: u32, new: u32) -> u32 {
    memory.cas(i, expected, new)
}

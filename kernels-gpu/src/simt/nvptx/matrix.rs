//! Matrix words of a warp. All of them are assembly with side effects, which the build makes convergent: LLVM's
//! intrinsics for `mma` are pure, so that LLVM might move one into a branch that not all lanes take.

use core::arch::asm;

use super::memory::{Local, shared_address};
use crate::simt::Bits16;

// SAFETY of every word below: that all 32 lanes come to it together, and that rows lie in the tile on 16 bytes, is
// the kernel's promise, which the emulator checks.

/// `ldmatrix` of X matrices: X registers.
macro_rules! ldmatrix {
    ($count:literal, $trans:literal, $address:expr, $registers:literal, $($i:literal)*) => {{
        let mut fragments = [0u32; 4];
        // SAFETY: see above.
        unsafe {
            asm!(
                concat!("ldmatrix.sync.aligned.m8n8.", $count, $trans, ".shared.b16 {{", $registers, "}}, [{address}];"),
                $(lateout(reg32) fragments[$i],)*
                address = in(reg32) $address,
                options(nostack, preserves_flags)
            );
        }
        fragments
    }};
}

/// `stmatrix` of X matrices: X registers.
#[cfg(oxwarp_sm = "90a")]
macro_rules! stmatrix {
    ($count:literal, $trans:literal, $address:expr, $fragments:expr, $registers:literal, $($i:literal)*) => {
        // SAFETY: see above.
        unsafe {
            asm!(
                concat!("stmatrix.sync.aligned.m8n8.", $count, $trans, ".shared.b16 [{address}], {{", $registers, "}};"),
                $(in(reg32) $fragments[$i],)*
                address = in(reg32) $address,
                options(nostack, preserves_flags)
            );
        }
    };
}

impl<T: Bits16> Local<T> {
    #[inline(always)]
    pub fn ldmatrix<const X: usize>(self, row: usize, transposed: bool) -> [u32; X] {
        let address = shared_address(self.element(row));
        let fragments = match (X, transposed) {
            (1, false) => ldmatrix!("x1", "", address, "{}", 0),
            (1, true) => ldmatrix!("x1", ".trans", address, "{}", 0),
            (2, false) => ldmatrix!("x2", "", address, "{}, {}", 0 1),
            (2, true) => ldmatrix!("x2", ".trans", address, "{}, {}", 0 1),
            (_, false) => ldmatrix!("x4", "", address, "{}, {}, {}, {}", 0 1 2 3),
            (_, true) => ldmatrix!("x4", ".trans", address, "{}, {}, {}, {}", 0 1 2 3),
        };
        core::array::from_fn(|i| fragments[i])
    }

    #[cfg(oxwarp_sm = "90a")]
    #[inline(always)]
    pub fn stmatrix<const X: usize>(self, row: usize, fragments: [u32; X], transposed: bool) {
        let address = shared_address(self.element(row));
        match (X, transposed) {
            (1, false) => stmatrix!("x1", "", address, fragments, "{}", 0),
            (1, true) => stmatrix!("x1", ".trans", address, fragments, "{}", 0),
            (2, false) => stmatrix!("x2", "", address, fragments, "{}, {}", 0 1),
            (2, true) => stmatrix!("x2", ".trans", address, fragments, "{}, {}", 0 1),
            (_, false) => stmatrix!("x4", "", address, fragments, "{}, {}, {}, {}", 0 1 2 3),
            (_, true) => stmatrix!("x4", ".trans", address, fragments, "{}, {}, {}, {}", 0 1 2 3),
        }
    }

    /// By ordinary stores: each lane learns the rows of its elements from the lanes that pass them.
    #[cfg(not(oxwarp_sm = "90a"))]
    #[inline(always)]
    pub fn stmatrix<const X: usize>(self, row: usize, fragments: [u32; X], transposed: bool) {
        use super::{shuffle_idx, thread_idx_x};

        let (group, first) = (thread_idx_x() % 32 / 4, thread_idx_x() % 4 * 2);
        let mut matrix = 0;
        while matrix < X {
            let fragment = fragments[matrix];
            let row_of = |lane: u32| shuffle_idx(row as u32, matrix as u32 * 8 + lane) as usize;
            if transposed {
                let (low, high) = (row_of(first), row_of(first + 1));
                self.store_bits(low + group as usize, fragment as u16);
                self.store_bits(high + group as usize, (fragment >> 16) as u16);
            } else {
                self.store_bits(row_of(group) + first as usize, fragment);
            }
            matrix += 1;
        }
    }
}

/// `mma` of 16 × 8 results, of which each lane has four.
macro_rules! mma {
    ($name:ident, $shape:literal, $types:literal, $sum:ty) => {
        #[inline(always)]
        pub fn $name(a: [u32; 4], b: [u32; 2], c: [$sum; 4]) -> [$sum; 4] {
            let [mut d0, mut d1, mut d2, mut d3] = c;
            // SAFETY: see above.
            unsafe {
                asm!(
                    concat!(
                        "mma.sync.aligned.", $shape, ".row.col.", $types,
                        " {{{d0}, {d1}, {d2}, {d3}}}, {{{a0}, {a1}, {a2}, {a3}}}, {{{b0}, {b1}}}, {{{d0}, {d1}, {d2}, {d3}}};"
                    ),
                    d0 = inout(reg32) d0,
                    d1 = inout(reg32) d1,
                    d2 = inout(reg32) d2,
                    d3 = inout(reg32) d3,
                    a0 = in(reg32) a[0],
                    a1 = in(reg32) a[1],
                    a2 = in(reg32) a[2],
                    a3 = in(reg32) a[3],
                    b0 = in(reg32) b[0],
                    b1 = in(reg32) b[1],
                    options(nomem, nostack, preserves_flags)
                );
            }
            [d0, d1, d2, d3]
        }
    };
}

mma!(mma_m16n8k16_f16, "m16n8k16", "f32.f16.f16.f32", f32);
mma!(mma_m16n8k16_bf16, "m16n8k16", "f32.bf16.bf16.f32", f32);
mma!(mma_m16n8k32_s8, "m16n8k32", "s32.s8.s8.s32", i32);

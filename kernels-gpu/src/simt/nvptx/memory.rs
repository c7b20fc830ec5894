//! Loads, stores and atomics on global and shared memory.

use core::mem::transmute_copy;

use crate::simt::Element;
use crate::simt::shared::TILE_ALIGN;

/// Two registers of one vector access.
#[repr(simd)]
#[derive(Clone, Copy)]
struct U32x2([u32; 2]);

/// Four registers of one vector access.
#[repr(simd)]
#[derive(Clone, Copy)]
struct U32x4([u32; 4]);

/// What `shim.ll` returns as `{ i64, i64 }`. (Of larger structs, and of vectors, Rust and LLVM disagree on the
/// type, which would keep the call from being inlined.)
#[repr(C)]
struct Pair(u64, u64);

unsafe extern "unadjusted" {
    // shim.ll: the address spaces of these are found by inlining.
    safe fn oxwarp_shared_base() -> *mut u8;
    safe fn oxwarp_shared_address(address: *const u8) -> u32;
    fn oxwarp_prefetch(address: *const u8);
    fn oxwarp_ld_stream_u32(address: *const u8) -> u32;
    fn oxwarp_ld_stream_u32x2(address: *const u8) -> u64;
    fn oxwarp_ld_stream_u32x4(address: *const u8) -> Pair;
    fn oxwarp_atomic_add_f32(address: *mut u8, value: f32) -> f32;
    fn oxwarp_atomic_add_u32(address: *mut u8, value: u32) -> u32;
    fn oxwarp_atomic_max_u32(address: *mut u8, value: u32) -> u32;
    fn oxwarp_atomic_cas_u32(address: *mut u8, expected: u32, new: u32) -> u32;
}

/// An array in global memory: a kernel's parameter.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Global<T>(*mut T);

/// An array in shared memory.
#[derive(Clone, Copy)]
pub struct Local<T>(*mut T);

/// Where the next tile starts.
pub struct Carver {
    offset: usize,
}

impl Carver {
    #[inline(always)]
    pub fn new() -> Self {
        Self { offset: 0 }
    }

    #[inline(always)]
    pub fn tile<T: Element>(&mut self, n: usize) -> Local<T> {
        let start = self.offset;
        self.offset = (start + n * size_of::<T>()).next_multiple_of(TILE_ALIGN);
        Local(oxwarp_shared_base().wrapping_add(start).cast())
    }

    #[cfg(oxwarp_sm = "90a")]
    #[inline(always)]
    pub fn align(&mut self, bytes: usize) {
        self.offset = self.offset.next_multiple_of(bytes);
    }
}

// SAFETY of every access below: the kernel's promise that `i` lies inside the array and is aligned for the
// access, which the emulator checks.

/// One access of `N` elements at `address`.
///
/// # Safety
/// `address` points to `N` elements in global or shared memory, and is a multiple of their size.
#[inline(always)]
unsafe fn load<T: Element, const N: usize>(address: *const T) -> [T; N] {
    // SAFETY: the caller's promise; elements are plain bits.
    unsafe {
        match const { access_bytes::<T, N>() } {
            1 => transmute_copy(&address.cast::<u8>().read()),
            2 => transmute_copy(&address.cast::<u16>().read()),
            4 => transmute_copy(&address.cast::<u32>().read()),
            8 => transmute_copy(&address.cast::<U32x2>().read()),
            _ => transmute_copy(&address.cast::<U32x4>().read()),
        }
    }
}

/// One access of `N` elements at `address`.
///
/// # Safety
/// As [`load`].
#[inline(always)]
unsafe fn store<T: Element, const N: usize>(address: *mut T, values: [T; N]) {
    // SAFETY: the caller's promise; elements are plain bits.
    unsafe {
        match const { access_bytes::<T, N>() } {
            1 => address.cast::<u8>().write(transmute_copy(&values)),
            2 => address.cast::<u16>().write(transmute_copy(&values)),
            4 => address.cast::<u32>().write(transmute_copy(&values)),
            8 => address.cast::<U32x2>().write(transmute_copy(&values)),
            _ => address.cast::<U32x4>().write(transmute_copy(&values)),
        }
    }
}

/// Bytes of an access, if one instruction can do it.
const fn access_bytes<T, const N: usize>() -> usize {
    let bytes = N * size_of::<T>();
    assert!(matches!(bytes, 1 | 2 | 4 | 8 | 16), "an access has 1, 2, 4, 8 or 16 bytes");
    bytes
}

impl<T: Element> Global<T> {
    /// Where element `i` lies, if there is one.
    #[inline(always)]
    pub fn element(self, i: usize) -> *mut T {
        self.0.wrapping_add(i)
    }

    #[inline(always)]
    pub fn load<const N: usize>(self, i: usize) -> [T; N] {
        // SAFETY: see above.
        unsafe { load(self.0.add(i)) }
    }

    #[inline(always)]
    pub fn store<const N: usize>(self, i: usize, values: [T; N]) {
        // SAFETY: see above.
        unsafe { store(self.0.add(i), values) }
    }

    #[inline(always)]
    pub fn prefetch(self, i: usize) {
        // SAFETY: see above; nothing is read.
        unsafe { oxwarp_prefetch(self.0.add(i).cast()) }
    }

    #[inline(always)]
    pub fn load_stream<const N: usize>(self, i: usize) -> [T; N] {
        // SAFETY: see above; elements are plain bits.
        unsafe {
            let address = self.0.add(i).cast::<u8>();
            match const { access_bytes::<T, N>() } {
                4 => transmute_copy(&oxwarp_ld_stream_u32(address)),
                8 => transmute_copy(&oxwarp_ld_stream_u32x2(address)),
                16 => transmute_copy(&oxwarp_ld_stream_u32x4(address)),
                _ => load(self.0.add(i)),
            }
        }
    }
}

/// The address in shared memory, as instructions that LLVM does not know take it.
#[inline(always)]
pub fn shared_address<T>(address: *const T) -> u32 {
    oxwarp_shared_address(address.cast())
}

#[cfg(oxwarp_sm = "90a")]
impl<T> Local<T> {
    /// The array from element `i` on.
    #[inline(always)]
    pub fn skip(self, i: usize) -> Self {
        Local(self.0.wrapping_add(i))
    }
}

impl<T: Element> Local<T> {
    /// Where element `i` lies.
    #[inline(always)]
    pub fn element(self, i: usize) -> *mut T {
        self.0.wrapping_add(i)
    }

    /// Sets the elements from `i` on to the bits of a value, which is aligned there.
    #[cfg(not(oxwarp_sm = "90a"))]
    #[inline(always)]
    pub fn store_bits<U>(self, i: usize, bits: U) {
        // SAFETY: see above.
        unsafe { self.element(i).cast::<U>().write(bits) }
    }

    #[inline(always)]
    pub fn load<const N: usize>(self, i: usize) -> [T; N] {
        // SAFETY: see above.
        unsafe { load(self.0.add(i)) }
    }

    #[inline(always)]
    pub fn store<const N: usize>(self, i: usize, values: [T; N]) {
        // SAFETY: see above.
        unsafe { store(self.0.add(i), values) }
    }
}

macro_rules! atomics {
    ($array:ident) => {
        impl $array<u32> {
            #[inline(always)]
            pub fn atomic_add_u32(self, i: usize, value: u32) -> u32 {
                // SAFETY: see above.
                unsafe { oxwarp_atomic_add_u32(self.0.add(i).cast(), value) }
            }

            #[inline(always)]
            pub fn atomic_max_u32(self, i: usize, value: u32) -> u32 {
                // SAFETY: see above.
                unsafe { oxwarp_atomic_max_u32(self.0.add(i).cast(), value) }
            }

            #[inline(always)]
            pub fn atomic_cas_u32(self, i: usize, expected: u32, new: u32) -> u32 {
                // SAFETY: see above.
                unsafe { oxwarp_atomic_cas_u32(self.0.add(i).cast(), expected, new) }
            }
        }

        impl $array<f32> {
            #[inline(always)]
            pub fn atomic_add_f32(self, i: usize, value: f32) -> f32 {
                // SAFETY: see above.
                unsafe { oxwarp_atomic_add_f32(self.0.add(i).cast(), value) }
            }
        }
    };
}

atomics!(Global);
atomics!(Local);

/// Little-endian words of bytes.
#[inline(always)]
pub fn words<const B: usize, const W: usize>(bytes: [u8; B]) -> [u32; W] {
    const { assert!(B == 4 * W) };
    // SAFETY: as many plain bytes; the GPU is little-endian.
    unsafe { transmute_copy(&bytes) }
}

/// Little-endian bytes of words.
#[inline(always)]
pub fn bytes<const W: usize, const B: usize>(words: [u32; W]) -> [u8; B] {
    const { assert!(B == 4 * W) };
    // SAFETY: as many plain bytes; the GPU is little-endian.
    unsafe { transmute_copy(&words) }
}

//! Views and tiles: handles whose every access is checked.

use std::marker::PhantomData;
use std::panic::Location;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::block::{BlockState, current};
use super::check::{COPY_ENGINE, Carved, GlobalAccess, Piece, SharedAccess, check_global, place};
use super::phase::Barriers;
use super::run::Param;
use super::violation::{Access, Fault, View};
use crate::simt::Element;
use crate::simt::shared::TILE_ALIGN;

/// An array in global memory: a kernel's parameter.
pub struct Global<T> {
    base: *mut u8,
    len: usize,
    param: *const Param,
    marker: PhantomData<T>,
}

impl<T> Clone for Global<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Global<T> {}

/// An array in shared memory of the running block.
pub struct Local<T> {
    base: *mut u8,
    len: usize,
    number: u32,
    checked: bool,
    marker: PhantomData<T>,
}

impl<T> Clone for Local<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Local<T> {}

/// Where the next tile starts.
pub struct Carver {
    offset: usize,
}

impl Carver {
    pub fn new() -> Self {
        Self { offset: 0 }
    }

    #[track_caller]
    pub fn tile<T: Element>(&mut self, n: usize) -> Local<T> {
        let thread = current();
        let number = thread.n_tiles.get();
        thread.n_tiles.set(number + 1);
        let start = self.offset;
        let end = start + n * size_of::<T>();
        let stated = thread.launched().meta.shared_bytes as usize;
        if end > stated {
            let view = View::Tile(number);
            thread.violate(Fault::SharedOverflow { view, end, stated }, Location::caller());
        }
        self.offset = end.next_multiple_of(TILE_ALIGN);
        let (block, checked) = (thread.block(), thread.launched().checked);
        if checked {
            let tile = Carved { start, end, element_bytes: size_of::<T>() };
            block.shadow.carve(thread, number, tile, Location::caller());
        }
        Local { base: block.shared.wrapping_add(start), len: n, number, checked, marker: PhantomData }
    }
}

impl Carver {
    /// Goes on at the next multiple of so many bytes.
    pub fn align(&mut self, bytes: usize) {
        self.offset = self.offset.next_multiple_of(bytes);
    }
}

impl<T: Element> Global<T> {
    /// The array that is parameter `index` of the running launch.
    pub(super) fn of_param(index: usize) -> Self {
        let param = current().launched().param(index);
        Self { base: param.base, len: param.bytes / size_of::<T>(), param, marker: PhantomData }
    }

    fn param(&self) -> &Param {
        // SAFETY: the parameters live as long as the launch, for which alone views are made.
        unsafe { &*self.param }
    }

    fn view(self) -> View {
        View::Param(self.param().name)
    }

    /// Address of element `i`, after checking an access of `N` elements there.
    #[inline(always)]
    #[track_caller]
    fn at<const N: usize>(self, i: usize, access: Access) -> *mut u8 {
        check_place::<T, N>(self.base, self.len, i, || self.view());
        let address = self.base.wrapping_add(i * size_of::<T>());
        if self.param().watched {
            let access = GlobalAccess { access, index: i, count: N, element_bytes: size_of::<T>() };
            check_global(current(), self.param(), access, Location::caller());
        }
        address
    }

    #[inline(always)]
    #[track_caller]
    pub fn load<const N: usize>(self, i: usize) -> [T; N] {
        // SAFETY: `at` checked bounds and alignment.
        unsafe { read_shared_between_threads(self.at::<N>(i, Access::Read)) }
    }

    #[inline(always)]
    #[track_caller]
    pub fn prefetch(self, i: usize) {
        check_place::<T, 1>(self.base, self.len, i, || self.view());
    }

    #[inline(always)]
    #[track_caller]
    pub fn load_stream<const N: usize>(self, i: usize) -> [T; N] {
        if self.param().may_be_written {
            let fault = Fault::StreamOfWritten { view: self.view(), index: i };
            current().violate(fault, Location::caller());
        }
        self.load::<N>(i)
    }

    #[inline(always)]
    #[track_caller]
    pub fn store<const N: usize>(self, i: usize, values: [T; N]) {
        // SAFETY: `at` checked bounds and alignment.
        unsafe { write_shared_between_threads(self.at::<N>(i, Access::Write), values) }
    }
}

impl<T: Element> Local<T> {
    /// Number of elements.
    pub fn len(self) -> usize {
        self.len
    }

    /// First byte of element `i`, of shared memory.
    pub fn start(self, i: usize) -> usize {
        self.base.addr() - current().block().shared.addr() + i * size_of::<T>()
    }

    pub fn view(self) -> View {
        View::Tile(self.number)
    }

    /// Address of element `i`, after checking an access of `N` elements there.
    #[inline(always)]
    #[track_caller]
    pub(super) fn at<const N: usize>(self, i: usize, access: Access) -> *mut u8 {
        check_place::<T, N>(self.base, self.len, i, || self.view());
        let address = self.base.wrapping_add(i * size_of::<T>());
        if self.checked {
            let thread = current();
            let access = self.access::<N>(address, i, access);
            thread.block().shadow.check(thread, access, Location::caller());
        }
        address
    }

    /// An access of `N` elements at element `i`, which has that address.
    #[inline(always)]
    pub(super) fn access<const N: usize>(self, address: *mut u8, i: usize, access: Access) -> SharedAccess {
        let start = address.addr() - current().block().shared.addr();
        let (tile, element_bytes) = (self.number, size_of::<T>());
        SharedAccess { access, tile, start, index: i, count: N, element_bytes }
    }

    /// Checks a read of element `i` of the same array in the shared memory of a block of the cluster.
    #[track_caller]
    pub(super) fn check_at(self, block: &BlockState, i: usize) {
        check_place::<T, 1>(self.base, self.len, i, || self.view());
        if self.checked {
            let address = self.base.wrapping_add(i * size_of::<T>());
            block.shadow.check(current(), self.access::<1>(address, i, Access::Read), Location::caller());
        }
    }

    #[track_caller]
    pub fn store_async<const N: usize>(
        self,
        rank: u32,
        i: usize,
        values: [T; N],
        barriers: Barriers,
        at: usize,
    ) {
        const { assert!(N * size_of::<T>() == TILE_ALIGN, "such a store has 16 bytes") };
        let thread = current();
        let peer = thread.peer(rank, Location::caller());
        check_place::<T, N>(self.base, self.len, i, || self.view());
        let piece = Piece { view: self.view(), index: i, start: self.start(i) };
        // It is written when it is asked for, but as by the copy engine: nobody knows that who has not waited.
        let (agent, mut done) = (place(thread.rank, COPY_ENGINE), 0);
        if self.checked {
            let time = peer.clock.agent_acts(agent);
            peer.shadow.engine_writes(thread, time, piece, Location::caller());
            peer.cluster.touch(agent, time);
            done = time + 1;
        }
        // SAFETY: in bounds of the tile, which lies at the same place in every block; all blocks of the cluster run on
        // this thread of the machine.
        unsafe { peer.shared.wrapping_add(piece.start).cast::<[T; N]>().write_unaligned(values) }
        barriers.copied(peer, at, TILE_ALIGN as u32, (agent, done));
    }

    #[inline(always)]
    #[track_caller]
    pub fn load<const N: usize>(self, i: usize) -> [T; N] {
        // SAFETY: `at` checked the bounds; elements are plain bits; the block runs on one thread.
        unsafe { self.at::<N>(i, Access::Read).cast::<[T; N]>().read_unaligned() }
    }

    #[inline(always)]
    #[track_caller]
    pub fn store<const N: usize>(self, i: usize, values: [T; N]) {
        // SAFETY: as in `load`.
        unsafe { self.at::<N>(i, Access::Write).cast::<[T; N]>().write_unaligned(values) }
    }
}

/// Bounds and alignment of an access of `N` elements at element `i`.
#[inline(always)]
#[track_caller]
fn check_place<T, const N: usize>(base: *mut u8, len: usize, i: usize, view: impl Fn() -> View) {
    const {
        assert!(matches!(N * size_of::<T>(), 1 | 2 | 4 | 8 | 16), "an access has 1, 2, 4, 8 or 16 bytes");
    }
    if i >= len || len - i < N {
        let fault = Fault::OutOfBounds { view: view(), index: i, count: N, len };
        current().violate(fault, Location::caller());
    }
    let access_bytes = N * size_of::<T>();
    if N > 1 && !(base.addr() + i * size_of::<T>()).is_multiple_of(access_bytes) {
        let fault = Fault::Misaligned { view: view(), index: i, access_bytes };
        current().violate(fault, Location::caller());
    }
}

/// Reads `N` elements by atomic accesses, since other threads of the machine run other blocks.
///
/// # Safety
/// `address` points to `N` live elements and is a multiple of their size.
#[inline(always)]
pub unsafe fn read_shared_between_threads<T: Element, const N: usize>(address: *mut u8) -> [T; N] {
    let mut bits = [0u64; 2];
    // SAFETY: the caller's promise; an access of 16 bytes is done as two of 8.
    unsafe {
        match N * size_of::<T>() {
            1 => bits[0] = u64::from(AtomicU8::from_ptr(address).load(Relaxed)),
            2 => bits[0] = u64::from(AtomicU16::from_ptr(address.cast()).load(Relaxed)),
            4 => bits[0] = u64::from(AtomicU32::from_ptr(address.cast()).load(Relaxed)),
            8 => bits[0] = AtomicU64::from_ptr(address.cast()).load(Relaxed),
            _ => {
                bits[0] = AtomicU64::from_ptr(address.cast()).load(Relaxed);
                bits[1] = AtomicU64::from_ptr(address.cast::<u64>().add(1)).load(Relaxed);
            }
        }
        std::mem::transmute_copy(&bits)
    }
}

/// Writes `N` elements by atomic accesses, since other threads of the machine run other blocks.
///
/// # Safety
/// As [`read_shared_between_threads`].
#[inline(always)]
pub unsafe fn write_shared_between_threads<T: Element, const N: usize>(address: *mut u8, values: [T; N]) {
    let mut bits = [0u64; 2];
    // SAFETY: `N` elements are at most the 16 bytes of `bits`; the rest is the caller's promise.
    unsafe {
        (&raw mut bits).cast::<[T; N]>().write(values);
        match N * size_of::<T>() {
            1 => AtomicU8::from_ptr(address).store(bits[0] as u8, Relaxed),
            2 => AtomicU16::from_ptr(address.cast()).store(bits[0] as u16, Relaxed),
            4 => AtomicU32::from_ptr(address.cast()).store(bits[0] as u32, Relaxed),
            8 => AtomicU64::from_ptr(address.cast()).store(bits[0], Relaxed),
            _ => {
                AtomicU64::from_ptr(address.cast()).store(bits[0], Relaxed);
                AtomicU64::from_ptr(address.cast::<u64>().add(1)).store(bits[1], Relaxed);
            }
        }
    }
}

macro_rules! atomics {
    ($array:ident) => {
        impl $array<u32> {
            #[track_caller]
            fn atomic(&self, i: usize) -> &AtomicU32 {
                // SAFETY: `at` checked the bounds; u32 arrays are aligned.
                unsafe { AtomicU32::from_ptr(self.at::<1>(i, Access::Atomic).cast()) }
            }

            #[track_caller]
            pub fn atomic_add_u32(self, i: usize, value: u32) -> u32 {
                self.atomic(i).fetch_add(value, Relaxed)
            }

            #[track_caller]
            pub fn atomic_max_u32(self, i: usize, value: u32) -> u32 {
                self.atomic(i).fetch_max(value, Relaxed)
            }

            #[track_caller]
            pub fn atomic_cas_u32(self, i: usize, expected: u32, new: u32) -> u32 {
                self.atomic(i).compare_exchange(expected, new, Relaxed, Relaxed).unwrap_or_else(|old| old)
            }
        }

        impl $array<f32> {
            #[track_caller]
            pub fn atomic_add_f32(self, i: usize, value: f32) -> f32 {
                // SAFETY: `at` checked the bounds; f32 arrays are aligned.
                let bits = unsafe { AtomicU32::from_ptr(self.at::<1>(i, Access::Atomic).cast()) };
                let add = |old: u32| Some((f32::from_bits(old) + value).to_bits());
                let old = bits.fetch_update(Relaxed, Relaxed, add).unwrap_or_else(|old| old);
                f32::from_bits(old)
            }
        }
    };
}

atomics!(Global);
atomics!(Local);

/// Little-endian words of bytes.
pub fn words<const B: usize, const W: usize>(bytes: [u8; B]) -> [u32; W] {
    const { assert!(B == 4 * W) };
    std::array::from_fn(|w| u32::from_le_bytes(std::array::from_fn(|byte| bytes[4 * w + byte])))
}

/// Little-endian bytes of words.
pub fn bytes<const W: usize, const B: usize>(words: [u32; W]) -> [u8; B] {
    const { assert!(B == 4 * W) };
    std::array::from_fn(|byte| words[byte / 4].to_le_bytes()[byte % 4])
}

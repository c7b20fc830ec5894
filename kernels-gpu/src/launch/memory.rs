//! Spans of a device's memory, with the borrow rules of slices.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;

use crate::simt::Element;

/// What memory is used for, so that a device can report where it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Tensors of the model file.
    Weights,
    /// Keys and values of past tokens.
    KvCache,
    /// Intermediate results of a forward pass.
    Activations,
    /// Anything else: tables, tokens, scratch space.
    Other,
}

/// A place for one element in device memory. Of size zero, so that a reference to a slice of them is
/// a bare (address, length) pair which promises nothing about memory that the host can read.
struct Place<T>(PhantomData<T>);

/// `len` elements in some device's memory, starting at some address: `[T]`, but elsewhere.
///
/// References to it obey the borrow rules, so a kernel cannot be given one span as input and as output.
#[repr(transparent)]
pub struct DeviceSlice<T>([Place<T>]);

// SAFETY: a DeviceSlice is an address and a length; the host never accesses elements through it.
unsafe impl<T: Element> Send for DeviceSlice<T> {}
// SAFETY: as above.
unsafe impl<T: Element> Sync for DeviceSlice<T> {}

impl<T: Element> DeviceSlice<T> {
    /// The span of `len` elements from `address` on.
    ///
    /// # Safety
    /// The span belongs to one live allocation of a device, aligned for `T`, for all of `'a`, and is not
    /// reachable through a `DeviceSlice` that is in use and borrowed exclusively.
    pub unsafe fn from_raw<'a>(address: u64, len: usize) -> &'a Self {
        let places = std::ptr::slice_from_raw_parts(place::<T>(address), len);
        // SAFETY: `Place` has size zero and alignment one, so any non-null address is valid for any number of
        // them; `DeviceSlice` is a transparent wrapper. The rest is the caller's promise.
        unsafe { &*(places as *const Self) }
    }

    /// The span of `len` elements from `address` on, borrowed exclusively.
    ///
    /// # Safety
    /// As [`DeviceSlice::from_raw`], and no other `DeviceSlice` that is in use overlaps it.
    pub unsafe fn from_raw_mut<'a>(address: u64, len: usize) -> &'a mut Self {
        let places = std::ptr::slice_from_raw_parts_mut(place::<T>(address).cast_mut(), len);
        // SAFETY: as in `from_raw`.
        unsafe { &mut *(places as *mut Self) }
    }

    /// Address of the first element, in the device's address space.
    pub fn address(&self) -> u64 {
        self.0.as_ptr().addr() as u64
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of bytes.
    pub fn size_bytes(&self) -> usize {
        self.len() * size_of::<T>()
    }

    /// The elements of `range`.
    ///
    /// # Panics
    /// If the range does not lie inside.
    pub fn slice(&self, range: Range<usize>) -> &Self {
        let address = self.address_of(&range);
        // SAFETY: inside `self`, whose borrow the result shares.
        unsafe { Self::from_raw(address, range.len()) }
    }

    /// The elements of `range`, borrowed exclusively.
    ///
    /// # Panics
    /// If the range does not lie inside.
    pub fn slice_mut(&mut self, range: Range<usize>) -> &mut Self {
        let address = self.address_of(&range);
        // SAFETY: inside `self`, whose exclusive borrow the result takes over.
        unsafe { Self::from_raw_mut(address, range.len()) }
    }

    /// The first `mid` elements and the rest, to be borrowed independently.
    ///
    /// # Panics
    /// If `mid` is above the length.
    pub fn split_at_mut(&mut self, mid: usize) -> (&mut Self, &mut Self) {
        let (first, second) = (0..mid, mid..self.len());
        let (first_address, second_address) = (self.address_of(&first), self.address_of(&second));
        // SAFETY: two disjoint parts of `self`, whose exclusive borrow they take over.
        unsafe {
            (Self::from_raw_mut(first_address, first.len()), Self::from_raw_mut(second_address, second.len()))
        }
    }

    /// The same bytes as elements of another type.
    ///
    /// # Panics
    /// If the address is not aligned for `U`, or the bytes are no whole number of `U`.
    pub fn cast<U: Element>(&self) -> &DeviceSlice<U> {
        let n = self.n_cast::<U>();
        // SAFETY: the same span, aligned (checked), any bytes are an element; shares the borrow of `self`.
        unsafe { DeviceSlice::from_raw(self.address(), n) }
    }

    /// The same bytes as elements of another type, borrowed exclusively.
    ///
    /// # Panics
    /// If the address is not aligned for `U`, or the bytes are no whole number of `U`.
    pub fn cast_mut<U: Element>(&mut self) -> &mut DeviceSlice<U> {
        let n = self.n_cast::<U>();
        // SAFETY: as in `cast`; takes over the exclusive borrow of `self`.
        unsafe { DeviceSlice::from_raw_mut(self.address(), n) }
    }

    fn n_cast<U: Element>(&self) -> usize {
        let (address, bytes, size) = (self.address(), self.size_bytes(), size_of::<U>());
        assert!(
            address.is_multiple_of(size as u64) && bytes.is_multiple_of(size),
            "{bytes} bytes at address {address:#x} are no aligned array of {size}-byte elements"
        );
        bytes / size
    }

    fn address_of(&self, range: &Range<usize>) -> u64 {
        assert!(
            range.start <= range.end && range.end <= self.len(),
            "elements {range:?} of a device slice of {} elements",
            self.len()
        );
        self.address() + (range.start * size_of::<T>()) as u64
    }
}

fn place<T>(address: u64) -> *const Place<T> {
    assert!(address != 0, "device memory has no null address");
    std::ptr::without_provenance(usize::try_from(address).expect("device addresses have 64 bits"))
}

impl<T: Element> std::fmt::Debug for DeviceSlice<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceSlice({:#x}, {} × {})", self.address(), self.len(), std::any::type_name::<T>())
    }
}

/// The part of a device that buffers return their memory to.
pub trait DeviceMemory: Send + Sync {
    /// Frees an allocation.
    ///
    /// # Safety
    /// `address` and `bytes` are those of one allocation of this device, which nothing uses any more.
    unsafe fn free(&self, address: u64, bytes: usize);
}

/// An allocation of `len` elements in some device's memory; frees itself. Dereferences to [`DeviceSlice`].
pub struct DeviceBuffer<T: Element> {
    address: u64,
    len: usize,
    memory: Arc<dyn DeviceMemory>,
    marker: PhantomData<T>,
}

impl<T: Element> DeviceBuffer<T> {
    /// Takes over an allocation of `len` elements at `address`, to be freed by `memory`. A device that
    /// allocates nothing for zero elements passes any non-null aligned address.
    ///
    /// # Safety
    /// The allocation belongs to nobody else, lives until `memory` frees it, and is aligned for `T`.
    ///
    /// # Panics
    /// If the address is null.
    pub unsafe fn from_raw(address: u64, len: usize, memory: Arc<dyn DeviceMemory>) -> Self {
        assert!(address != 0, "device memory has no null address");
        Self { address, len, memory, marker: PhantomData }
    }
}

impl<T: Element> Deref for DeviceBuffer<T> {
    type Target = DeviceSlice<T>;

    fn deref(&self) -> &DeviceSlice<T> {
        // SAFETY: `from_raw`'s caller promised the allocation, which lives as long as `self`.
        unsafe { DeviceSlice::from_raw(self.address, self.len) }
    }
}

impl<T: Element> DerefMut for DeviceBuffer<T> {
    fn deref_mut(&mut self) -> &mut DeviceSlice<T> {
        // SAFETY: as in `deref`; the exclusive borrow of `self` makes the span's exclusive.
        unsafe { DeviceSlice::from_raw_mut(self.address, self.len) }
    }
}

impl<T: Element> Drop for DeviceBuffer<T> {
    fn drop(&mut self) {
        // SAFETY: `from_raw`'s caller gave the allocation to this buffer alone.
        unsafe { self.memory.free(self.address, self.len * size_of::<T>()) }
    }
}

impl<T: Element> std::fmt::Debug for DeviceBuffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&**self, f)
    }
}

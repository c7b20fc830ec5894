//! The emulator's memory: allocations by address.

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock};

use super::check::{CellStore, WrittenMap};
use crate::launch::DeviceMemory;

/// Allocations are aligned as `cuMemAlloc` aligns them.
const ALIGN: usize = 256;

/// All live allocations of an emulator.
#[derive(Default)]
pub struct Heap {
    allocations: RwLock<BTreeMap<u64, Arc<Allocation>>>,
}

/// Memory that kernels and copies access by atomic operations or under exclusive borrows only.
pub struct Allocation {
    base: NonNull<u8>,
    layout: Layout,
    /// What has been written; in checked mode.
    pub written: WrittenMap,
    /// Who accessed what last; in checked mode.
    pub cells: CellStore,
    /// The last launch that may have written it, counted from 1.
    pub last_writer: AtomicU64,
}

// SAFETY: plain memory; see `Allocation` for how it is accessed.
unsafe impl Send for Allocation {}
// SAFETY: as above.
unsafe impl Sync for Allocation {}

impl Allocation {
    /// Memory of undefined content. (Bytes of ones: as floating-point numbers, NaN.) None if there is none left.
    fn new(bytes: usize) -> Option<Self> {
        // At least one byte, so that every allocation has an address of its own.
        let layout = Layout::from_size_align(bytes.max(1), ALIGN).ok()?;
        // SAFETY: the size is not zero.
        let base = NonNull::new(unsafe { std::alloc::alloc(layout) })?;
        // SAFETY: just allocated with this size.
        unsafe { base.write_bytes(0xff, layout.size()) };
        let written = WrittenMap::new(layout.size());
        Some(Self { base, layout, written, cells: CellStore::default(), last_writer: AtomicU64::new(0) })
    }

    /// First byte.
    pub fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Number of bytes.
    pub fn size_bytes(&self) -> usize {
        self.layout.size()
    }

    /// Address of the first byte.
    pub fn address(&self) -> u64 {
        self.base.addr().get() as u64
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { std::alloc::dealloc(self.base.as_ptr(), self.layout) }
    }
}

impl Heap {
    /// A new allocation. None if there is no memory left.
    pub fn alloc(&self, bytes: usize) -> Option<Arc<Allocation>> {
        let allocation = Arc::new(Allocation::new(bytes)?);
        let mut allocations = self.allocations.write().unwrap_or_else(PoisonError::into_inner);
        allocations.insert(allocation.address(), Arc::clone(&allocation));
        Some(allocation)
    }

    /// The allocation that encloses a span.
    pub fn find(&self, address: u64, bytes: usize) -> Option<Arc<Allocation>> {
        let allocations = self.allocations.read().unwrap_or_else(PoisonError::into_inner);
        let (_, allocation) = allocations.range(..=address).next_back()?;
        let offset = usize::try_from(address - allocation.address()).ok()?;
        (offset.checked_add(bytes)? <= allocation.size_bytes()).then(|| Arc::clone(allocation))
    }
}

impl DeviceMemory for Heap {
    unsafe fn free(&self, address: u64, _bytes: usize) {
        // A launch that still runs on another thread holds the allocation until it has ended.
        self.allocations.write().unwrap_or_else(PoisonError::into_inner).remove(&address);
    }
}

//! A GPU's context and its memory, accounted by purpose.

use std::collections::HashMap;
use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use cust::context::Context;
use cust::sys::CUcontext;
use kernels_gpu::launch::{DeviceMemory, Purpose};

use super::Error;
use super::error::CallError;
use super::raw::{self, DevicePointer};

/// Address of an allocation of zero bytes: never used, not null, aligned.
const EMPTY: DevicePointer = 256;

const CUDA_ERROR_OUT_OF_MEMORY: u32 = 2;

/// Bytes of GPU memory held now, by purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VramUse {
    pub weights: u64,
    pub kv_cache: u64,
    pub activations: u64,
    pub other: u64,
}

impl VramUse {
    /// The sum.
    pub fn total(&self) -> u64 {
        self.weights + self.kv_cache + self.activations + self.other
    }

    fn of(&mut self, purpose: Purpose) -> &mut u64 {
        match purpose {
            Purpose::Weights => &mut self.weights,
            Purpose::KvCache => &mut self.kv_cache,
            Purpose::Activations => &mut self.activations,
            Purpose::Other => &mut self.other,
        }
    }
}

/// The primary context of one GPU, and what is allocated in it. Lives as long as its last buffer.
pub(super) struct Vram {
    handle: CUcontext,
    /// Released when this is dropped, which is last of all. Nothing is called on it, so nobody waits for the lock.
    context: ManuallyDrop<Mutex<Context>>,
    allocations: Mutex<Allocations>,
    /// Whether a kernel's fault has ended the context.
    lost: AtomicBool,
}

#[derive(Default)]
struct Allocations {
    by_address: HashMap<DevicePointer, (Purpose, u64)>,
    in_use: VramUse,
}

// SAFETY: a context's handle may be used by any thread that has made it current, which `bind` does.
unsafe impl Send for Vram {}
// SAFETY: as above; the driver locks what it shares between threads.
unsafe impl Sync for Vram {}

impl Vram {
    pub(super) fn new(context: Context) -> Arc<Self> {
        let handle = context.as_raw();
        let context = ManuallyDrop::new(Mutex::new(context));
        Arc::new(Vram { handle, context, allocations: Mutex::default(), lost: AtomicBool::new(false) })
    }

    /// Makes the context the calling thread's. Every call of the driver needs it; it takes some ten nanoseconds.
    pub(super) fn bind(&self) -> Result<(), CallError> {
        // SAFETY: the context lives as long as `self`.
        unsafe { raw::cuCtxSetCurrent(self.handle) }
    }

    /// The result of a call that may report what kernels did before it; `kernel` if it can only have been this one.
    pub(super) fn check(
        &self,
        result: Result<(), CallError>,
        kernel: Option<&'static str>,
    ) -> Result<(), Error> {
        result.map_err(|source| match Error::from(source) {
            Error::KernelFault { source, .. } => {
                self.lost.store(true, Ordering::Relaxed);
                Error::KernelFault { kernel, source }
            }
            other => other,
        })
    }

    /// Runs a call that frees something. Its failure has nobody to be told to; and in a lost context nothing is freed:
    /// the driver gets all of it back when the process ends, and must not be asked before.
    pub(super) fn tear_down(&self, free: impl FnOnce() -> Result<(), CallError>) {
        if !self.lost.load(Ordering::Relaxed) && self.bind().is_ok() {
            let _ = free();
        }
    }

    /// Allocates plain memory of the GPU; the driver aligns it to 256 bytes at least.
    pub(super) fn alloc(&self, n_bytes: u64, purpose: Purpose) -> Result<DevicePointer, Error> {
        if n_bytes == 0 {
            return Ok(EMPTY);
        }
        self.bind()?;
        let mut address = 0;
        let size = usize::try_from(n_bytes).expect("the host has 64-bit addresses");
        // SAFETY: `address` is a place for a pointer.
        match unsafe { raw::cuMemAlloc_v2(&mut address, size) } {
            Ok(()) => {}
            Err(error) if error.code == CUDA_ERROR_OUT_OF_MEMORY => {
                let available = self.available_bytes()?;
                return Err(Error::OutOfMemory { purpose, required: n_bytes, available });
            }
            Err(error) => return Err(error.into()),
        }
        assert!(address != 0 && address.is_multiple_of(256), "the driver allocated at {address:#x}");
        let mut allocations = self.allocations();
        allocations.by_address.insert(address, (purpose, n_bytes));
        *allocations.in_use.of(purpose) += n_bytes;
        Ok(address)
    }

    /// Bytes that the driver could still give, to this process or another.
    pub(super) fn available_bytes(&self) -> Result<u64, Error> {
        self.bind()?;
        let (free, _total) = cust::memory::mem_get_info().map_err(|e| cust_error("cuMemGetInfo_v2", e))?;
        Ok(free as u64)
    }

    pub(super) fn in_use(&self) -> VramUse {
        self.allocations().in_use
    }

    fn allocations(&self) -> MutexGuard<'_, Allocations> {
        self.allocations.lock().expect("no panic while the accounts are open")
    }
}

impl DeviceMemory for Vram {
    unsafe fn free(&self, address: u64, n_bytes: usize) {
        if n_bytes == 0 {
            return;
        }
        {
            let mut allocations = self.allocations();
            let found = allocations.by_address.remove(&address);
            let Some((purpose, size)) = found.filter(|&(_, size)| size == n_bytes as u64) else {
                panic!("free of {n_bytes} bytes at {address:#x}, where {found:?} was allocated");
            };
            *allocations.in_use.of(purpose) -= size;
        }
        // SAFETY: one live allocation of this context, used by nobody (the caller's promise).
        self.tear_down(|| unsafe { raw::cuMemFree_v2(address) });
    }
}

impl Drop for Vram {
    fn drop(&mut self) {
        if !*self.lost.get_mut() {
            // SAFETY: dropped once, here, and not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.context) };
        }
    }
}

/// Page-locked host memory, which the GPU's copy engines read without the driver's help.
pub(super) struct Pinned {
    start: *mut u8,
    n_bytes: usize,
    vram: Arc<Vram>,
}

// SAFETY: plain memory that this value owns.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Allocates `n_bytes` bytes, all zero.
    pub(super) fn new(vram: &Arc<Vram>, n_bytes: usize) -> Result<Self, Error> {
        vram.bind()?;
        let mut start: *mut c_void = std::ptr::null_mut();
        // SAFETY: `start` is a place for a pointer.
        unsafe { raw::cuMemHostAlloc(&mut start, n_bytes, raw::HOST_ALLOC_PORTABLE) }?;
        let start = start.cast::<u8>();
        // SAFETY: the driver gave `n_bytes` writable bytes.
        unsafe { start.write_bytes(0, n_bytes) };
        Ok(Pinned { start, n_bytes, vram: Arc::clone(vram) })
    }

    pub(super) fn as_ptr(&self) -> *const u8 {
        self.start
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start
    }

    pub(super) fn len(&self) -> usize {
        self.n_bytes
    }

    /// The bytes.
    ///
    /// # Safety
    /// No copy that is still queued reads or writes them.
    pub(super) unsafe fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: initialised in `new`, owned by `self`; not touched by the GPU (the caller's promise).
        unsafe { std::slice::from_raw_parts_mut(self.start, self.n_bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`; whoever queues copies waits for them first.
        self.vram.tear_down(|| unsafe { raw::cuMemFreeHost(self.start.cast()) });
    }
}

/// The error of a call that went through cust.
pub(super) fn cust_error(call: &'static str, error: cust::error::CudaError) -> Error {
    match CallError::check(call, error as u32) {
        Err(error) => error.into(),
        Ok(()) => unreachable!("cust reports only failures"),
    }
}

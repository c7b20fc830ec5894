//! A queue of work for the GPU.

use std::sync::Arc;

use cust::sys::CUstream;

use super::vram::Vram;
use super::{Error, raw};

/// What is queued here runs in order, and beside what is queued in other streams.
pub(super) struct Stream {
    handle: CUstream,
    vram: Arc<Vram>,
}

// SAFETY: the handle belongs to a context, which any thread may use that has made it current.
unsafe impl Send for Stream {}

impl Stream {
    /// A stream that waits for no other. (Those of cust wait for the context's default stream.)
    pub(super) fn new(vram: &Arc<Vram>) -> Result<Self, Error> {
        vram.bind()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: `handle` is a place for a handle.
        unsafe { raw::cuStreamCreate(&mut handle, raw::STREAM_NON_BLOCKING) }?;
        Ok(Stream { handle, vram: Arc::clone(vram) })
    }

    pub(super) fn raw(&self) -> CUstream {
        self.handle
    }

    /// Waits for everything queued so far; `kernel` if only this one can have been.
    pub(super) fn synchronize(&self, kernel: Option<&'static str>) -> Result<(), Error> {
        self.vram.bind()?;
        // SAFETY: a stream of this context.
        let waited = unsafe { raw::cuStreamSynchronize(self.handle) };
        self.vram.check(waited, kernel)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: ours alone; the driver lets the work that is queued end first.
        self.vram.tear_down(|| unsafe { raw::cuStreamDestroy_v2(self.handle) });
    }
}

//! Marks in a stream of work: to wait for, and to measure time between.

use std::sync::Arc;

use cust::sys::CUevent;

use super::vram::Vram;
use super::{Cuda, Error, raw};

/// A point in a stream: everything queued before [`Cuda::record`].
pub struct Event {
    handle: CUevent,
    vram: Arc<Vram>,
}

// SAFETY: the handle belongs to a context, which any thread may use that has made it current.
unsafe impl Send for Event {}

impl Cuda {
    /// Marks the end of what has been queued so far.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn record(&self) -> Result<Event, Error> {
        let event = Event::new(self)?;
        self.record_again(&event)?;
        Ok(event)
    }

    /// Moves a mark to the end of what has been queued so far.
    pub(super) fn record_again(&self, event: &Event) -> Result<(), Error> {
        self.vram().bind()?;
        // SAFETY: an event and a stream of one context.
        Ok(unsafe { raw::cuEventRecord(event.handle, self.raw_stream()) }?)
    }
}

impl Event {
    /// A mark that nothing waits for until it is recorded.
    pub(super) fn new(device: &Cuda) -> Result<Self, Error> {
        let vram = Arc::clone(device.vram());
        vram.bind()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: `handle` is a place for a handle; flags 0 measure time and spin while waiting.
        unsafe { raw::cuEventCreate(&mut handle, 0) }?;
        Ok(Event { handle, vram })
    }

    /// Waits until the GPU has come this far; at once if the mark was never recorded.
    ///
    /// # Errors
    /// Those of the kernels before it.
    pub fn wait(&self) -> Result<(), Error> {
        self.vram.bind()?;
        // SAFETY: an event of this context.
        let waited = unsafe { raw::cuEventSynchronize(self.handle) };
        self.vram.check(waited, None)
    }

    /// Microseconds of the GPU's clock from `start` to here, in steps of half a microsecond. Waits for both.
    ///
    /// # Errors
    /// Those of the kernels before them.
    pub fn elapsed_us(&self, start: &Event) -> Result<f64, Error> {
        start.wait()?;
        self.wait()?;
        let mut milliseconds = 0.0;
        // SAFETY: `milliseconds` is a place for a number; both events have been recorded and have happened.
        unsafe { raw::cuEventElapsedTime(&mut milliseconds, start.handle, self.handle) }?;
        Ok(f64::from(milliseconds) * 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: ours alone; the driver keeps what a queued record still needs.
        self.vram.tear_down(|| unsafe { raw::cuEventDestroy_v2(self.handle) });
    }
}

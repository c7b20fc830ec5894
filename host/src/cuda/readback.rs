//! A few numbers on their way back to the host while the GPU works on.

use std::marker::PhantomData;

use kernels_gpu::launch::DeviceSlice;
use kernels_gpu::simt::Element;

use super::event::Event;
use super::vram::Pinned;
use super::{Cuda, Error, raw};

/// A place on the host that a device's span is copied to without waiting.
pub struct Readback<T: Element> {
    pinned: Pinned,
    arrived: Event,
    elements: PhantomData<T>,
}

impl<T: Element> Readback<T> {
    /// A place for `n` elements.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn new(device: &Cuda, n: usize) -> Result<Self, Error> {
        let pinned = Pinned::new(device.vram(), n * size_of::<T>())?;
        Ok(Readback { pinned, arrived: Event::new(device)?, elements: PhantomData })
    }

    /// Queues the copy of `src`, behind everything launched before.
    ///
    /// # Errors
    /// Those of the driver.
    ///
    /// # Panics
    /// If `src` has not as many elements as this place.
    pub fn start(&mut self, device: &Cuda, src: &DeviceSlice<T>) -> Result<(), Error> {
        let n_bytes = self.pinned.len();
        assert!(src.size_bytes() == n_bytes, "{} bytes to a place for {n_bytes}", src.size_bytes());
        // A copy that was started before and never asked for must not overlap the new one.
        self.arrived.wait()?;
        device.vram().bind()?;
        // SAFETY: both spans have this size; the place lives until the copy has ended, since `Drop` waits.
        unsafe {
            raw::cuMemcpyDtoHAsync_v2(
                self.pinned.as_mut_ptr().cast(),
                src.address(),
                n_bytes,
                device.raw_stream(),
            )
        }?;
        device.record_again(&self.arrived)
    }

    /// Waits for the copy that was started last.
    ///
    /// # Errors
    /// Those of the kernels before it.
    pub fn finish(&mut self) -> Result<&[T], Error> {
        self.arrived.wait()?;
        // SAFETY: the copy has been waited for.
        let bytes = unsafe { self.pinned.as_mut_slice() };
        Ok(bytemuck::cast_slice(bytes))
    }
}

impl<T: Element> Drop for Readback<T> {
    fn drop(&mut self) {
        // Where waiting fails the context is lost, and no copy will come.
        let _ = self.arrived.wait();
    }
}

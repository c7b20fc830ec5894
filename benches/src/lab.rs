//! The machine that everything is measured on, and what cases take from it.

use kernels_gpu::launch::{Device, DeviceBuffer, DeviceSlice, Purpose};
use kernels_gpu::simt::Element;
use oxwarp::cuda::Cuda;

use crate::data::{Number, Pool, n_sets};
use crate::error::Result;
use crate::vendor::Vendor;

/// A GPU, random numbers on it, and the vendor's library.
pub struct Lab {
    /// The library, or why there is none. It goes before the device that it works on.
    pub vendor: Result<Vendor, String>,
    pub device: Cuda,
    pool: Pool,
}

impl Lab {
    /// # Errors
    /// Those of the device.
    pub fn new(device: Cuda, vendor: impl FnOnce(&Cuda) -> Result<Vendor, String>) -> Result<Self> {
        let pool = Pool::new(&device)?;
        let vendor = vendor(&device);
        Ok(Lab { device, pool, vendor })
    }

    /// Sets of inputs of this size that a case should have.
    pub fn n_sets(&self, set_bytes: usize) -> usize {
        n_sets(set_bytes, self.device.info().l2_bytes)
    }

    pub fn n_multiprocessors(&self) -> usize {
        self.device.info().n_multiprocessors as usize
    }

    /// Normal numbers for each set.
    ///
    /// # Errors
    /// Those of the device.
    pub fn normal<T: Number>(&self, n_sets: usize, n: usize) -> Result<Sets<T>> {
        // Sets begin on 256 bytes, as allocations do.
        let stride = n.next_multiple_of(256 / size_of::<T>());
        Ok(Sets { buffer: self.pool.normal(&self.device, n_sets * stride)?, n, stride })
    }

    /// Zeros for each set: places for results.
    ///
    /// # Errors
    /// Those of the device.
    pub fn zeros<T: Element>(&self, n_sets: usize, n: usize) -> Result<Sets<T>> {
        let stride = n.next_multiple_of(256 / size_of::<T>());
        Ok(Sets { buffer: self.device.zeros(n_sets * stride, Purpose::Other)?, n, stride })
    }

    /// The same values for all sets.
    ///
    /// # Errors
    /// Those of the device.
    pub fn upload<T: Element>(&self, values: &[T]) -> Result<DeviceBuffer<T>> {
        Ok(self.device.upload(values, Purpose::Other)?)
    }
}

/// A span for each set of inputs.
pub struct Sets<T: Element> {
    buffer: DeviceBuffer<T>,
    n: usize,
    stride: usize,
}

impl<T: Element> Sets<T> {
    pub fn get(&self, set: usize) -> &DeviceSlice<T> {
        self.buffer.slice(set * self.stride..set * self.stride + self.n)
    }

    pub fn get_mut(&mut self, set: usize) -> &mut DeviceSlice<T> {
        self.buffer.slice_mut(set * self.stride..set * self.stride + self.n)
    }

    pub fn size_bytes(&self) -> u64 {
        self.buffer.size_bytes() as u64
    }
}

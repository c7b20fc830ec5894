//! What a device must be able to do for a model to run on it, beyond single launches and copies.

use kernels_gpu::launch::{Device, DeviceSlice};
use kernels_gpu::simt::emulator::{self, Emulator};

use super::weights::{Upload, UploadChunk};
use crate::backend::Error;
use crate::gguf::FileError;

/// Words that one [`Accelerator::Reading`] brings to the host.
pub const READING_WORDS: usize = 2;

/// A device for models. The GPU does these things well; for the emulator simple ways are good enough.
pub trait Accelerator: Device + Send + Sized {
    /// Steps that may be queued while the host waits for the oldest one's result.
    const STEPS_AHEAD: usize;
    /// A place on the host for words that are on their way.
    type Reading: Send;
    /// Uploads under way.
    type Uploads: Send;

    /// A name for messages: "cuda:0 NVIDIA H100".
    fn name(&self) -> String;

    /// Blocks that run at the same time, roughly: the number of multiprocessors.
    fn n_multiprocessors(&self) -> usize;

    /// Whether kernels for compute capability 9.0 are what to use.
    fn is_hopper(&self) -> bool;

    /// Bytes that can be allocated; none where that is not known.
    fn available_bytes(&self) -> Result<Option<u64>, Self::Error>;

    /// From here on launches may be collected, and nothing but launches may come.
    fn begin_batch(&self);

    /// Sees to it that everything since `begin_batch` is run. Batches of equal `key` are probably equal.
    fn end_batch(&self, key: u64) -> Result<(), Self::Error>;

    /// Forgets what was collected, if anything was.
    fn abandon_batch(&self);

    /// A place for words.
    fn new_reading(&self) -> Result<Self::Reading, Self::Error>;

    /// Lets `words` be copied to the host after everything launched before.
    fn start_reading(&self, reading: &mut Self::Reading, words: &DeviceSlice<u32>)
    -> Result<(), Self::Error>;

    /// Waits for the words.
    fn finish_reading(&self, reading: &mut Self::Reading) -> Result<[u32; READING_WORDS], Self::Error>;

    /// Prepares for uploads in chunks of `chunk_bytes` bytes.
    fn start_uploads(&self, chunk_bytes: usize) -> Result<Self::Uploads, Self::Error>;

    /// Brings a matrix from the file to its place, now or soon.
    fn upload_matrix(&self, uploads: &mut Self::Uploads, upload: Upload) -> Result<(), Error>;

    /// Waits until all matrices are in their places.
    fn finish_uploads(&self, uploads: Self::Uploads) -> Result<(), Error>;

    /// Device memory that uploads take for themselves.
    fn upload_bytes(&self, chunk_bytes: usize) -> u64;
}

/// A device's error as a back end's.
pub fn device_error<E: std::error::Error + Send + Sync + 'static>(error: E) -> Error {
    Error::Device(Box::new(error))
}

/// Reads a chunk of a matrix from the file.
pub fn read_chunk(upload: &Upload, chunk: &UploadChunk, buffer: &mut [u8]) -> Result<(), FileError> {
    upload.bytes.file().read_at(chunk.file_offset, buffer)
}

impl Accelerator for Emulator {
    const STEPS_AHEAD: usize = 0;
    type Reading = [u32; READING_WORDS];
    /// Bytes of a chunk.
    type Uploads = usize;

    fn name(&self) -> String {
        "emulator".into()
    }

    /// Small, so that kernels with a choice of grids take more than one round; more than one, so that they take several
    /// blocks.
    fn n_multiprocessors(&self) -> usize {
        4
    }

    /// It runs those kernels too, but at a tenth of the speed of the others.
    fn is_hopper(&self) -> bool {
        false
    }

    fn available_bytes(&self) -> Result<Option<u64>, emulator::Error> {
        Ok(None)
    }

    fn begin_batch(&self) {
        self.begin_batch();
    }

    fn end_batch(&self, _key: u64) -> Result<(), emulator::Error> {
        self.end_batch();
        Ok(())
    }

    fn abandon_batch(&self) {
        self.end_batch();
    }

    fn new_reading(&self) -> Result<Self::Reading, emulator::Error> {
        Ok([0; READING_WORDS])
    }

    fn start_reading(
        &self,
        reading: &mut Self::Reading,
        words: &DeviceSlice<u32>,
    ) -> Result<(), emulator::Error> {
        self.copy_out(words, reading)
    }

    fn finish_reading(&self, reading: &mut Self::Reading) -> Result<[u32; READING_WORDS], emulator::Error> {
        Ok(*reading)
    }

    fn start_uploads(&self, chunk_bytes: usize) -> Result<usize, emulator::Error> {
        Ok(chunk_bytes)
    }

    fn upload_matrix(&self, chunk_bytes: &mut usize, mut upload: Upload) -> Result<(), Error> {
        let (format, shape) = (upload.format, upload.shape);
        let mut host = vec![0; *chunk_bytes];
        for chunk in upload.chunks(*chunk_bytes) {
            let host = &mut host[..chunk.n_bytes];
            read_chunk(&upload, &chunk, host).map_err(device_error)?;
            let matrix = upload.place.bytes_mut();
            if format.is_as_in_file() {
                let place = matrix.slice_mut(chunk.matrix_offset..chunk.matrix_offset + chunk.n_bytes);
                self.copy_in(place, host).map_err(device_error)?;
            } else {
                let staged = self.upload(host, kernels_gpu::launch::Purpose::Other).map_err(device_error)?;
                format.repack(self, matrix, &staged, chunk.stretches, shape).map_err(device_error)?;
            }
        }
        Ok(())
    }

    fn finish_uploads(&self, _: usize) -> Result<(), Error> {
        Ok(())
    }

    fn upload_bytes(&self, chunk_bytes: usize) -> u64 {
        chunk_bytes as u64
    }
}

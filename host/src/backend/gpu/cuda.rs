//! A GPU as an [`Accelerator`].

use std::sync::Arc;

use kernels_gpu::launch::DeviceSlice;

use super::accelerator::{Accelerator, READING_WORDS, device_error, read_chunk};
use super::weights::Upload;
use crate::backend::Error;
use crate::cuda::{self, Chunk, Cuda, Destination, Readback, Uploader, Version};

/// The only compute capability with these tensor cores.
const HOPPER: Version = Version::new(9, 0);

/// Threads that read a file: as many as there are cores, up to the number at which the link is full.
const UPLOAD_THREADS_MAX: usize = 8;

fn n_upload_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get()).min(UPLOAD_THREADS_MAX)
}

impl Accelerator for Cuda {
    const STEPS_AHEAD: usize = 2;
    type Reading = Readback<u32>;
    type Uploads = Uploader;

    fn name(&self) -> String {
        format!("cuda:{} {}", self.info().index, self.info().name)
    }

    fn n_multiprocessors(&self) -> usize {
        self.info().n_multiprocessors as usize
    }

    fn is_hopper(&self) -> bool {
        self.info().capability == HOPPER
    }

    fn available_bytes(&self) -> Result<Option<u64>, cuda::Error> {
        self.available_bytes().map(Some)
    }

    fn begin_batch(&self) {
        self.begin_batch();
    }

    fn end_batch(&self, key: u64) -> Result<(), cuda::Error> {
        self.end_batch(key)
    }

    fn abandon_batch(&self) {
        self.abandon_batch();
    }

    fn new_reading(&self) -> Result<Readback<u32>, cuda::Error> {
        Readback::new(self, READING_WORDS)
    }

    fn start_reading(
        &self,
        reading: &mut Readback<u32>,
        words: &DeviceSlice<u32>,
    ) -> Result<(), cuda::Error> {
        reading.start(self, words)
    }

    fn finish_reading(&self, reading: &mut Readback<u32>) -> Result<[u32; READING_WORDS], cuda::Error> {
        let words = reading.finish()?;
        Ok(words.try_into().expect("made for so many words"))
    }

    fn start_uploads(&self, chunk_bytes: usize) -> Result<Uploader, cuda::Error> {
        Uploader::start(self, n_upload_threads(), chunk_bytes)
    }

    fn upload_matrix(&self, uploads: &mut Uploader, upload: Upload) -> Result<(), Error> {
        let upload = Arc::new(upload);
        for chunk in upload.chunks(uploads.chunk_bytes()) {
            let read = {
                let upload = Arc::clone(&upload);
                Box::new(move |buffer: &mut [u8]| Ok(read_chunk(&upload, &chunk, buffer)?))
            };
            let destination = if upload.format.is_as_in_file() {
                let (block, offset) = upload.place.place();
                Destination::Memory(Arc::clone(block), offset + chunk.matrix_offset)
            } else {
                let upload = Arc::clone(&upload);
                Destination::Staged(Box::new(move |device, staged| {
                    let matrix = upload.place.bytes();
                    // SAFETY: chunks are repacked to disjoint parts of the matrix, which nobody uses before the uploads are
                    // finished (the promise of `Piece::alias`).
                    let matrix = unsafe { DeviceSlice::from_raw_mut(matrix.address(), matrix.len()) };
                    upload.format.repack(device, matrix, staged, chunk.stretches, upload.shape)
                }))
            };
            uploads.push(Chunk { n_bytes: chunk.n_bytes, read, destination }).map_err(device_error)?;
        }
        Ok(())
    }

    fn finish_uploads(&self, uploads: Uploader) -> Result<(), Error> {
        uploads.finish().map_err(device_error)
    }

    fn upload_bytes(&self, chunk_bytes: usize) -> u64 {
        Uploader::staging_bytes(n_upload_threads(), chunk_bytes)
    }
}

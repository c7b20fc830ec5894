//! Bytes on their way from a file to the GPU: several threads, each with a ring of pinned chunks and a stream of its own.
//!
//! A thread reads a chunk into page-locked memory, queues its copy and what has to be done with it on the GPU, and goes on
//! with the next slot of its ring; it waits only when the GPU has not finished with that slot's last chunk. So the
//! page cache, the link and the GPU work at the same time, and the threads' streams keep the link busy while kernels of
//! other chunks run.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use kernels_gpu::launch::{Device, DeviceBuffer, DeviceSlice, Purpose};

use super::event::Event;
use super::vram::Pinned;
use super::{Cuda, Error};

/// An error of the reader.
pub type ReadError = Box<dyn std::error::Error + Send + Sync>;

/// Fills a buffer.
pub type Read = Box<dyn FnOnce(&mut [u8]) -> Result<(), ReadError> + Send>;

/// Queues, in the given device's stream, what takes a chunk from where it was copied to.
pub type Take = Box<dyn FnOnce(&Cuda, &DeviceSlice<u8>) -> Result<(), Error> + Send>;

/// One piece of work of an [`Uploader`].
pub struct Chunk {
    /// Bytes to read; at most the uploader's chunk size.
    pub n_bytes: usize,
    /// Is given a buffer of `n_bytes` bytes.
    pub read: Read,
    pub destination: Destination,
}

/// Where a chunk goes.
pub enum Destination {
    /// To its place: from this byte of the buffer on.
    Memory(Arc<DeviceBuffer<u8>>, usize),
    /// To a staging buffer, where it stays until what `Take` has queued is done.
    Staged(Take),
}

/// Why an upload failed.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error(transparent)]
    Read(ReadError),
    #[error(transparent)]
    Device(#[from] Error),
    /// The error itself was given to an earlier caller.
    #[error("an earlier part of the upload has failed")]
    Stopped,
}

/// Threads that bring chunks to the GPU, in no particular order.
pub struct Uploader {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<(), Error>>>,
    chunk_bytes: usize,
}

struct Shared {
    state: Mutex<State>,
    /// A chunk has come, or none will come any more.
    more: Condvar,
    /// There is room in the queue, or nothing is queued and no thread is busy.
    less: Condvar,
}

#[derive(Default)]
struct State {
    chunks: VecDeque<Chunk>,
    closed: bool,
    /// Something has failed: no chunk is served any more.
    stopped: bool,
    /// What has failed first, until somebody was told.
    failure: Option<UploadError>,
}

impl State {
    fn check(&mut self) -> Result<(), UploadError> {
        match self.stopped {
            true => Err(self.failure.take().unwrap_or(UploadError::Stopped)),
            false => Ok(()),
        }
    }
}

/// Chunks that may wait for a thread. Enough that none idles; few enough that a failure shows soon.
const QUEUE_MAX: usize = 256;

/// Chunks of a thread that the GPU may be busy with.
const SLOTS: usize = 3;

impl Uploader {
    /// Starts `n_threads` threads with chunks of up to `chunk_bytes` bytes.
    ///
    /// # Errors
    /// Those of the driver.
    ///
    /// # Panics
    /// If one of the numbers is zero.
    pub fn start(device: &Cuda, n_threads: usize, chunk_bytes: usize) -> Result<Self, Error> {
        assert!(n_threads > 0 && chunk_bytes > 0, "{n_threads} threads, chunks of {chunk_bytes} bytes");
        let shared = Arc::new(Shared { state: Mutex::default(), more: Condvar::new(), less: Condvar::new() });
        let mut uploader = Uploader { shared, threads: Vec::new(), chunk_bytes };
        for _ in 0..n_threads {
            let device = device.fork()?;
            let shared = Arc::clone(&uploader.shared);
            uploader.threads.push(std::thread::spawn(move || shared.serve(device, chunk_bytes)));
        }
        Ok(uploader)
    }

    /// GPU memory that the uploader takes for itself.
    pub const fn staging_bytes(n_threads: usize, chunk_bytes: usize) -> u64 {
        (n_threads * SLOTS * chunk_bytes) as u64
    }

    /// The most bytes that a chunk can have.
    pub fn chunk_bytes(&self) -> usize {
        self.chunk_bytes
    }

    /// Queues a chunk; waits where too many are queued.
    ///
    /// # Errors
    /// The failure of an earlier chunk.
    ///
    /// # Panics
    /// If the chunk is too large.
    pub fn push(&self, chunk: Chunk) -> Result<(), UploadError> {
        assert!(
            chunk.n_bytes <= self.chunk_bytes,
            "{} bytes in chunks of {}",
            chunk.n_bytes,
            self.chunk_bytes
        );
        let mut state = self.shared.state();
        while state.chunks.len() >= QUEUE_MAX && !state.stopped {
            state = self.shared.less.wait(state).expect("no thread panics with the lock");
        }
        state.check()?;
        state.chunks.push_back(chunk);
        self.shared.more.notify_one();
        Ok(())
    }

    /// Waits until every chunk is in its place.
    ///
    /// # Errors
    /// The first failure.
    pub fn finish(mut self) -> Result<(), UploadError> {
        self.shared.close();
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(ended) => ended?,
                Err(panic) => resume_unwind(panic),
            }
        }
        self.shared.state().check()
    }
}

impl Drop for Uploader {
    /// Where `finish` was not called the rest of the queue is of no interest; but the threads must not outlive the files and
    /// buffers that their owner believes to be unused.
    fn drop(&mut self) {
        self.shared.state().chunks.clear();
        self.shared.close();
        for thread in self.threads.drain(..) {
            // A failure or panic of an upload that nobody waits for has nobody to be told to.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with the lock")
    }

    fn close(&self) {
        self.state().closed = true;
        self.more.notify_all();
    }

    /// The next chunk; none when the queue is closed and empty, or something has failed.
    fn next(&self) -> Option<Chunk> {
        let mut state = self.state();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(chunk) = state.chunks.pop_front() {
                self.less.notify_one();
                return Some(chunk);
            }
            if state.closed {
                return None;
            }
            state = self.more.wait(state).expect("no thread panics with the lock");
        }
    }

    fn fail(&self, error: UploadError) {
        let mut state = self.state();
        state.stopped = true;
        state.failure.get_or_insert(error);
        state.chunks.clear();
        self.less.notify_all();
        self.more.notify_all();
    }

    /// What a thread does, from the first chunk to the last.
    fn serve(&self, device: Cuda, chunk_bytes: usize) -> Result<(), Error> {
        let mut ring = Vec::new();
        let served = catch_unwind(AssertUnwindSafe(|| self.serve_ring(&device, &mut ring, chunk_bytes)));
        // Nothing of the ring may be freed while a copy uses it, and no chunk counts as arrived before it has.
        let waited = device.synchronize();
        match served {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.fail(error),
            Err(panic) => {
                self.fail(UploadError::Stopped);
                resume_unwind(panic);
            }
        }
        waited
    }

    fn serve_ring(&self, device: &Cuda, ring: &mut Vec<Slot>, chunk_bytes: usize) -> Result<(), UploadError> {
        let mut n_served = 0;
        while let Some(chunk) = self.next() {
            if ring.len() < SLOTS {
                ring.push(Slot::new(device, chunk_bytes)?);
            }
            ring[n_served % SLOTS].carry(device, chunk)?;
            n_served += 1;
        }
        Ok(())
    }
}

/// A place for one chunk on both sides of the link.
struct Slot {
    pinned: Pinned,
    staging: DeviceBuffer<u8>,
    /// Where the GPU has finished with the chunk.
    done: Event,
}

impl Slot {
    fn new(device: &Cuda, chunk_bytes: usize) -> Result<Self, Error> {
        let pinned = Pinned::new(device.vram(), chunk_bytes)?;
        let staging = device.alloc(chunk_bytes, Purpose::Other)?;
        Ok(Slot { pinned, staging, done: Event::new(device)? })
    }

    /// Brings a chunk on its way, when the slot's last one has arrived.
    fn carry(&mut self, device: &Cuda, chunk: Chunk) -> Result<(), UploadError> {
        self.done.wait()?;
        // SAFETY: the slot's last copy has been waited for.
        let bytes = &mut unsafe { self.pinned.as_mut_slice() }[..chunk.n_bytes];
        (chunk.read)(bytes).map_err(UploadError::Read)?;
        match chunk.destination {
            Destination::Memory(buffer, first_byte) => {
                let place = buffer.slice(first_byte..first_byte + chunk.n_bytes);
                // SAFETY: chunks have places of their own, which nobody uses before `finish`; and the slot waits for the
                // copy before it is filled again or freed.
                unsafe { device.copy_pinned(place, &self.pinned) }?;
            }
            Destination::Staged(take) => {
                let place = self.staging.slice(0..chunk.n_bytes);
                // SAFETY: the staging buffer is the slot's own, and its last chunk has been dealt with; as above.
                unsafe { device.copy_pinned(place, &self.pinned) }?;
                take(device, place)?;
            }
        }
        Ok(device.record_again(&self.done)?)
    }
}

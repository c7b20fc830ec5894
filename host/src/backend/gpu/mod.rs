//! The back end that launches kernels: on an NVIDIA GPU, or unchanged on the emulator.
//!
//! Weights stay packed, in the layout of `kernels_gpu::quant::layout`; activations are f32, keys and values f16. A step's
//! launches are handed to the device together ([`Accelerator::end_batch`]), which replays them as one graph where it
//! has seen the same list before. For that, everything that changes from step to step is in device memory: the tokens,
//! their positions, and the choice of the next.

mod accelerator;
mod attention;
mod buffer;
mod choose;
mod cuda;
mod format;
mod ops;
mod products;
mod prompts;
mod weights;

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use kernels_gpu::launch::{DeviceBuffer, DeviceSlice, Purpose};
use kernels_gpu::simt::f16;

use super::{Error, KvShape, MatrixSource, Memory, Step};
use crate::gguf::{GgmlType, MappedFile};

pub use accelerator::Accelerator;
use accelerator::device_error;
use buffer::Converted;
pub use buffer::GpuBuffer;
use choose::Choosing;
use format::Format;
use weights::{Arena, Piece, Upload};

/// How to use a device.
#[derive(Clone, Copy, Debug)]
pub struct GpuOptions {
    chunk_bytes: usize,
    is_hopper: Option<bool>,
}

/// A chunk size that no upload can work with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "chunks of {found} bytes are not possible; allowed: {} to {}",
    GpuOptions::MIN_CHUNK_BYTES,
    GpuOptions::MAX_CHUNK_BYTES
)]
pub struct ChunkSizeError {
    pub found: usize,
}

impl GpuOptions {
    /// The smallest chunk: below, copies are slow.
    pub const MIN_CHUNK_BYTES: usize = Upload::MIN_CHUNK_BYTES;
    /// The largest chunk: some dozens of them are locked in the host's memory while a model is loaded.
    pub const MAX_CHUNK_BYTES: usize = 64 << 20;

    /// Options with weights going to the device in chunks of `chunk_bytes`; by default 1 MiB.
    ///
    /// # Errors
    /// A size outside of the limits.
    pub fn with_chunk_bytes(chunk_bytes: usize) -> Result<Self, ChunkSizeError> {
        match (Self::MIN_CHUNK_BYTES..=Self::MAX_CHUNK_BYTES).contains(&chunk_bytes) {
            true => Ok(GpuOptions { chunk_bytes, ..GpuOptions::default() }),
            false => Err(ChunkSizeError { found: chunk_bytes }),
        }
    }

    /// The same with prompts going through the kernels for compute capability 9.0 (`true`) or those for every GPU (`false`);
    /// by default as it suits the device. The emulator runs both; a GPU of another kind refuses to launch the former.
    pub fn with_hopper_kernels(self, is_hopper: bool) -> Self {
        GpuOptions { is_hopper: Some(is_hopper), ..self }
    }
}

impl Default for GpuOptions {
    fn default() -> Self {
        GpuOptions { chunk_bytes: 1 << 20, is_hopper: None }
    }
}

/// A [`super::Backend`] on a device.
pub struct Gpu<D: Accelerator> {
    // Before all that frees memory: uploads that nobody waited for must end first.
    uploads: Option<D::Uploads>,
    /// What is being loaded.
    file: Option<Arc<MappedFile>>,
    device: D,
    options: GpuOptions,
    arena: Arena,
    /// Bytes of buffers handed out or kept, without the weights.
    kv_cache_bytes: u64,
    activation_bytes: u64,
    inputs: Inputs,
    /// Where attention leaves its parts, and a status of a choice: see `ops`.
    scratch: Scratch,
    /// Of each buffer that was made.
    converted: Vec<Converted>,
    /// For prompts on the tensor cores; none before a model is loaded.
    prompts: Option<prompts::Workspace>,
    /// The largest logits of parts of the vocabulary; made when tokens are first chosen.
    bests: Option<DeviceBuffer<u32>>, // [argmax_blocks(n_vocab), 2]
    /// What a sampler's stages work with; made when they first do.
    choosing: Option<Choosing>,
    /// Choices on their way to the host, oldest first; and places for more.
    readings: VecDeque<D::Reading>,
    idle_readings: Vec<D::Reading>,
}

/// What a step works on.
struct Inputs {
    /// The tokens, then their positions: one copy brings both.
    words: DeviceBuffer<u32>, // at least [2, n_tokens]
    n_tokens: usize,
    /// The token chosen and the status of the choice.
    chosen: DeviceBuffer<u32>, // [2]
    /// Whether a launch of this step chooses.
    chooses: bool,
}

impl Inputs {
    /// The first `n` tokens.
    fn tokens(&self, n: usize) -> &DeviceSlice<u32> {
        assert!(n <= self.n_tokens, "{n} tokens of {}", self.n_tokens);
        self.words.slice(0..n)
    }

    /// The positions of the first `n` tokens.
    fn positions(&self, n: usize) -> &DeviceSlice<u32> {
        assert!(n <= self.n_tokens, "{n} positions of {}", self.n_tokens);
        self.words.slice(self.n_tokens..self.n_tokens + n)
    }
}

/// Results between two launches of one op; grown where an op needs more.
#[derive(Default)]
struct Scratch {
    part_out: Option<DeviceBuffer<f32>>, // [n_tokens, n_heads, n_splits, head_dim]
    part_ml: Option<DeviceBuffer<f32>>,  // [n_tokens, n_heads, n_splits, 2]
    /// Buffers that launches of this step use, and that are too small for later ones.
    outgrown: Vec<DeviceBuffer<f32>>,
}

/// A weight matrix in a device's memory.
pub struct GpuMatrix {
    piece: Piece,
    format: Format,
    n_rows: usize,
    n_cols: usize,
}

/// A short f32 tensor in a device's memory.
pub struct GpuVector(Piece);

/// Keys and values of one layer: each [n_kv_heads, n_ctx, head_dim].
pub struct GpuKvLayer {
    k: DeviceBuffer<f16>,
    v: DeviceBuffer<f16>,
    shape: KvShape,
}

/// Device memory that must stay free beside a model: the driver's graphs, the parts of attention, tables.
const RESERVE_BYTES: u64 = 64 << 20;

/// Room in the arena for what the prediction does not count: the gaps behind small vectors.
const ARENA_SLACK_BYTES: usize = 256 << 10;

impl<D: Accelerator> Gpu<D> {
    /// A back end on `device`.
    ///
    /// # Errors
    /// Those of the device.
    pub fn new(device: D, options: GpuOptions) -> Result<Self, Error> {
        let inputs = Inputs {
            words: device.zeros(2, Purpose::Other).map_err(device_error)?,
            n_tokens: 1,
            chosen: device.zeros(2, Purpose::Other).map_err(device_error)?,
            chooses: false,
        };
        Ok(Gpu {
            uploads: None,
            file: None,
            device,
            options,
            arena: Arena::default(),
            kv_cache_bytes: 0,
            activation_bytes: 0,
            inputs,
            scratch: Scratch::default(),
            converted: Vec::new(),
            prompts: None,
            bests: None,
            choosing: None,
            readings: VecDeque::new(),
            idle_readings: Vec::new(),
        })
    }

    /// The device, for what only it can say.
    pub fn device(&self) -> &D {
        &self.device
    }

    fn is_hopper(&self) -> bool {
        self.options.is_hopper.unwrap_or(self.device.is_hopper())
    }

    /// The number of multiprocessors, if there are kernels for Hopper.
    fn hopper_multiprocessors(&self) -> Option<usize> {
        self.is_hopper().then(|| self.device.n_multiprocessors())
    }

    fn format(&self, tensor: &str, ty: GgmlType) -> Result<Format, Error> {
        Format::new(ty).ok_or_else(|| Error::UnsupportedType {
            device: self.device.name(),
            tensor: tensor.to_owned(),
            ty: ty.name(),
            supported: Format::supported(),
        })
    }

    /// Refuses what will not fit, and makes room for the weights.
    fn make_room(&mut self, need: &Memory) -> Result<(), Error> {
        if let Some(available) = self.device.available_bytes().map_err(device_error)? {
            let reserved = RESERVE_BYTES + self.device.upload_bytes(self.options.chunk_bytes);
            let available = available.saturating_sub(reserved);
            if need.total() > available {
                return Err(Error::DoesNotFit { device: self.device.name(), need: *need, available });
            }
        }
        let n_bytes = usize::try_from(need.weights).expect("it fits the memory") + ARENA_SLACK_BYTES;
        self.arena.reserve(&self.device, n_bytes).map_err(device_error)
    }

    fn start_matrix(&mut self, source: MatrixSource<'_>) -> Result<GpuMatrix, Error> {
        let MatrixSource { name, ty, n_rows, n_cols, bytes } = source;
        let format = self.format(name, ty)?;
        let shape = [n_rows, n_cols];
        let file_bytes = format.file_bytes(shape);
        assert!(bytes.range().len() == file_bytes, "{name}: {:?} is not {file_bytes} bytes", bytes.range());
        let piece = self.arena.carve(&self.device, format.matrix_bytes(shape)).map_err(device_error)?;
        // SAFETY: the contract of `Backend`: no op runs before `finish_loading`.
        let place = unsafe { piece.alias() };
        let uploads = match &mut self.uploads {
            Some(uploads) => uploads,
            none => none.insert(self.device.start_uploads(self.options.chunk_bytes).map_err(device_error)?),
        };
        self.file.get_or_insert_with(|| Arc::clone(bytes.file()));
        self.device.upload_matrix(uploads, Upload { bytes, format, shape, place })?;
        Ok(GpuMatrix { piece, format, n_rows, n_cols })
    }

    fn finish_uploads(&mut self) -> Result<(), Error> {
        if let Some(uploads) = self.uploads.take() {
            self.device.finish_uploads(uploads)?;
        }
        match self.file.take() {
            Some(file) => file.still_unchanged().map_err(device_error),
            None => Ok(()),
        }
    }

    fn new_vector(&mut self, values: &[f32]) -> Result<GpuVector, Error> {
        let mut piece = self.arena.carve(&self.device, size_of_val(values)).map_err(device_error)?;
        self.device.copy_in(piece.bytes_mut().cast_mut(), values).map_err(device_error)?;
        Ok(GpuVector(piece))
    }

    fn new_kv(&mut self, shape: KvShape) -> Result<GpuKvLayer, Error> {
        let head_dim = shape.head_dim;
        if !head_dim.is_multiple_of(8) || head_dim > ops::HEAD_DIM_MAX {
            return Err(Error::UnsupportedAttention {
                device: self.device.name(),
                n_heads: shape.n_kv_heads,
                head_dim,
                why: format!("a head must have a multiple of 8 elements, at most {}", ops::HEAD_DIM_MAX),
            });
        }
        let n = shape.n_kv_heads * shape.n_ctx * head_dim;
        let k = self.device.zeros(n, Purpose::KvCache).map_err(device_error)?;
        let v = self.device.zeros(n, Purpose::KvCache).map_err(device_error)?;
        self.kv_cache_bytes += (k.size_bytes() + v.size_bytes()) as u64;
        Ok(GpuKvLayer { k, v, shape })
    }

    /// Makes the tokens those of the next step.
    fn set_inputs(&mut self, tokens: &[u32], first_position: usize) -> Result<(), Error> {
        let first = format::u32_of(first_position);
        let positions = first..first + format::u32_of(tokens.len());
        let words: Vec<u32> = tokens.iter().copied().chain(positions).collect();
        let inputs = &mut self.inputs;
        if inputs.words.len() < words.len() {
            let capacity = words.len().next_power_of_two();
            inputs.words = self.device.zeros(capacity, Purpose::Other).map_err(device_error)?;
        }
        inputs.n_tokens = tokens.len();
        self.device.copy_in(inputs.words.slice_mut(0..words.len()), &words).map_err(device_error)
    }

    fn run_step(
        &mut self,
        step: Step,
        ops: impl FnOnce(&mut Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.inputs.chooses = false;
        if let Err(error) = self.run_batch(step, ops) {
            self.converted.iter_mut().for_each(Converted::forget);
            return Err(error);
        }
        // Freed by the device when the launches that use them have run.
        self.scratch.outgrown.clear();
        if self.inputs.chooses {
            let mut reading = match self.idle_readings.pop() {
                Some(reading) => reading,
                None => self.device.new_reading().map_err(device_error)?,
            };
            self.device.start_reading(&mut reading, &self.inputs.chosen).map_err(device_error)?;
            self.readings.push_back(reading);
        }
        Ok(())
    }

    fn run_batch(
        &mut self,
        step: Step,
        ops: impl FnOnce(&mut Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.device.begin_batch();
        if let Err(error) = ops(self) {
            self.device.abandon_batch();
            return Err(error);
        }
        let mut key = DefaultHasher::new();
        (step.ops, step.n_tokens).hash(&mut key);
        self.device.end_batch(key.finish()).map_err(device_error)
    }

    /// The oldest choice not yet reported, with its status.
    fn next_choice(&mut self) -> Result<[u32; 2], Error> {
        let mut reading = self.readings.pop_front().expect("a choice was made that is not reported");
        let words = self.device.finish_reading(&mut reading).map_err(device_error)?;
        self.idle_readings.push(reading);
        Ok(words)
    }
}

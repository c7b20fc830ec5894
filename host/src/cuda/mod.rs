//! NVIDIA GPUs through the driver's API: nothing is linked, and nothing but the driver is needed at run time.
//!
//! - `driver`, `entries`, `raw`: the driver found at run time, under the crate `cust`; entries that cust lacks.
//! - `vram`: the context and its memory, accounted by purpose.
//! - `module`: the PTX that this program carries, compiled by the driver at start.
//! - `device`: [`Cuda`], on which kernels are launched, in a `stream`; `graph`: many launches as one;
//!   `event`: marks to wait for and to measure between.
//! - `upload`: a file's bytes on their way to the GPU; `readback`: results on their way back.
//!
//! Nothing outside this folder names cust.

mod device;
mod driver;
mod entries;
mod error;
mod event;
mod graph;
mod module;
mod raw;
mod readback;
mod stream;
mod upload;
mod vram;

pub use device::{Cuda, GpuInfo, gpu_count};
pub use error::{CallError, Error, Version};
pub use event::Event;
pub use graph::Graph;
pub use readback::Readback;
pub use upload::{Chunk, Destination, ReadError, UploadError, Uploader};
pub use vram::VramUse;

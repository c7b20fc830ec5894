//! The words a GPU thread can say.
//!
//! A kernel is a function over typed views of global memory and scalars, marked [`#[kernel]`](prelude::kernel).
//! Every thread of every block of a launch runs it once, as in CUDA. If you know CUDA, this is the dictionary:
//!
//! | CUDA | here |
//! |---|---|
//! | `const float*`, `float*` parameters | [`In<f32>`](In), [`Out<f32>`](Out), [`InOut<f32>`](InOut) |
//! | `x[i]`, `x[i] = v` | [`x.get(i)`](In::get), [`x.set(i, v)`](Out::set) |
//! | `*(float4*)&x[i]` | [`x.load::<4>(i)`](In::load), [`x.store::<4>(i, …)`](Out::store) |
//! | `prefetch.global.L2` (PTX) | [`x.prefetch(i)`](In::prefetch) |
//! | `__shared__ float t[32]` | [`Shared::new().tile::<f32>(32)`](Shared::tile), a [`Tile<f32>`](Tile) |
//! | `__half`, `__nv_bfloat16` | [`f16`](struct@f16), [`bf16`] |
//! | `__half2`, `__nv_bfloat162` | [`f16x2`], [`bf16x2`] |
//! | `threadIdx.x`, `blockIdx.x`, `__syncthreads()` | [`thread::thread_idx_x`], [`thread::block_idx_x`], [`thread::sync_threads`] |
//! | `__shfl_xor_sync`, `__ballot_sync`, `__syncwarp` | [`warp::shuffle_xor`], [`warp::ballot`], [`warp::sync`] |
//! | `ldmatrix`, `stmatrix`, `mma.sync` (PTX) | [`Tile::ldmatrix_x4`], [`Tile::stmatrix_x4`], [`matrix::mma_m16n8k16_f16`] |
//! | `cp.async`, `cp.async.commit_group`, `cp.async.wait_group` (PTX) | [`Tile::copy_async`], [`async_copy::commit`], [`async_copy::wait`] |
//! | `cub::BlockReduce` | [`block::sum_f32`], [`block::max_f32`] |
//! | `__expf`, `rsqrtf`, `fmaf`, `__dp4a` | [`math::exp`], [`math::rsqrt`], [`math::fma`], [`math::dp4a`] |
//! | `atomicAdd`, `atomicMax`, `atomicCAS` | [`atomic::add_f32`], [`atomic::max_u32`], [`atomic::cas_u32`] |
//! | `__cluster_dims__`, `cluster.block_rank()`, `cluster.sync()` | `#[kernel(cluster = N)]`, [`cluster::block_rank`], [`cluster::sync`] |
//! | `st.async`, `mapa` (PTX) | [`Tile::store_async`], [`Barriers::arrive_remote`](mbarrier::Barriers::arrive_remote) |
//! | `cp.async.bulk.tensor…multicast::cluster` (PTX) | [`InBoxes::load_multicast`](boxes::InBoxes::load_multicast) |
//! | `cudaGridDependencySynchronize` | [`pdl::wait`], [`pdl::launch_dependents`] |
//!
//! A warp word, like a barrier, must be reached by all its threads: there are no masks of active lanes. Blocks
//! are one-dimensional and consist of whole warps.
//!
//! The words mean the same on two machines: `nvptx` says them as PTX, [`emulator`] runs them on the CPU.
//!
//! A first kernel, and what [`#[kernel]`](prelude::kernel) states about its launch:
//!
//! ```
//! use kernels_gpu::simt::prelude::*;
//!
//! /// y = largest element of x, for each row of `dim` elements.  Grid: one block per row.
//! #[kernel(threads = 128, shared = block::REDUCE_BYTES)]
//! pub fn row_max_f32(y: Out<f32>, x: In<f32>, dim: u32) {
//!     let partials = Shared::new().tile::<f32>(block::REDUCE_LEN);
//!     let row = thread::block_idx_x() as usize;
//!     let mut largest = f32::NEG_INFINITY;
//!     let mut i = thread::thread_idx_x();
//!     while i < dim {
//!         largest = math::max(largest, x.get(row * dim as usize + i as usize));
//!         i += thread::block_dim_x();
//!     }
//!     let largest = block::max_f32(largest, partials);
//!     if thread::thread_idx_x() == 0 {
//!         y.set(row, largest);
//!     }
//! }
//!
//! use kernels_gpu::launch::{Device, Grid, Purpose};
//! let device = kernels_gpu::simt::emulator::Emulator::checked();
//! let x = device.upload(&[3.0f32, 7.0, 5.0, -1.0, -9.0, -2.0], Purpose::Activations)?;
//! let mut y = device.alloc(2, Purpose::Activations)?;
//! device.launch(row_max_f32 { y: &mut y, x: &x, dim: 3 }, Grid::x(2))?;
//! assert_eq!(device.download(&y)?, [7.0, -1.0]);
//! # Ok::<(), kernels_gpu::simt::emulator::Error>(())
//! ```
//!
//! **What is checked, and where.** Kernels are safe functions, yet a GPU checks nothing: an index past the
//! end of a view, a race or a barrier that half a block skips is undefined behaviour there. The host's
//! launch struct rules out wrong types, missing arguments and one buffer as input and output at compile
//! time. All else is shown by running the kernel on the emulator in checked mode, which reports every such
//! access with its kernel, block, thread, view, index and source line. So a kernel may be launched on a GPU
//! with the shapes for which its tests pass there; the launcher of the op asserts these shapes.

//! What cannot be a kernel does not compile: one that is generic, returns something or has a block of no whole
//! number of warps.
//!
//! ```compile_fail
//! # use kernels_gpu::simt::prelude::*;
//! #[kernel(threads = 128)]
//! fn generic<T: Element>(y: Out<T>) {}
//! ```
//!
//! ```compile_fail
//! # use kernels_gpu::simt::prelude::*;
//! #[kernel(threads = 128)]
//! fn returns(x: In<f32>) -> f32 { x.get(0) }
//! ```
//!
//! ```compile_fail,E0080
//! # use kernels_gpu::simt::prelude::*;
//! #[kernel(threads = 100)]
//! fn half_a_warp(x: In<f32>) {}
//! ```

#[cfg(not(target_arch = "nvptx64"))]
pub mod emulator;
#[cfg(target_arch = "nvptx64")]
mod nvptx;

#[cfg(not(target_arch = "nvptx64"))]
use emulator::words as target;
#[cfg(target_arch = "nvptx64")]
use nvptx as target;

pub mod async_copy;
pub mod atomic;
pub mod block;
#[cfg(any(not(target_arch = "nvptx64"), oxwarp_sm = "90a"))]
pub mod boxes;
#[cfg(any(not(target_arch = "nvptx64"), oxwarp_sm = "90a"))]
pub mod cluster;
mod element;
mod half;
pub mod math;
pub mod matrix;
#[cfg(any(not(target_arch = "nvptx64"), oxwarp_sm = "90a"))]
pub mod mbarrier;
pub mod pdl;
pub mod shared;
pub mod thread;
mod view;
pub mod warp;
#[cfg(any(not(target_arch = "nvptx64"), oxwarp_sm = "90a"))]
pub mod wgmma;

pub use element::{Bits16, Element, Float, narrow, widen};
pub use half::{bf16, bf16x2, f16, f16x2};
pub use shared::{Shared, Tile};
pub use view::{In, InOut, Out};

/// Ends the launch with an error.
#[inline(always)]
#[track_caller]
pub fn trap() -> ! {
    target::trap()
}

/// What a kernel file imports.
pub mod prelude {
    pub use super::{Element, Float, In, InOut, Out, Shared, Tile, bf16, bf16x2, f16, f16x2};
    pub use super::{async_copy, atomic, block, math, matrix, narrow, pdl, thread, warp, widen};
    pub use kernels_gpu_macros::kernel;
}

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
//! | `__shared__ float t[32]` | [`Shared::new().tile::<f32>(32)`](Shared::tile), a [`Tile<f32>`](Tile) |
//! | `__half`, `__nv_bfloat16`, `__half2` | [`f16`], [`bf16`], [`f16x2`] |
//! | `threadIdx.x`, `blockIdx.x`, `__syncthreads()` | [`thread::thread_idx_x`], [`thread::block_idx_x`], [`thread::sync_threads`] |
//! | `__shfl_xor_sync`, `__ballot_sync`, `__syncwarp` | [`warp::shuffle_xor`], [`warp::ballot`], [`warp::sync`] |
//! | `cub::BlockReduce` | [`block::sum_f32`], [`block::max_f32`] |
//! | `__expf`, `rsqrtf`, `fmaf`, `__dp4a` | [`math::exp`], [`math::rsqrt`], [`math::fma`], [`math::dp4a`] |
//! | `atomicAdd`, `atomicMax`, `atomicCAS` | [`atomic::add_f32`], [`atomic::max_u32`], [`atomic::cas_u32`] |
//! | `cudaGridDependencySynchronize` | [`pdl::wait`], [`pdl::launch_dependents`] |
//!
//! The words mean the same on two machines: `nvptx` says them as PTX, [`emulator`] runs them on the CPU.
//!
//! **What is checked, and where.** Kernels are safe functions, yet a GPU checks nothing: an index past the
//! end of a view, a race or a barrier that half a block skips is undefined behaviour there. The host's
//! launch struct rules out wrong types, missing arguments and one buffer as input and output at compile
//! time. All else is shown by running the kernel on the emulator in checked mode, which reports every such
//! access with its kernel, block, thread, view, index and source line. So a kernel may be launched on a GPU
//! with the shapes for which its tests pass there; the launcher of the op asserts these shapes.

#[cfg(not(target_arch = "nvptx64"))]
pub mod emulator;
#[cfg(target_arch = "nvptx64")]
mod nvptx;

#[cfg(not(target_arch = "nvptx64"))]
use emulator::words as target;
#[cfg(target_arch = "nvptx64")]
use nvptx as target;

pub mod atomic;
pub mod block;
mod element;
mod half;
pub mod math;
pub mod pdl;
pub mod shared;
pub mod thread;
mod view;
pub mod warp;

pub use element::Element;
pub use half::{bf16, f16, f16x2};
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
    pub use super::{Element, In, InOut, Out, Shared, Tile, bf16, f16, f16x2};
    pub use super::{atomic, block, math, pdl, thread, warp};
    pub use kernels_gpu_macros::kernel;
}

//! The host's side of a kernel: what it is called with, and where it runs.
//!
//! `#[kernel]` turns a kernel `scale_f32(x: InOut<f32>, factor: f32)` into a struct of the same name that
//! implements [`Launch`]; a [`Device`] (the GPU, or the emulator) runs it over a [`Grid`] of blocks:
//!
//! ```
//! use kernels_gpu::add::add_f32;
//! use kernels_gpu::launch::{Device, Grid, Purpose};
//! use kernels_gpu::simt::emulator::Emulator;
//!
//! let device = Emulator::checked();
//! let mut x = device.upload(&[1.0f32, 2.0, 3.0], Purpose::Activations)?;
//! let branch = device.upload(&[0.5f32, 0.5, 0.5], Purpose::Activations)?;
//! device.launch(add_f32 { x: &mut x, branch: &branch, n: 3 }, Grid::x(1))?;
//! assert_eq!(device.download(&x)?, [1.5, 2.5, 3.5]);
//! # Ok::<(), kernels_gpu::simt::emulator::Error>(())
//! ```
//!
//! Of this launch the compiler refuses every part that does not fit the kernel's signature:
//!
//! ```compile_fail,E0308
//! # use kernels_gpu::{add::add_f32, launch::*, simt::emulator::*};
//! # fn launch(device: &Emulator, x: &mut DeviceSlice<f32>) -> Result<(), Error> {
//! let branch = device.upload(&[1u32, 2, 3], Purpose::Activations)?; // u32, but the kernel takes f32.
//! device.launch(add_f32 { x, branch: &branch, n: 3 }, Grid::x(1))
//! # }
//! ```
//!
//! ```compile_fail,E0063
//! # use kernels_gpu::{add::add_f32, launch::*, simt::emulator::*};
//! # fn launch(device: &Emulator, x: &mut DeviceSlice<f32>, branch: &DeviceSlice<f32>) -> Result<(), Error> {
//! device.launch(add_f32 { x, branch }, Grid::x(1)) // `n` is missing.
//! # }
//! ```
//!
//! ```compile_fail,E0308
//! # use kernels_gpu::{add::add_f32, launch::*, simt::emulator::*};
//! # fn launch(device: &Emulator, x: &DeviceSlice<f32>, branch: &DeviceSlice<f32>) -> Result<(), Error> {
//! device.launch(add_f32 { x, branch, n: 3 }, Grid::x(1)) // `x` is written, but borrowed for reading.
//! # }
//! ```
//!
//! ```compile_fail,E0502
//! # use kernels_gpu::{add::add_f32, launch::*, simt::emulator::*};
//! # fn launch(device: &Emulator, x: &mut DeviceSlice<f32>) -> Result<(), Error> {
//! let branch = x.slice(0..3); // Input and output overlap.
//! device.launch(add_f32 { x, branch, n: 3 }, Grid::x(1))
//! # }
//! ```
//!
//! Only halves that do not overlap can be input and output of one launch:
//!
//! ```
//! # use kernels_gpu::{add::add_f32, launch::*, simt::emulator::*};
//! # fn launch(device: &Emulator, x: &mut DeviceSlice<f32>) -> Result<(), Error> {
//! let (x, branch) = x.split_at_mut(3);
//! device.launch(add_f32 { x, branch, n: 3 }, Grid::x(1))
//! # }
//! ```

mod matrix;
mod memory;
mod meta;

pub use matrix::{BOX_ROW_BYTES, Matrix, MatrixArg, MatrixMut};
pub use memory::{DeviceBuffer, DeviceMemory, DeviceSlice, Purpose};
pub use meta::{KernelMeta, MAX_CLUSTER, ParamKind, ParamMeta, all_kernels};

use crate::simt::Element;
use crate::simt::emulator;

/// A kernel with its arguments, ready to run. Implemented by `#[kernel]` only.
pub trait Launch {
    /// What the kernel's attribute and signature state.
    const META: &'static KernelMeta;

    /// The arguments as the PTX entry takes them, in the order of its parameters.
    fn args(&self) -> KernelArgs;

    /// Runs the kernel on the emulator.
    ///
    /// # Errors
    /// A buffer that is none of this emulator's, and every violation that the kernel commits.
    fn run_emulated(&self, run: &mut emulator::Run<'_>) -> Result<(), emulator::Error>;
}

/// A kernel has at most this many parameters.
pub const MAX_PARAMS: usize = 24;
/// Of these, at most this many are matrices that the copy engine moves.
pub const MAX_MATRICES: usize = 4;

/// Kernel arguments, one 8-byte word each: the address of a view's first element, or a scalar in the
/// word's low bytes (so a pointer to the word is a pointer to the scalar), or the number of a matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelArgs {
    words: [u64; MAX_PARAMS],
    n_words: usize,
    matrices: [MatrixArg; MAX_MATRICES],
    n_matrices: usize,
}

impl KernelArgs {
    /// Appends the address of a view.
    ///
    /// # Panics
    /// If the kernel has more than [`MAX_PARAMS`] parameters.
    pub fn push_address(&mut self, address: u64) {
        assert!(self.n_words < MAX_PARAMS, "a kernel has at most {MAX_PARAMS} parameters");
        self.words[self.n_words] = address;
        self.n_words += 1;
    }

    /// Appends a scalar.
    ///
    /// # Panics
    /// If the kernel has more than [`MAX_PARAMS`] parameters.
    pub fn push_scalar(&mut self, value: impl Scalar) {
        self.push_address(value.to_word());
    }

    /// Appends a matrix; its word is its place in [`KernelArgs::matrices`].
    ///
    /// # Panics
    /// If the kernel has more than [`MAX_MATRICES`] of them.
    pub fn push_matrix(&mut self, matrix: MatrixArg) {
        assert!(self.n_matrices < MAX_MATRICES, "a kernel has at most {MAX_MATRICES} matrices");
        self.matrices[self.n_matrices] = matrix;
        self.push_address(self.n_matrices as u64);
        self.n_matrices += 1;
    }

    /// The matrices, in the order of the parameters that they are.
    pub fn matrices(&self) -> &[MatrixArg] {
        &self.matrices[..self.n_matrices]
    }

    /// The words, one per parameter.
    pub fn words(&self) -> &[u64] {
        &self.words[..self.n_words]
    }
}

/// A type that a kernel takes by value.
pub trait Scalar: Copy {
    /// The value in the low bytes of a little-endian word.
    fn to_word(self) -> u64;
}

impl Scalar for u32 {
    fn to_word(self) -> u64 {
        u64::from(self)
    }
}

impl Scalar for i32 {
    fn to_word(self) -> u64 {
        u64::from(self.cast_unsigned())
    }
}

impl Scalar for f32 {
    fn to_word(self) -> u64 {
        u64::from(self.to_bits())
    }
}

impl Scalar for u64 {
    fn to_word(self) -> u64 {
        self
    }
}

/// The blocks of a launch. The threads of a block are the kernel's own business (`threads = N`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks along x, at most 2³¹ − 1.
    pub x: u32,
    /// Blocks along y, at most 65 535.
    pub y: u32,
    /// Blocks along z, at most 65 535.
    pub z: u32,
}

impl Grid {
    /// `x` blocks in a row.
    pub const fn x(x: u32) -> Self {
        Self::xyz(x, 1, 1)
    }

    /// `x · y` blocks.
    pub const fn xy(x: u32, y: u32) -> Self {
        Self::xyz(x, y, 1)
    }

    /// `x · y · z` blocks.
    ///
    /// # Panics
    /// If a dimension is zero or above the hardware's limit (2³¹ − 1, 65 535, 65 535).
    pub const fn xyz(x: u32, y: u32, z: u32) -> Self {
        assert!(x > 0 && y > 0 && z > 0, "a grid has at least one block in every dimension");
        assert!(x <= i32::MAX as u32 && y <= 65_535 && z <= 65_535, "a grid dimension is too large");
        Self { x, y, z }
    }

    /// Enough blocks of `per_block` items for `n` items; at least one.
    pub const fn cover(n: usize, per_block: usize) -> Self {
        let blocks = n.div_ceil(per_block);
        assert!(blocks <= i32::MAX as usize, "a grid dimension is too large");
        Self::x(if blocks == 0 { 1 } else { blocks as u32 })
    }

    /// Number of blocks.
    pub const fn n_blocks(self) -> u64 {
        self.x as u64 * self.y as u64 * self.z as u64
    }
}

/// Something with memory that runs kernels: the GPU, or the emulator.
///
/// Work happens in the order of the calls. `launch` may return before the kernel has run; `copy_out`
/// returns when its data has arrived.
pub trait Device {
    /// What can go wrong.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Memory for `n` elements, aligned to 256 bytes. What it contains is undefined.
    ///
    /// # Errors
    /// When the memory does not suffice.
    fn alloc<T: Element>(&self, n: usize, purpose: Purpose) -> Result<DeviceBuffer<T>, Self::Error>;

    /// Copies `src` into `dst`.
    ///
    /// # Errors
    /// Those of the device.
    ///
    /// # Panics
    /// If the lengths differ.
    fn copy_in<T: Element>(&self, dst: &mut DeviceSlice<T>, src: &[T]) -> Result<(), Self::Error>;

    /// Copies `src` into `dst`, after everything that was launched before.
    ///
    /// # Errors
    /// Those of the device, among them those of kernels launched before.
    ///
    /// # Panics
    /// If the lengths differ.
    fn copy_out<T: Element>(&self, src: &DeviceSlice<T>, dst: &mut [T]) -> Result<(), Self::Error>;

    /// Sets every byte to zero.
    ///
    /// # Errors
    /// Those of the device.
    fn zero<T: Element>(&self, dst: &mut DeviceSlice<T>) -> Result<(), Self::Error>;

    /// Runs a kernel on every block of `grid`.
    ///
    /// # Errors
    /// Those of the device.
    fn launch<K: Launch>(&self, kernel: K, grid: Grid) -> Result<(), Self::Error>;

    /// A new buffer with a copy of `src`.
    ///
    /// # Errors
    /// Those of [`Device::alloc`] and [`Device::copy_in`].
    fn upload<T: Element>(&self, src: &[T], purpose: Purpose) -> Result<DeviceBuffer<T>, Self::Error> {
        let mut buffer = self.alloc(src.len(), purpose)?;
        self.copy_in(&mut buffer, src)?;
        Ok(buffer)
    }

    /// A new buffer of `n` zeros.
    ///
    /// # Errors
    /// Those of [`Device::alloc`] and [`Device::zero`].
    fn zeros<T: Element>(&self, n: usize, purpose: Purpose) -> Result<DeviceBuffer<T>, Self::Error> {
        let mut buffer = self.alloc(n, purpose)?;
        self.zero(&mut buffer)?;
        Ok(buffer)
    }

    /// The elements of `src`, after everything that was launched before.
    ///
    /// # Errors
    /// Those of [`Device::copy_out`].
    fn download<T: Element>(&self, src: &DeviceSlice<T>) -> Result<Vec<T>, Self::Error> {
        let mut host = vec![T::ZERO; src.len()];
        self.copy_out(src, &mut host)?;
        Ok(host)
    }
}

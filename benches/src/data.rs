//! Random inputs on the GPU: one block of normal numbers, copied to wherever some are needed.

use std::cell::Cell;

use kernels_gpu::launch::{Device, DeviceBuffer, DeviceSlice, Purpose};
use kernels_gpu::quant::fragments::TILE_ROWS;
use kernels_gpu::quant::layout::GpuLayout;
use kernels_gpu::simt::{Element, bf16, f16};
use oxwarp::cuda::{Cuda, Error};
use rayon::prelude::*;
use testkit::data::{RandomBlock, Rng, packed, weights};

/// Numbers of the pool. No multiple of a matrix's width, so that rows differ.
const POOL_ELEMENTS: usize = 4_190_032;
/// Elements of a pool of weights, of which a few blocks are left out, for the same reason.
const WEIGHTS_ELEMENTS: usize = 1 << 20;

/// Independent normal numbers of mean 0 and variance 1, in every type.
pub struct Pool {
    f32: DeviceBuffer<f32>,
    f16: DeviceBuffer<f16>,
    bf16: DeviceBuffer<bf16>,
    /// Where the next copy begins to read.
    next: Cell<usize>,
}

/// A type that the pool has.
pub trait Number: Element {
    fn of(pool: &Pool) -> &DeviceSlice<Self>;
    fn to_f64(self) -> f64;
}

impl Number for f32 {
    fn of(pool: &Pool) -> &DeviceSlice<f32> {
        &pool.f32
    }
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Number for f16 {
    fn of(pool: &Pool) -> &DeviceSlice<f16> {
        &pool.f16
    }
    fn to_f64(self) -> f64 {
        f64::from(self.to_f32())
    }
}

impl Number for bf16 {
    fn of(pool: &Pool) -> &DeviceSlice<bf16> {
        &pool.bf16
    }
    fn to_f64(self) -> f64 {
        f64::from(self.to_f32())
    }
}

/// Normal numbers, made by all cores.
fn normal(n: usize) -> Vec<f32> {
    const PIECE: usize = 1 << 14;
    let pieces = (0..n.div_ceil(PIECE)).into_par_iter();
    let mut numbers: Vec<f32> = pieces.flat_map(|i| Rng::new(i as u64).normal(PIECE, 1.0)).collect();
    numbers.truncate(n);
    numbers
}

impl Pool {
    pub fn new(device: &Cuda) -> Result<Self, Error> {
        let numbers = normal(POOL_ELEMENTS);
        let halves: Vec<f16> = numbers.iter().map(|&x| f16::from_f32(x)).collect();
        let brains: Vec<bf16> = numbers.iter().map(|&x| bf16::from_f32(x)).collect();
        Ok(Pool {
            f32: device.upload(&numbers, Purpose::Other)?,
            f16: device.upload(&halves, Purpose::Other)?,
            bf16: device.upload(&brains, Purpose::Other)?,
            next: Cell::new(0),
        })
    }

    /// A buffer of `n` numbers.
    pub fn normal<T: Number>(&self, device: &Cuda, n: usize) -> Result<DeviceBuffer<T>, Error> {
        let mut buffer = device.alloc(n, Purpose::Other)?;
        let pool = T::of(self);
        let mut done = 0;
        while done < n {
            let start = self.next.get();
            let piece = (n - done).min(pool.len() - start);
            device.copy_within(buffer.slice_mut(done..done + piece), pool.slice(start..start + piece))?;
            done += piece;
            // Copies stay on 16 bytes.
            self.next.set((start + piece).next_multiple_of(8) % pool.len());
        }
        Ok(buffer)
    }
}

/// Random weights of one format: some rows, repeated through any number of matrices.
pub struct Weights<B> {
    /// The rows in the GPU's layout.
    rows: DeviceBuffer<u8>,
    /// Their values.
    values: Vec<f32>,
    n_cols: usize,
    format: std::marker::PhantomData<B>,
}

impl<B: RandomBlock + GpuLayout> Weights<B> {
    /// Weights for matrices of `n_cols` columns.
    pub fn new(device: &Cuda, n_cols: usize) -> Result<Self, Error> {
        // An odd number of whole tiles, so that no power of two of them repeats.
        let n_rows = TILE_ROWS * ((WEIGHTS_ELEMENTS / (TILE_ROWS * n_cols)) | 1);
        let (blocks, values) = weights::<B>(&mut Rng::new(1), n_rows * n_cols / B::ELEMENTS);
        let rows = device.upload(&packed(&blocks, n_cols), Purpose::Other)?;
        Ok(Weights { rows, values, n_cols, format: std::marker::PhantomData })
    }

    /// Fills a matrix.
    pub fn fill(&self, device: &Cuda, matrix: &mut DeviceSlice<u8>) -> Result<(), Error> {
        for first in (0..matrix.len()).step_by(self.rows.len()) {
            let n = self.rows.len().min(matrix.len() - first);
            device.copy_within(matrix.slice_mut(first..first + n), self.rows.slice(0..n))?;
        }
        Ok(())
    }

    /// Row `row` of a matrix.
    pub fn row(&self, row: usize) -> Vec<f64> {
        let first = row * self.n_cols % self.values.len();
        self.values[first..first + self.n_cols].iter().map(|&w| f64::from(w)).collect()
    }
}

/// Numbers of a span, as f64.
pub fn read<T: Number>(device: &Cuda, span: &DeviceSlice<T>) -> Result<Vec<f64>, Error> {
    Ok(device.download(span)?.into_iter().map(T::to_f64).collect())
}

/// `n` different indices below `below`, or all of them, spread over the whole range with the first and the last.
pub fn sample(n: usize, below: usize) -> Vec<usize> {
    if n >= below {
        return (0..below).collect();
    }
    let mut rng = Rng::new(below as u64);
    // One of each of n equal stretches.
    let stretch = |i: usize| (i * below / n, (i + 1) * below / n);
    let within =
        |(start, end): (usize, usize), rng: &mut Rng| start + rng.below((end - start) as u32) as usize;
    let mut indices: Vec<usize> = (0..n).map(|i| within(stretch(i), &mut rng)).collect();
    indices[0] = 0;
    indices[n - 1] = below - 1;
    indices
}

/// Sets of inputs that together are more than twice the second-level cache, but no more than a graph can well hold.
pub fn n_sets(set_bytes: usize, l2_bytes: u32) -> usize {
    const SETS_MAX: usize = 1024;
    (2 * l2_bytes as usize / set_bytes.max(1) + 1).clamp(2, SETS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_different_and_reach_both_ends() {
        for (n, below) in [(8, 8192), (2, 3), (256, 28672)] {
            let indices = sample(n, below);
            assert_eq!((indices.len(), indices[0], indices[n - 1]), (n, 0, below - 1));
            assert!(indices.is_sorted_by(|a, b| a < b), "{indices:?}");
        }
        assert_eq!(sample(8, 3), [0, 1, 2]);
    }

    #[test]
    fn sets_exceed_twice_the_cache() {
        let l2 = 50 << 20;
        assert_eq!(n_sets(200 << 20, l2), 2);
        assert!(n_sets(16 << 20, l2) * (16 << 20) > 100 << 20);
        assert_eq!(n_sets(1 << 10, l2), 1024);
    }

    #[test]
    fn normal_numbers_do_not_depend_on_the_cores() {
        assert_eq!(normal(20_000)[..16384], Rng::new(0).normal(16384, 1.0));
        assert_eq!(normal(20_000).len(), 20_000);
    }
}

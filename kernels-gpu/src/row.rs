//! Rows of activations as norms read them: a block owns one row and goes over it several times.
//!
//! The first elements of a row ([`Kept`]) are read once, into the registers of its block. The rest of wider rows, and rows
//! whose width is no multiple of four, are read again each time, from the caches.

use crate::simt::prelude::*;

/// Threads of a block.
pub const THREADS: u32 = 256;
/// Elements between a thread's accesses of four.
const STEP: usize = 4 * THREADS as usize;
/// Where a row comes from.
#[derive(Clone, Copy)]
pub enum Source {
    /// An array of rows.
    Plain(In<f32>),
    /// x + branch, which becomes the new x.
    Sum { x: InOut<f32>, branch: In<f32> },
}

/// A row that all threads of a block go over together, each its own elements in groups of `N`.
pub trait Row<const N: usize> {
    /// Goes over the thread's elements: result = f(result, x).
    fn fold(&self, start: f32, f: impl Fn(f32, f32) -> f32) -> f32;

    /// The row of `y` becomes f(i, [x_i, …]), i the index in the row of the first of `N` elements.
    fn write<T: Float>(&self, y: Out<T>, f: impl Fn(usize, [f32; N]) -> [f32; N]);
}

/// A row of which the first 1024 · `UNITS` elements are in registers: unit u of thread t holds elements 4(t + 256u) and the
/// three after it. Results of `GROUP` units are made at a time, since all of them would take too many registers.
pub struct Kept<const UNITS: usize, const GROUP: usize> {
    units: [[f32; 4]; UNITS],
    rest: Reread<4>,
}

impl<const UNITS: usize, const GROUP: usize> Kept<UNITS, GROUP> {
    const KEPT: usize = UNITS * STEP;

    /// Reads the row, whose width is a multiple of four: all that is kept of it before anything is used.
    #[inline(always)]
    pub fn load(source: Source, start: usize, dim: usize) -> Self {
        let rest = Reread { source, start, dim, first: Self::KEPT };
        let mut row = Kept { units: [[0.0; 4]; UNITS], rest };
        match source {
            Source::Plain(x) => row.read(|i| x.load(i)),
            Source::Sum { x, branch } => {
                row.read(|i| x.load(i));
                let rest = Reread { source, start, dim, first: Self::KEPT };
                let mut added = Self { units: [[0.0; 4]; UNITS], rest };
                added.read(|i| branch.load(i));
                let mut u = 0;
                while u < UNITS {
                    let mut j = 0;
                    while j < 4 {
                        row.units[u][j] += added.units[u][j];
                        j += 1;
                    }
                    if index(u) < dim {
                        x.store(start + index(u), row.units[u]);
                    }
                    u += 1;
                }
            }
        }
        row.rest.add();
        row
    }

    /// f(u, elements of both rows) for the units of this and another row that are in registers, `GROUP` at a time, as long as any
    /// thread has one below `end`; zeros past the rows.
    #[inline(always)]
    pub fn zip(&self, other: &Self, end: usize, f: impl Fn(usize, [[f32; 4]; GROUP], [[f32; 4]; GROUP])) {
        let mut first = 0;
        while first < UNITS {
            if first * STEP < end {
                let (mut mine, mut others) = ([[0.0; 4]; GROUP], [[0.0; 4]; GROUP]);
                let mut u = 0;
                while u < GROUP {
                    mine[u] = self.units[first + u];
                    others[u] = other.units[first + u];
                    u += 1;
                }
                f(first, mine, others);
            }
            first += GROUP;
        }
    }

    #[inline(always)]
    fn read(&mut self, load: impl Fn(usize) -> [f32; 4]) {
        let mut u = 0;
        while u < UNITS {
            if index(u) < self.rest.dim {
                self.units[u] = load(self.rest.start + index(u));
            }
            u += 1;
        }
    }
}

/// Index in the row of the first element of the thread's unit.
#[inline(always)]
pub fn index(unit: usize) -> usize {
    unit * STEP + thread::thread_idx_x() as usize * 4
}

impl<const UNITS: usize, const GROUP: usize> Row<4> for Kept<UNITS, GROUP> {
    #[inline(always)]
    fn fold(&self, start: f32, f: impl Fn(f32, f32) -> f32) -> f32 {
        let mut result = start;
        let mut u = 0;
        while u < UNITS {
            if index(u) < self.rest.dim {
                let mut j = 0;
                while j < 4 {
                    result = f(result, self.units[u][j]);
                    j += 1;
                }
            }
            u += 1;
        }
        self.rest.fold(result, f)
    }

    /// Of each `GROUP` units all results come before the first store, so that what `f` loads is in flight together.
    #[inline(always)]
    fn write<T: Float>(&self, y: Out<T>, f: impl Fn(usize, [f32; 4]) -> [f32; 4]) {
        let (start, dim) = (self.rest.start, self.rest.dim);
        let mut first = 0;
        while first < UNITS {
            let mut results = [[0.0; 4]; GROUP];
            let mut u = 0;
            while u < GROUP {
                let i = index(first + u);
                if i < dim {
                    results[u] = f(i, self.units[first + u]);
                }
                u += 1;
            }
            let mut u = 0;
            while u < GROUP {
                let i = index(first + u);
                if i < dim {
                    y.store::<4>(start + i, narrow(results[u]));
                }
                u += 1;
            }
            first += GROUP;
        }
        self.rest.write(y, f);
    }
}

/// A row that is read again each time, from element `first` on, `N` elements an access.
pub struct Reread<const N: usize> {
    source: Source,
    /// Index of the row's first element.
    start: usize,
    dim: usize,
    first: usize,
}

impl<const N: usize> Reread<N> {
    /// The row; if it is a sum, the sum is made and stored now.
    #[inline(always)]
    pub fn new(source: Source, start: usize, dim: usize) -> Self {
        let row = Self { source, start, dim, first: 0 };
        row.add();
        row
    }

    #[inline(always)]
    fn add(&self) {
        if let Source::Sum { x, branch } = self.source {
            let mut i = self.first();
            while i < self.dim {
                let (mut sum, added) = (x.load::<N>(self.start + i), branch.load::<N>(self.start + i));
                let mut j = 0;
                while j < N {
                    sum[j] += added[j];
                    j += 1;
                }
                x.store(self.start + i, sum);
                i += N * THREADS as usize;
            }
        }
    }

    #[inline(always)]
    fn first(&self) -> usize {
        self.first + thread::thread_idx_x() as usize * N
    }

    #[inline(always)]
    fn load(&self, i: usize) -> [f32; N] {
        match self.source {
            Source::Plain(x) => x.load(self.start + i),
            Source::Sum { x, .. } => x.load(self.start + i),
        }
    }
}

impl<const N: usize> Row<N> for Reread<N> {
    #[inline(always)]
    fn fold(&self, start: f32, f: impl Fn(f32, f32) -> f32) -> f32 {
        let mut result = start;
        let mut i = self.first();
        while i < self.dim {
            let x = self.load(i);
            let mut j = 0;
            while j < N {
                result = f(result, x[j]);
                j += 1;
            }
            i += N * THREADS as usize;
        }
        result
    }

    #[inline(always)]
    fn write<T: Float>(&self, y: Out<T>, f: impl Fn(usize, [f32; N]) -> [f32; N]) {
        let mut i = self.first();
        while i < self.dim {
            y.store::<N>(self.start + i, narrow(f(i, self.load(i))));
            i += N * THREADS as usize;
        }
    }
}

/// The longest chain of additions in a sum over a row, for an error bound: those of a thread, then two butterflies
/// over 32.
pub const fn sum_chain(dim: usize) -> usize {
    let n = if dim.is_multiple_of(4) { 4 } else { 1 };
    dim.div_ceil(THREADS as usize * n) * n + 10
}

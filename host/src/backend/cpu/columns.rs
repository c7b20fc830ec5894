//! A row-major matrix handed out in strips of columns, so that several threads can each write their own.

use std::marker::PhantomData;

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

/// Columns `first_col .. first_col + width` of a matrix, for one owner.
pub struct ColumnStrip<'a> {
    first: *mut f32, // element [0, first_col]
    n_rows: usize,
    n_cols: usize,
    width: usize,
    matrix: PhantomData<&'a mut [f32]>,
}

// SAFETY: a strip is the only way to its columns while it lives (`column_strips`), so it may move to another thread.
unsafe impl Send for ColumnStrip<'_> {}

/// A pointer that worker threads may copy.
#[derive(Clone, Copy)]
struct Base(*mut f32);

// SAFETY: nothing is done with the pointer but to make strips, which do not overlap.
unsafe impl Send for Base {}
// SAFETY: the same.
unsafe impl Sync for Base {}

impl Base {
    /// # Safety
    /// `offset` is inside the matrix.
    unsafe fn at(self, offset: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }
}

/// All strips of `width` columns of `matrix`, `[_, n_cols]`; the last may be narrower.
///
/// # Panics
/// When `matrix` is not a number of rows of `n_cols`, or `width` is 0.
pub fn column_strips(
    matrix: &mut [f32],
    n_cols: usize,
    width: usize,
) -> impl IndexedParallelIterator<Item = ColumnStrip<'_>> {
    assert!(matrix.len().is_multiple_of(n_cols), "{} values in rows of {n_cols}", matrix.len());
    let n_rows = matrix.len() / n_cols;
    let base = Base(matrix.as_mut_ptr());
    (0..n_cols.div_ceil(width)).into_par_iter().map(move |strip| {
        let first_col = strip * width;
        ColumnStrip {
            // SAFETY: `first_col < n_cols`, and a matrix with columns but no rows has no element that is ever touched.
            first: unsafe { base.at(if n_rows == 0 { 0 } else { first_col }) },
            n_rows,
            n_cols,
            width: width.min(n_cols - first_col),
            matrix: PhantomData,
        }
    })
}

impl ColumnStrip<'_> {
    /// Columns of the strip.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Writes element [row, col] of the strip.
    ///
    /// # Panics
    /// When it has no such element.
    #[inline(always)]
    pub fn set(&mut self, row: usize, col: usize, value: f32) {
        assert!(row < self.n_rows && col < self.width, "[{row}, {col}] of [{}, {}]", self.n_rows, self.width);
        // SAFETY: the element is inside the matrix, whose borrow outlives the strip, and no other strip has this column.
        unsafe { *self.first.add(row * self.n_cols + col) = value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_belongs_to_one_strip() {
        let (n_rows, n_cols) = (3, 7);
        let mut matrix = vec![-1.0; n_rows * n_cols];
        column_strips(&mut matrix, n_cols, 3).enumerate().for_each(|(strip, mut columns)| {
            for row in 0..n_rows {
                for col in 0..columns.width {
                    columns.set(row, col, (row * n_cols + 3 * strip + col) as f32);
                }
            }
        });
        let expected: Vec<f32> = (0..n_rows * n_cols).map(|i| i as f32).collect();
        assert_eq!(matrix, expected);
    }

    #[test]
    #[should_panic(expected = "[0, 1] of [2, 1]")]
    fn a_strip_ends_where_it_ends() {
        let mut matrix = vec![0.0; 8];
        column_strips(&mut matrix, 4, 3).enumerate().for_each(|(strip, mut columns)| {
            if strip == 1 {
                columns.set(0, 1, 1.0);
            }
        });
    }
}

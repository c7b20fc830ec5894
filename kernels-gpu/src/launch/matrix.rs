//! Matrices that a kernel's copy engine moves in boxes: what the host says of them at a launch.

use super::DeviceSlice;
use crate::simt::Element;

/// A row-major matrix in device memory that a kernel reads in boxes: the argument of an `InBoxes` parameter.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T> {
    span: &'a DeviceSlice<T>,
    rows: u32,
    cols: u32,
    /// Elements from one row to the next.
    stride: usize,
}

/// A row-major matrix in device memory that a kernel writes in boxes: the argument of an `OutBoxes` parameter.
pub struct MatrixMut<'a, T> {
    span: &'a mut DeviceSlice<T>,
    rows: u32,
    cols: u32,
    stride: usize,
}

/// The copy engine wants addresses and strides to be multiples of this many bytes.
const ALIGN_BYTES: usize = 16;

/// Bytes of a box's row: the widest that can be swizzled.
pub const BOX_ROW_BYTES: usize = 128;

/// A matrix as a launch passes it on: enough to make the hardware's tensor map of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MatrixArg {
    /// Address of the first element.
    pub address: u64,
    /// Rows.
    pub rows: u32,
    /// Elements of a row.
    pub cols: u32,
    /// Bytes from one row to the next.
    pub stride_bytes: u64,
    /// Bytes of an element.
    pub element_bytes: u32,
    /// Rows of a box; a box is [`BOX_ROW_BYTES`] wide.
    pub box_rows: u32,
}

impl<'a, T: Element> Matrix<'a, T> {
    /// The matrix of `rows` rows of `cols` elements, one after the other.
    ///
    /// # Panics
    /// As [`Matrix::strided`].
    pub fn new(span: &'a DeviceSlice<T>, rows: usize, cols: usize) -> Self {
        Self::strided(span, rows, cols, cols)
    }

    /// The matrix of `rows` rows of `cols` elements, `stride` elements from one to the next.
    ///
    /// # Panics
    /// If the rows overlap or do not lie in the span, if there are none, or if the address or a row's bytes are no
    /// multiple of 16.
    pub fn strided(span: &'a DeviceSlice<T>, rows: usize, cols: usize, stride: usize) -> Self {
        let (rows_u32, cols_u32) = check::<T>(span.address(), span.len(), rows, cols, stride);
        Self { span, rows: rows_u32, cols: cols_u32, stride }
    }

    /// The span that the matrix lies in.
    pub fn span(&self) -> &'a DeviceSlice<T> {
        self.span
    }

    /// What a launch passes on. Used by `#[kernel]`.
    pub fn boxes(&self, box_rows: u32) -> MatrixArg {
        arg::<T>(self.span.address(), self.rows, self.cols, self.stride, box_rows)
    }
}

impl<'a, T: Element> MatrixMut<'a, T> {
    /// The matrix of `rows` rows of `cols` elements, one after the other.
    ///
    /// # Panics
    /// As [`MatrixMut::strided`].
    pub fn new(span: &'a mut DeviceSlice<T>, rows: usize, cols: usize) -> Self {
        Self::strided(span, rows, cols, cols)
    }

    /// The matrix of `rows` rows of `cols` elements, `stride` elements from one to the next.
    ///
    /// # Panics
    /// As [`Matrix::strided`].
    pub fn strided(span: &'a mut DeviceSlice<T>, rows: usize, cols: usize, stride: usize) -> Self {
        let (rows_u32, cols_u32) = check::<T>(span.address(), span.len(), rows, cols, stride);
        Self { span, rows: rows_u32, cols: cols_u32, stride }
    }

    /// The span that the matrix lies in.
    pub fn span(&self) -> &DeviceSlice<T> {
        self.span
    }

    /// What a launch passes on. Used by `#[kernel]`.
    pub fn boxes(&self, box_rows: u32) -> MatrixArg {
        arg::<T>(self.span.address(), self.rows, self.cols, self.stride, box_rows)
    }
}

fn check<T: Element>(address: u64, len: usize, rows: usize, cols: usize, stride: usize) -> (u32, u32) {
    assert!(rows > 0 && cols > 0, "a matrix of {rows} x {cols}");
    assert!(cols <= stride, "rows of {cols} elements, {stride} from one to the next");
    let needed = (rows - 1) * stride + cols;
    assert!(
        needed <= len,
        "{rows} rows of {cols}, {stride} apart, take {needed} elements of a span of {len}"
    );
    let stride_bytes = stride * size_of::<T>();
    assert!(
        address.is_multiple_of(ALIGN_BYTES as u64) && stride_bytes.is_multiple_of(ALIGN_BYTES),
        "address {address:#x} and rows of {stride_bytes} bytes: the copy engine wants multiples of {ALIGN_BYTES}"
    );
    let fits = |n: usize| u32::try_from(n).unwrap_or_else(|_| panic!("a matrix of {rows} x {cols}"));
    (fits(rows), fits(cols))
}

fn arg<T: Element>(address: u64, rows: u32, cols: u32, stride: usize, box_rows: u32) -> MatrixArg {
    MatrixArg {
        address,
        rows,
        cols,
        stride_bytes: (stride * size_of::<T>()) as u64,
        element_bytes: size_of::<T>() as u32,
        box_rows,
    }
}

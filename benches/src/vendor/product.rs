//! A product of matrices as this project lays them out, row by row, told to a library that counts column by column.

use std::ffi::{c_int, c_void};

use kernels_gpu::launch::DeviceSlice;
use kernels_gpu::simt::Element;

use super::DataType;
use super::ffi::{self, Blas, Handle, Lt};
use crate::error::Result;

/// y [n_tokens, n_rows] = x [n_tokens, n_cols] · wᵀ, as often as there are batches, each behind the last.
///
/// w is [n_rows, n_cols], or, if `w_by_cols`, [n_cols, n_rows] and not transposed. Only addresses: the buffers are the
/// business of whoever has the product queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    pub(super) w: u64,
    pub(super) x: u64,
    pub(super) y: u64,
    shape: Shape,
    operands: DataType,
    results: DataType,
}

/// The sizes of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub n_tokens: usize,
    pub n_rows: usize,
    pub n_cols: usize,
    pub w_by_cols: bool,
    pub n_batches: usize,
}

/// A type that the library multiplies or gives.
pub trait Operand: Element {
    const TYPE: DataType;
}

impl Operand for f32 {
    const TYPE: DataType = DataType::F32;
}

impl Operand for kernels_gpu::simt::f16 {
    const TYPE: DataType = DataType::F16;
}

impl Operand for kernels_gpu::simt::bf16 {
    const TYPE: DataType = DataType::Bf16;
}

impl Product {
    /// One product.
    ///
    /// # Panics
    /// If a span is too small.
    pub fn new<T: Operand, R: Operand>(
        y: &mut DeviceSlice<R>,
        w: &DeviceSlice<T>,
        x: &DeviceSlice<T>,
        [n_tokens, n_rows, n_cols]: [usize; 3],
    ) -> Self {
        Self::batched(y, w, x, Shape { n_tokens, n_rows, n_cols, w_by_cols: false, n_batches: 1 })
    }

    /// Products of one shape.
    ///
    /// # Panics
    /// If a span is too small.
    pub fn batched<T: Operand, R: Operand>(
        y: &mut DeviceSlice<R>,
        w: &DeviceSlice<T>,
        x: &DeviceSlice<T>,
        shape: Shape,
    ) -> Self {
        let Shape { n_tokens, n_rows, n_cols, n_batches, .. } = shape;
        let spans = [
            ("y", y.len(), n_tokens * n_rows),
            ("w", w.len(), n_rows * n_cols),
            ("x", x.len(), n_tokens * n_cols),
        ];
        for (name, found, each) in spans {
            assert!(found >= each * n_batches, "{name} has {found} elements, {shape:?}");
        }
        Product { w: w.address(), x: x.address(), y: y.address(), shape, operands: T::TYPE, results: R::TYPE }
    }

    /// Elements from one row of w to the next: the library's leading dimension. Its other two matrices' are `n_cols` and
    /// `n_rows`.
    fn w_stride(&self) -> usize {
        if self.shape.w_by_cols { self.shape.n_rows } else { self.shape.n_cols }
    }

    fn w_op(&self) -> c_int {
        if self.shape.w_by_cols { ffi::OP_N } else { ffi::OP_T }
    }

    /// # Safety
    /// As [`super::Vendor::queue_blas`].
    pub(super) unsafe fn queue_blas(&self, blas: &Blas, handle: Handle) -> Result<()> {
        let Shape { n_tokens, n_rows, n_cols, n_batches, .. } = self.shape;
        let (m, n, k, stride) =
            (n_rows as c_int, n_tokens as c_int, n_cols as c_int, self.w_stride() as c_int);
        let (from, to) = (self.operands as c_int, self.results as c_int);
        let (one, zero) = (1.0f32, 0.0f32);
        let (op, compute, algo) = (self.w_op(), ffi::COMPUTE_32F, ffi::GEMM_DEFAULT);
        if n_batches == 1 {
            // SAFETY: the caller's promise for the spans, whose sizes were checked; scalars are read before the return.
            return unsafe {
                blas.gemm_one(
                    handle,
                    op,
                    ffi::OP_N,
                    m,
                    n,
                    k,
                    &one,
                    self.w,
                    from,
                    stride,
                    self.x,
                    from,
                    k,
                    &zero,
                    self.y,
                    to,
                    m,
                    compute,
                    algo,
                )
            };
        }
        let [w_batch, x_batch, y_batch] =
            [n_rows * n_cols, n_tokens * n_cols, n_tokens * n_rows].map(|n| n as i64);
        // SAFETY: as above.
        unsafe {
            blas.gemm(
                handle,
                op,
                ffi::OP_N,
                m,
                n,
                k,
                &one,
                self.w,
                from,
                stride,
                w_batch,
                self.x,
                from,
                k,
                x_batch,
                &zero,
                self.y,
                to,
                m,
                y_batch,
                n_batches as c_int,
                compute,
                algo,
            )
        }
    }
}

impl std::fmt::Display for Product {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Shape { n_tokens, n_rows, n_cols, n_batches, .. } = self.shape;
        write!(
            f,
            "{n_batches} of {n_tokens} x {n_rows} x {n_cols}, {:?} to {:?}",
            self.operands, self.results
        )
    }
}

/// A shape as cuBLASLt wants it. Read column by column, a matrix of this project is its transpose: so yᵀ = w · xᵀ is asked
/// for, with w as the first operand.
pub(super) struct Descriptors<'a> {
    lt: &'a Lt,
    pub desc: Handle,
    pub w: Handle,
    pub x: Handle,
    pub y: Handle,
}

impl<'a> Descriptors<'a> {
    pub fn new(lt: &'a Lt, product: &Product) -> Result<Self> {
        let Shape { n_tokens, n_rows, n_cols, w_by_cols, n_batches } = product.shape;
        let mut this = Descriptors {
            lt,
            desc: std::ptr::null_mut(),
            w: std::ptr::null_mut(),
            x: std::ptr::null_mut(),
            y: std::ptr::null_mut(),
        };
        // SAFETY: a place for a handle.
        unsafe { lt.desc_create(&mut this.desc, ffi::COMPUTE_32F, DataType::F32 as c_int) }?;
        for (attribute, op) in [(ffi::DESC_TRANSA, product.w_op()), (ffi::DESC_TRANSB, ffi::OP_N)] {
            // SAFETY: the attribute is an i32.
            unsafe { lt.desc_set(this.desc, attribute, address(&op), size_of_val(&op)) }?;
        }
        let (w_rows, w_cols) = if w_by_cols { (n_rows, n_cols) } else { (n_cols, n_rows) };
        this.w = layout(lt, product.operands, [w_rows, w_cols], n_batches)?;
        this.x = layout(lt, product.operands, [n_cols, n_tokens], n_batches)?;
        this.y = layout(lt, product.results, [n_rows, n_tokens], n_batches)?;
        Ok(this)
    }

    /// What an algorithm may use. The caller destroys it.
    pub fn preference(&self, workspace_bytes: u64) -> Result<Handle> {
        let mut preference = std::ptr::null_mut();
        // SAFETY: a place for a handle; the attribute is a u64.
        unsafe {
            self.lt.preference_create(&mut preference)?;
            let n_bytes = size_of_val(&workspace_bytes);
            self.lt.preference_set(
                preference,
                ffi::PREF_MAX_WORKSPACE_BYTES,
                address(&workspace_bytes),
                n_bytes,
            )?;
        }
        Ok(preference)
    }
}

/// The layout of dense matrices, column by column, each behind the last.
fn layout(lt: &Lt, ty: DataType, [rows, cols]: [usize; 2], n_batches: usize) -> Result<Handle> {
    let mut layout = std::ptr::null_mut();
    // SAFETY: a place for a handle.
    unsafe { lt.layout_create(&mut layout, ty as c_int, rows as u64, cols as u64, rows as i64) }?;
    if n_batches > 1 {
        let (count, offset) = (n_batches as i32, (rows * cols) as i64);
        // SAFETY: the attributes are an i32 and an i64.
        unsafe {
            lt.layout_set(layout, ffi::LAYOUT_BATCH_COUNT, address(&count), size_of_val(&count))?;
            lt.layout_set(layout, ffi::LAYOUT_STRIDED_BATCH_OFFSET, address(&offset), size_of_val(&offset))?;
        }
    }
    Ok(layout)
}

fn address<T>(value: &T) -> *const c_void {
    std::ptr::from_ref(value).cast()
}

impl Drop for Descriptors<'_> {
    fn drop(&mut self) {
        for layout in [self.w, self.x, self.y] {
            if !layout.is_null() {
                // SAFETY: made by `new`, used by nobody any more. A failure has nobody to be told to.
                let _ = unsafe { self.lt.layout_destroy(layout) };
            }
        }
        if !self.desc.is_null() {
            // SAFETY: as above.
            let _ = unsafe { self.lt.desc_destroy(self.desc) };
        }
    }
}

//! The vendor's matrix library as a peer: found at run time, never linked, and only here.

pub mod ffi;
pub mod find;
mod product;

use std::ffi::c_int;
use std::path::Path;

use kernels_gpu::launch::{Device, DeviceBuffer, Purpose};
use oxwarp::cuda::Cuda;

use crate::error::{Error, Result};
use ffi::{Blas, Handle, Heuristic, Lt};

pub use ffi::DataType;
use product::Descriptors;
pub use product::{Operand, Product, Shape};

/// Workspace that the library may use: what its manual advises for this generation is 32 MiB, and no less for split sums.
const WORKSPACE_BYTES: usize = 128 << 20;

/// Algorithms that the library may propose for a product.
const CANDIDATES_MAX: usize = 16;

/// Both of the vendor's libraries, on the stream of one device.
pub struct Vendor {
    lt: Lt,
    lt_handle: Handle,
    /// Not everybody who has one library has the other.
    blas: Option<(Blas, Handle)>,
    workspace: DeviceBuffer<u8>,
    stream: Handle,
    /// What the results say was compared with.
    pub name: String,
}

/// An algorithm of cuBLASLt for one shape.
#[derive(Clone, Copy)]
pub struct Algorithm(Heuristic);

impl PartialEq for Algorithm {
    fn eq(&self, other: &Self) -> bool {
        self.0.algo == other.0.algo
    }
}

impl Vendor {
    /// Finds the libraries; the reason where there are none.
    pub fn find(device: &Cuda, told: Option<&Path>, python: &Path) -> Result<Self, String> {
        let paths = find::candidates("cublasLt", told, python.as_os_str());
        let mut why =
            format!("nothing to try{}", told.map_or(String::new(), |t| format!(" in {}", t.display())));
        for path in paths {
            match Lt::open(&path) {
                Ok(lt) => return Self::on(device, lt, &path).map_err(|error| error.to_string()),
                Err(error) => why = format!("{}: {error}", path.display()),
            }
        }
        Err(format!("no cuBLASLt: {why} (--cublas FOLDER says where it is)"))
    }

    fn on(device: &Cuda, lt: Lt, path: &Path) -> Result<Self> {
        // Makes the context current, in which the libraries will work.
        let workspace = device.alloc::<u8>(WORKSPACE_BYTES, Purpose::Other)?;
        let mut lt_handle = std::ptr::null_mut();
        // SAFETY: a place for a handle; a context is current.
        unsafe { lt.create(&mut lt_handle) }?;
        let version = lt.version().map_or("unknown".into(), shown_version);
        let stream: Handle = device.stream_handle();
        // The sister has the same version and lies beside it.
        let sister = path.to_string_lossy().replace("libcublasLt.so", "libcublas.so");
        let blas = match Blas::open(Path::new(&sister)) {
            Ok(blas) => Some(Self::start(blas, stream, &workspace)?),
            Err(_) => None,
        };
        let name = format!("cuBLASLt {version}{}", if blas.is_some() { " and cuBLAS" } else { "" });
        Ok(Vendor { lt, lt_handle, blas, workspace, stream, name })
    }

    fn start(blas: Blas, stream: Handle, workspace: &DeviceBuffer<u8>) -> Result<(Blas, Handle)> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: a place for a handle; the stream belongs to the current context; the workspace lives as long as the
        // handle, and is set after the stream, which resets it.
        unsafe {
            blas.create(&mut handle)?;
            blas.set_stream(handle, stream)?;
            blas.set_workspace(handle, workspace.address(), workspace.len())?;
        }
        Ok((blas, handle))
    }

    /// What cuBLASLt proposes for a product, its first choice first.
    ///
    /// # Errors
    /// Those of the library, or that it proposes nothing.
    pub fn algorithms(&self, product: &Product) -> Result<Vec<Algorithm>> {
        let descriptors = Descriptors::new(&self.lt, product)?;
        let preference = descriptors.preference(WORKSPACE_BYTES as u64)?;
        let mut found = [Heuristic::default(); CANDIDATES_MAX];
        let mut n_found: c_int = 0;
        let Descriptors { desc, w, x, y, .. } = &descriptors;
        // SAFETY: descriptors of this library, and places for as many results as are asked for.
        let asked = unsafe {
            self.lt.heuristic(
                self.lt_handle,
                *desc,
                *w,
                *x,
                *y,
                *y,
                preference,
                CANDIDATES_MAX as c_int,
                found.as_mut_ptr(),
                &mut n_found,
            )
        };
        // SAFETY: made above, used by nobody any more.
        unsafe { self.lt.preference_destroy(preference) }?;
        asked?;
        let found = &found[..n_found.unsigned_abs() as usize];
        let valid: Vec<_> = found.iter().filter(|result| result.state == 0).map(|&r| Algorithm(r)).collect();
        if valid.is_empty() { Err(Error::NoAlgorithm { product: product.to_string() }) } else { Ok(valid) }
    }

    /// The products of a shape, ready to be queued again and again.
    pub fn prepare(&self, product: &Product) -> Result<Prepared<'_>> {
        Ok(Prepared { vendor: self, descriptors: Descriptors::new(&self.lt, product)? })
    }

    /// Whether cuBLAS is there too.
    pub fn has_blas(&self) -> bool {
        self.blas.is_some()
    }

    /// Queues a product by cuBLAS and its own heuristic.
    ///
    /// # Safety
    /// The product's operands are in live memory of the device, and nothing else uses its result.
    pub unsafe fn queue_blas(&self, product: &Product) -> Result<()> {
        let Some((blas, handle)) = &self.blas else { panic!("no cuBLAS, and asked for a product") };
        // SAFETY: the caller's promise; `Product` has checked the spans.
        unsafe { product.queue_blas(blas, *handle) }
    }
}

/// A product's shape with its descriptors.
pub struct Prepared<'a> {
    vendor: &'a Vendor,
    descriptors: Descriptors<'a>,
}

impl Prepared<'_> {
    /// Queues a product of this shape by cuBLASLt.
    ///
    /// # Safety
    /// As [`Vendor::queue_blas`].
    pub unsafe fn queue(&self, product: &Product, algorithm: &Algorithm) -> Result<()> {
        let Vendor { lt, lt_handle, workspace, stream, .. } = self.vendor;
        let Descriptors { desc, w, x, y, .. } = &self.descriptors;
        let (one, zero) = (1.0f32, 0.0f32);
        let needed = algorithm.0.workspace_bytes;
        assert!(needed <= workspace.len(), "an algorithm with a workspace of {needed} bytes");
        // SAFETY: descriptors of this shape; the operands are the caller's promise; the workspace is ours, and used in the
        // order of the stream.
        unsafe {
            lt.matmul(
                *lt_handle,
                *desc,
                &one,
                product.w,
                *w,
                product.x,
                *x,
                &zero,
                product.y,
                *y,
                product.y,
                *y,
                &algorithm.0.algo,
                workspace.address(),
                workspace.len(),
                *stream,
            )
        }
    }
}

impl Drop for Vendor {
    fn drop(&mut self) {
        // SAFETY: handles of ours, used by nobody any more. A failure has nobody to be told to.
        unsafe {
            let _ = self.lt.destroy(self.lt_handle);
            if let Some((blas, handle)) = &self.blas {
                let _ = blas.destroy(*handle);
            }
        }
    }
}

/// 130002 as 13.0.2: since version 12 the parts have four, two, two digits.
fn shown_version(version: usize) -> String {
    format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_three_parts() {
        assert_eq!(shown_version(130_002), "13.0.2");
        assert_eq!(shown_version(120_805), "12.8.5");
    }
}

//! The few entries of cuBLASLt and cuBLAS that products need, as their manuals declare them
//! (<https://docs.nvidia.com/cuda/cublas/>).

use std::ffi::{c_int, c_void};
use std::path::Path;

use libloading::Library;

use crate::error::{Error, Result};

/// `cudaDataType_t`.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataType {
    F32 = 0,
    F16 = 2,
    Bf16 = 14,
}

/// `CUBLAS_COMPUTE_32F`: products of 16-bit numbers added up in f32.
pub const COMPUTE_32F: c_int = 68;
/// `CUBLAS_OP_N`, `CUBLAS_OP_T`.
pub const OP_N: c_int = 0;
pub const OP_T: c_int = 1;
/// `CUBLASLT_MATMUL_DESC_TRANSA`, `_TRANSB`: an i32.
pub const DESC_TRANSA: c_int = 3;
pub const DESC_TRANSB: c_int = 4;
/// `CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT`: an i32.
pub const LAYOUT_BATCH_COUNT: c_int = 5;
/// `CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET`: an i64, in elements.
pub const LAYOUT_STRIDED_BATCH_OFFSET: c_int = 6;
/// `CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES`: a u64.
pub const PREF_MAX_WORKSPACE_BYTES: c_int = 1;
/// `CUBLAS_GEMM_DEFAULT`: the library's own heuristic.
pub const GEMM_DEFAULT: c_int = -1;

/// `cublasLtHandle_t`, `cublasLtMatmulDesc_t`, `cublasLtMatrixLayout_t`, `cublasLtMatmulPreference_t`, `cublasHandle_t`,
/// `cudaStream_t`: all of them pointers to something that is not ours.
pub type Handle = *mut c_void;

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Heuristic {
    /// `cublasLtMatmulAlgo_t`.
    pub algo: [u64; 8],
    pub workspace_bytes: usize,
    /// A status: the rest is only valid where it is 0.
    pub state: c_int,
    pub waves: f32,
    reserved: [c_int; 4],
}

const _: () = assert!(size_of::<Heuristic>() == 96 && align_of::<Heuristic>() == 8);

/// A struct of function pointers, filled from a library by their names; each becomes a method that checks the status.
macro_rules! entries {
    ($(#[$doc:meta])* $table:ident { $(fn $name:ident = $symbol:literal ($($arg:ident: $ty:ty),* $(,)?);)* }) => {
        $(#[$doc])*
        pub struct $table {
            $($name: unsafe extern "C" fn($($ty),*) -> c_int,)*
            /// Keeps the functions where they are.
            _library: Library,
        }

        impl $table {
            /// Finds every entry in the library at `path`, which may also be a bare name for the dynamic loader.
            ///
            /// # Errors
            /// The loader's words.
            pub fn open(path: &Path) -> Result<Self, libloading::Error> {
                // SAFETY: the vendor's libraries run no initialiser that this program must prepare for.
                let library = unsafe { Library::new(path) }?;
                Ok($table {
                    // SAFETY: the entry of this name has this signature, by its manual.
                    $($name: *unsafe { library.get(concat!($symbol, "\0").as_bytes()) }?,)*
                    _library: library,
                })
            }

            $(
                /// The entry of this name.
                ///
                /// # Safety
                /// What its manual asks of the arguments.
                #[allow(clippy::too_many_arguments)] // The library's own.
                pub unsafe fn $name(&self, $($arg: $ty),*) -> Result<()> {
                    // SAFETY: the caller's promise.
                    match unsafe { (self.$name)($($arg),*) } {
                        0 => Ok(()),
                        status => Err(Error::Vendor { call: $symbol, status }),
                    }
                }
            )*
        }
    };
}

entries! {
    /// cuBLASLt.
    Lt {
        fn create = "cublasLtCreate"(handle: *mut Handle);
        fn destroy = "cublasLtDestroy"(handle: Handle);
        fn desc_create = "cublasLtMatmulDescCreate"(desc: *mut Handle, compute: c_int, scale: c_int);
        fn desc_set = "cublasLtMatmulDescSetAttribute"(desc: Handle, attribute: c_int, value: *const c_void, n_bytes: usize);
        fn desc_destroy = "cublasLtMatmulDescDestroy"(desc: Handle);
        fn layout_create = "cublasLtMatrixLayoutCreate"(layout: *mut Handle, ty: c_int, rows: u64, cols: u64, stride: i64);
        fn layout_set = "cublasLtMatrixLayoutSetAttribute"(layout: Handle, attribute: c_int, value: *const c_void, n_bytes: usize);
        fn layout_destroy = "cublasLtMatrixLayoutDestroy"(layout: Handle);
        fn preference_create = "cublasLtMatmulPreferenceCreate"(preference: *mut Handle);
        fn preference_set = "cublasLtMatmulPreferenceSetAttribute"(preference: Handle, attribute: c_int, value: *const c_void, n_bytes: usize);
        fn preference_destroy = "cublasLtMatmulPreferenceDestroy"(preference: Handle);
        fn heuristic = "cublasLtMatmulAlgoGetHeuristic"(
            handle: Handle, desc: Handle, a: Handle, b: Handle, c: Handle, d: Handle, preference: Handle,
            n_wanted: c_int, results: *mut Heuristic, n_found: *mut c_int,
        );
        fn matmul = "cublasLtMatmul"(
            handle: Handle, desc: Handle, alpha: *const f32, a: u64, a_layout: Handle, b: u64, b_layout: Handle,
            beta: *const f32, c: u64, c_layout: Handle, d: u64, d_layout: Handle, algo: *const [u64; 8],
            workspace: u64, workspace_bytes: usize, stream: Handle,
        );
    }
}

entries! {
    /// cuBLAS.
    Blas {
        fn create = "cublasCreate_v2"(handle: *mut Handle);
        fn destroy = "cublasDestroy_v2"(handle: Handle);
        fn set_stream = "cublasSetStream_v2"(handle: Handle, stream: Handle);
        fn set_workspace = "cublasSetWorkspace_v2"(handle: Handle, workspace: u64, n_bytes: usize);
        fn gemm = "cublasGemmStridedBatchedEx"(
            handle: Handle, op_a: c_int, op_b: c_int, m: c_int, n: c_int, k: c_int, alpha: *const f32,
            a: u64, a_type: c_int, a_stride: c_int, a_batch: i64,
            b: u64, b_type: c_int, b_stride: c_int, b_batch: i64, beta: *const f32,
            c: u64, c_type: c_int, c_stride: c_int, c_batch: i64,
            n_batches: c_int, compute: c_int, algo: c_int,
        );
        fn gemm_one = "cublasGemmEx"(
            handle: Handle, op_a: c_int, op_b: c_int, m: c_int, n: c_int, k: c_int, alpha: *const f32,
            a: u64, a_type: c_int, a_stride: c_int, b: u64, b_type: c_int, b_stride: c_int, beta: *const f32,
            c: u64, c_type: c_int, c_stride: c_int, compute: c_int, algo: c_int,
        );
    }
}

impl Lt {
    /// E.g. 130002 for 13.0.2.
    pub fn version(&self) -> Option<usize> {
        // SAFETY: the entry takes nothing and gives a size.
        let version: libloading::Symbol<'_, unsafe extern "C" fn() -> usize> =
            unsafe { self._library.get(b"cublasLtGetVersion\0") }.ok()?;
        // SAFETY: as above.
        Some(unsafe { version() })
    }
}

//! What can go wrong between this program and a GPU.

use std::ffi::{CStr, c_char};
use std::fmt;

use super::driver::{CUDA_ERROR_STUB_LIBRARY, Entry};
use kernels_gpu::launch::Purpose;

/// A failure of the GPU layer. Every message says what was found, what was wanted, and what to do where there is
/// something to do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The driver's library is not there, or cannot be loaded.
    #[error("no NVIDIA driver ({why})")]
    NoDriver { why: String },
    /// The driver works and sees no GPU.
    #[error("the NVIDIA driver sees no GPU{}", hidden(.visible_devices))]
    NoGpu {
        /// Value of `CUDA_VISIBLE_DEVICES`, which hides GPUs.
        visible_devices: Option<String>,
    },
    /// A GPU was asked for by a number that none has.
    #[error("there is no GPU {index}: the driver sees {n_gpus}, numbered from 0")]
    NoSuchGpu { index: u32, n_gpus: u32 },
    /// The GPU is older than every module.
    #[error(
        "{gpu} has compute capability {found}; needed is {needed} or newer. --device cpu works without a GPU"
    )]
    GpuTooOld { gpu: String, found: Version, needed: Version },
    /// The driver cannot compile the module's PTX.
    #[error(
        "the NVIDIA driver supports CUDA {found}, but module {module} (PTX {ptx}) needs CUDA {needed}: install a newer \
         driver, or use --device cpu"
    )]
    DriverTooOld { module: &'static str, ptx: Version, found: Version, needed: Version },
    /// This program was built without the module for this GPU.
    #[error(
        "this program contains no GPU module for {target} (it has: {present}): run `cargo xtask build-ptx`, then build \
         again"
    )]
    NoModule { target: &'static str, present: String },
    /// The module was built from other sources than this program.
    #[error(
        "GPU module {target} is stale: built from kernel sources {found:?}, this program from {expected:?}: run \
         `cargo xtask build-ptx`, then build again"
    )]
    StaleModule { target: &'static str, found: &'static str, expected: &'static str },
    /// The driver refuses the module.
    #[error("the NVIDIA driver refuses GPU module {target}: {source}{}", indented(.log))]
    BadModule {
        target: &'static str,
        source: CallError,
        /// What the driver's compiler wrote.
        log: String,
    },
    /// The module lacks a kernel that the program has a launch struct for.
    #[error("GPU module {target} has no kernel {kernel:?}: run `cargo xtask build-ptx`, then build again")]
    MissingKernel { target: &'static str, kernel: &'static str },
    /// A kernel needs more of something than the GPU has.
    #[error("kernel {kernel} needs {needed} {what}, the GPU allows {allowed}")]
    LaunchLimit { kernel: &'static str, what: &'static str, needed: u64, allowed: u64 },
    /// The GPU's memory does not suffice.
    #[error("out of GPU memory: {required} bytes for {}, of which {available} are available", purpose_name(*.purpose))]
    OutOfMemory { purpose: Purpose, required: u64, available: u64 },
    /// A kernel did something illegal. The GPU's context is lost: this process can use the GPU no more.
    #[error("{}: {source}", faulty(.kernel))]
    KernelFault {
        /// The kernel, where each launch was waited for (`OXWARP_SYNC=1`).
        kernel: Option<&'static str>,
        /// The call that noticed.
        source: CallError,
    },
    /// Any other failed call.
    #[error(transparent)]
    Call(CallError),
}

impl From<CallError> for Error {
    fn from(source: CallError) -> Self {
        match source.is_sticky() {
            true => Error::KernelFault { kernel: None, source },
            false => Error::Call(source),
        }
    }
}

/// A driver entry that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call} failed: {name} ({code})")]
pub struct CallError {
    /// The entry, e.g. `cuMemAlloc_v2`.
    pub call: &'static str,
    /// The driver's code.
    pub code: u32,
    /// The driver's name of the code.
    pub name: String,
}

impl CallError {
    /// The error that `code` means; none for success.
    pub(super) fn check(call: &'static str, code: u32) -> Result<(), CallError> {
        match code {
            0 => Ok(()),
            _ => Err(CallError { call, code, name: code_name(code) }),
        }
    }

    /// Whether the context is lost: every later call will fail in the same way.
    pub fn is_sticky(&self) -> bool {
        // Illegal address, time-out, assertion, stack, instruction, misaligned, address space, program counter, failure;
        // then the kinds that newer drivers added behind 720.
        matches!(self.code, 214 | 220 | 700 | 702 | 710 | 714..=719 | 721..=799)
    }
}

/// The driver's name of a code, e.g. `CUDA_ERROR_NO_DEVICE`.
fn code_name(code: u32) -> String {
    if code == CUDA_ERROR_STUB_LIBRARY {
        return "CUDA_ERROR_STUB_LIBRARY: no driver, or one that lacks this entry".into();
    }
    type GetErrorName = unsafe extern "C" fn(u32, *mut *const c_char) -> u32;
    // SAFETY: the slot holds an entry of this type, or a function without parameters, which the C calling convention
    // allows to be called with any.
    let get_name = unsafe { std::mem::transmute::<*const (), GetErrorName>(Entry::cuGetErrorName.address()) };
    let mut name = std::ptr::null();
    // SAFETY: `name` is a place for one pointer.
    let found = unsafe { get_name(code, &mut name) } == 0 && !name.is_null();
    if !found {
        return "unknown code".into();
    }
    // SAFETY: the driver gave a zero-terminated string that lives as long as its library, which is never unloaded.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}

/// A version of two numbers: a compute capability, CUDA, PTX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl Version {
    pub const fn new(major: u32, minor: u32) -> Self {
        Version { major, minor }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What memory of a purpose is called in messages.
pub(super) fn purpose_name(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Weights => "weights",
        Purpose::KvCache => "the KV cache",
        Purpose::Activations => "activations",
        Purpose::Other => "tables and staging",
    }
}

fn hidden(visible_devices: &Option<String>) -> String {
    match visible_devices {
        Some(value) => format!(" (CUDA_VISIBLE_DEVICES={value:?})"),
        None => String::new(),
    }
}

fn indented(log: &str) -> String {
    log.lines().map(|line| format!("\n    {line}")).collect()
}

fn faulty(kernel: &Option<&'static str>) -> String {
    match kernel {
        Some(kernel) => format!("kernel {kernel} faulted"),
        None => "a kernel faulted (OXWARP_SYNC=1 finds out which)".into(),
    }
}

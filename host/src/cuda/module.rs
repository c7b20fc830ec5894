//! The PTX modules that this program carries, and the kernels in them.

use std::collections::HashMap;
use std::ffi::{CString, c_int, c_void};
use std::sync::Arc;

use cust::sys::{CUfunction, CUmodule};
use kernels_gpu::launch::{KernelMeta, all_kernels};

use super::Error;
use super::error::Version;
use super::raw::{self, FunctionAttribute, JitOption};
use super::vram::Vram;

/// What host/build.rs embedded: `SOURCE_HASH`, `EmbeddedModule`, `MODULES`.
mod embedded {
    include!(concat!(env!("OUT_DIR"), "/ptx_modules.rs"));
}

use embedded::{EmbeddedModule, MODULES, SOURCE_HASH};

/// The oldest compute capability that a module exists for.
const OLDEST_GPU: Version = Version::new(8, 0);

/// The module of compute capability 9.0, with instructions that no other has.
const HOPPER: &str = "sm_90a";

/// More dynamic shared memory than this must be asked for.
const SHARED_BYTES_DEFAULT: u32 = 48 * 1024;

const CUDA_ERROR_UNSUPPORTED_PTX_VERSION: u32 = 222;

/// What the driver's compiler may write of its errors.
const LOG_BYTES: usize = 8 * 1024;

/// A loaded module with all of this crate's kernels resolved.
pub(super) struct Module {
    handle: CUmodule,
    kernels: HashMap<&'static str, Kernel>,
    vram: Arc<Vram>,
}

// SAFETY: modules and functions belong to the context, which any thread may use that has made it current.
unsafe impl Send for Module {}
// SAFETY: as above; nothing here changes after loading.
unsafe impl Sync for Module {}

/// A kernel that can be launched.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    pub function: CUfunction,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of local memory of a thread.
    pub local_bytes: u32,
}

/// What of the GPU and its driver decides about modules.
pub(super) struct Target<'a> {
    pub gpu: &'a str,
    pub capability: Version,
    /// The newest CUDA version that the driver knows.
    pub cuda: Version,
    /// Dynamic shared memory that a block can have.
    pub shared_bytes_max: u32,
}

impl Module {
    /// Compiles and loads the module for the current GPU and finds every kernel that this program can launch.
    ///
    /// # Errors
    /// A GPU or driver that is too old; a module that is missing, stale, or refused; a kernel that it lacks.
    pub(super) fn load(vram: &Arc<Vram>, target: &Target<'_>) -> Result<Self, Error> {
        let source = choose(MODULES, target.gpu, target.capability)?;
        check_version(source, target.cuda)?;
        vram.bind()?;
        let mut module =
            Module { handle: load(source, target)?, kernels: HashMap::new(), vram: Arc::clone(vram) };
        // Tests link kernels of their own, which the module cannot have.
        let is_hopper = source.target == HOPPER;
        let has =
            |meta: &&KernelMeta| meta.module.starts_with("kernels_gpu::") && (is_hopper || !meta.sm_90a);
        for meta in all_kernels().into_iter().filter(has) {
            let kernel = module.resolve(meta, source.target, target.shared_bytes_max)?;
            module.kernels.insert(meta.name, kernel);
        }
        Ok(module)
    }

    /// The kernel of this name; none if it is not one of kernels-gpu.
    pub(super) fn kernel(&self, name: &str) -> Option<Kernel> {
        self.kernels.get(name).copied()
    }

    fn resolve(
        &self,
        meta: &KernelMeta,
        target: &'static str,
        shared_bytes_max: u32,
    ) -> Result<Kernel, Error> {
        let symbol = CString::new(meta.name).expect("a Rust name has no zero");
        let mut function = std::ptr::null_mut();
        // SAFETY: `function` is a place for a handle, `symbol` a C string, the module is loaded.
        unsafe { raw::cuModuleGetFunction(&mut function, self.handle, symbol.as_ptr()) }
            .map_err(|_| Error::MissingKernel { target, kernel: meta.name })?;
        // A GPU with less shared memory can still run everything else: `launch` refuses what is too much.
        if meta.shared_bytes > SHARED_BYTES_DEFAULT && meta.shared_bytes <= shared_bytes_max {
            let attribute = FunctionAttribute::MaxDynamicSharedBytes as c_int;
            // SAFETY: a function of a loaded module, and a value within the GPU's limit.
            unsafe { raw::cuFuncSetAttribute(function, attribute, meta.shared_bytes as c_int) }?;
        }
        // Reading an attribute also brings the kernel's code to the GPU, which must not happen during a capture.
        let registers = attribute(function, FunctionAttribute::Registers)?;
        let local_bytes = attribute(function, FunctionAttribute::LocalBytes)?;
        Ok(Kernel { function, registers, local_bytes })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: loaded by `load`; its functions went with `self`.
        self.vram.tear_down(|| unsafe { raw::cuModuleUnload(self.handle) });
    }
}

fn attribute(function: CUfunction, attribute: FunctionAttribute) -> Result<u32, Error> {
    let mut value = 0;
    // SAFETY: `value` is a place for a number, `function` one of a loaded module.
    unsafe { raw::cuFuncGetAttribute(&mut value, attribute as c_int, function) }?;
    Ok(value.unsigned_abs())
}

/// The module for a GPU: `sm_90a` has instructions of Hopper alone, `sm_80` runs on everything from Ampere on.
fn choose<'m>(
    modules: &'m [EmbeddedModule],
    gpu: &str,
    capability: Version,
) -> Result<&'m EmbeddedModule, Error> {
    if capability < OLDEST_GPU {
        return Err(Error::GpuTooOld { gpu: gpu.into(), found: capability, needed: OLDEST_GPU });
    }
    let target = if capability == Version::new(9, 0) { HOPPER } else { "sm_80" };
    let Some(module) = modules.iter().find(|module| module.target == target) else {
        let present = modules.iter().map(|module| module.target).collect::<Vec<_>>().join(", ");
        let present = if present.is_empty() { "none".into() } else { present };
        return Err(Error::NoModule { target, present });
    };
    if module.stamp != SOURCE_HASH {
        return Err(Error::StaleModule { target, found: module.stamp, expected: SOURCE_HASH });
    }
    Ok(module)
}

fn check_version(module: &EmbeddedModule, cuda: Version) -> Result<(), Error> {
    let ptx = ptx_version(module.ptx).unwrap_or(Version::new(0, 0));
    let needed = cuda_of_ptx(ptx);
    if cuda < needed {
        return Err(Error::DriverTooOld { module: module.target, ptx, found: cuda, needed });
    }
    Ok(())
}

/// The version that a module's `.version` line states.
fn ptx_version(ptx: &str) -> Option<Version> {
    let line = ptx.lines().find_map(|line| line.trim().strip_prefix(".version"))?;
    let (major, minor) = line.trim().split_once('.')?;
    Some(Version::new(major.parse().ok()?, minor.parse().ok()?))
}

/// The first CUDA version whose driver compiles a PTX version.
fn cuda_of_ptx(ptx: Version) -> Version {
    match (ptx.major, ptx.minor) {
        (..=7, minor) => Version::new(11, minor),
        // CUDA 12.6 brought no PTX of its own.
        (8, minor @ ..=5) => Version::new(12, minor),
        (8, minor) => Version::new(12, minor + 1),
        (major, minor) => Version::new(major + 4, minor),
    }
}

/// Loads machine code where it is this GPU's and the driver takes it; else the driver compiles the text, which takes long the
/// first time.
fn load(module: &EmbeddedModule, target: &Target<'_>) -> Result<CUmodule, Error> {
    if let Some(cubin) = module.cubin.filter(|_| runs_machine_code(module.target, target.capability)) {
        let mut handle = std::ptr::null_mut();
        // SAFETY: machine code as ptxas made it, which says its own length.
        let loaded = unsafe {
            raw::cuModuleLoadDataEx(
                &mut handle,
                cubin.as_ptr().cast(),
                0,
                std::ptr::null(),
                std::ptr::null_mut(),
            )
        };
        if loaded.is_ok() {
            return Ok(handle);
        }
    }
    compile(module, target.cuda)
}

/// Whether a GPU runs the machine code of a target: code for 8.0 runs on all of 8.x, code for `sm_90a` on 9.0 alone.
fn runs_machine_code(target: &str, capability: Version) -> bool {
    match target {
        HOPPER => capability == Version::new(9, 0),
        _ => capability.major == OLDEST_GPU.major,
    }
}

fn compile(module: &EmbeddedModule, cuda: Version) -> Result<CUmodule, Error> {
    let text = CString::new(module.ptx).expect("host/build.rs embeds text");
    let mut log = vec![0u8; LOG_BYTES];
    let options = [JitOption::ErrorLog as c_int, JitOption::ErrorLogBytes as c_int];
    // The driver wants numbers in the places of pointers.
    let mut values = [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(LOG_BYTES)];
    let mut handle = std::ptr::null_mut();
    // SAFETY: the text ends in a zero; two options with two values; the log has the bytes that the second states.
    let loaded = unsafe {
        raw::cuModuleLoadDataEx(&mut handle, text.as_ptr().cast(), 2, options.as_ptr(), values.as_mut_ptr())
    };
    let Err(source) = loaded else { return Ok(handle) };
    if source.code == CUDA_ERROR_UNSUPPORTED_PTX_VERSION {
        let ptx = ptx_version(module.ptx).unwrap_or(Version::new(0, 0));
        return Err(Error::DriverTooOld {
            module: module.target,
            ptx,
            found: cuda,
            needed: cuda_of_ptx(ptx),
        });
    }
    let log = String::from_utf8_lossy(&log);
    Err(Error::BadModule {
        target: module.target,
        source,
        log: log.trim_end_matches('\0').trim().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(target: &'static str) -> EmbeddedModule {
        EmbeddedModule { target, stamp: SOURCE_HASH, ptx: "//\n.version 8.0\n.target sm_80\n", cubin: None }
    }

    fn chosen(modules: &[EmbeddedModule], major: u32, minor: u32) -> Result<&'static str, String> {
        let module = choose(modules, "Test GPU", Version::new(major, minor));
        module.map(|module| module.target).map_err(|error| error.to_string())
    }

    #[test]
    fn hopper_gets_its_own_module_and_all_others_the_portable_one() {
        let modules = [module("sm_80"), module("sm_90a")];
        for (major, minor, target) in [(8, 0, "sm_80"), (8, 9, "sm_80"), (9, 0, "sm_90a"), (10, 0, "sm_80")] {
            assert_eq!(chosen(&modules, major, minor).as_deref(), Ok(target), "{major}.{minor}");
        }
    }

    #[test]
    fn a_module_that_cannot_serve_is_refused_by_name() {
        assert_eq!(
            chosen(&[module("sm_80")], 7, 5).unwrap_err(),
            "Test GPU has compute capability 7.5; needed is 8.0 or newer. --device cpu works without a GPU"
        );
        assert_eq!(
            chosen(&[module("sm_80")], 9, 0).unwrap_err(),
            "this program contains no GPU module for sm_90a (it has: sm_80): run `cargo xtask build-ptx`, then build \
             again"
        );
        assert!(chosen(&[], 8, 6).unwrap_err().contains("for sm_80 (it has: none)"));
        let stale = EmbeddedModule { stamp: "0123", ..module("sm_80") };
        let message = chosen(&[stale], 8, 6).unwrap_err();
        assert!(
            message.starts_with("GPU module sm_80 is stale: built from kernel sources \"0123\""),
            "{message}"
        );
    }

    #[test]
    fn machine_code_is_for_its_own_generation() {
        for (target, major, minor, expected) in [
            ("sm_80", 8, 0, true),
            ("sm_80", 8, 9, true),
            ("sm_80", 12, 0, false),
            ("sm_90a", 9, 0, true),
            ("sm_90a", 10, 0, false),
        ] {
            assert_eq!(
                runs_machine_code(target, Version::new(major, minor)),
                expected,
                "{target}, {major}.{minor}"
            );
        }
    }

    #[test]
    fn an_old_driver_is_told_from_the_version_line() {
        assert!(check_version(&module("sm_80"), Version::new(12, 0)).is_ok());
        let message = check_version(&module("sm_80"), Version::new(11, 8)).unwrap_err().to_string();
        assert_eq!(
            message,
            "the NVIDIA driver supports CUDA 11.8, but module sm_80 (PTX 8.0) needs CUDA 12.0: install a newer driver, \
             or use --device cpu"
        );
    }

    #[test]
    fn every_ptx_version_has_its_cuda_version() {
        // From the release notes of the PTX ISA.
        for (ptx, cuda) in [
            ((7, 0), (11, 0)),
            ((7, 8), (11, 8)),
            ((8, 0), (12, 0)),
            ((8, 5), (12, 5)),
            ((8, 6), (12, 7)),
            ((8, 7), (12, 8)),
            ((8, 8), (12, 9)),
            ((9, 0), (13, 0)),
            ((9, 1), (13, 1)),
        ] {
            assert_eq!(cuda_of_ptx(Version::new(ptx.0, ptx.1)), Version::new(cuda.0, cuda.1), "PTX {ptx:?}");
        }
    }
}

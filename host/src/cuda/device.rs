//! One GPU as a device that kernels are launched on.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::sync::Arc;

use cust::context::Context;
use cust::device::{Device as CustDevice, DeviceAttribute};
use cust::sys::CUstream;
use kernels_gpu::launch::{
    BOX_ROW_BYTES, Device, DeviceBuffer, DeviceSlice, Grid, KernelArgs, Launch, MAX_MATRICES, MAX_PARAMS,
    ParamKind, Purpose,
};
use kernels_gpu::simt::Element;

use super::error::Version;
use super::graph::{QueuedLaunch, Recordings};
use super::module::{Module, Target};
use super::raw::{self, LaunchAttribute, LaunchConfig, TensorMap};
use super::stream::Stream;
use super::vram::{Pinned, Vram, VramUse, cust_error};
use super::{Error, driver};

/// What is known of a GPU and its driver.
#[derive(Clone, Debug)]
pub struct GpuInfo {
    /// The driver's number of it.
    pub index: u32,
    /// E.g. `NVIDIA H100 80GB HBM3`.
    pub name: String,
    pub capability: Version,
    /// The newest CUDA version that the driver knows.
    pub cuda: Version,
    /// All of its memory.
    pub total_bytes: u64,
    pub n_multiprocessors: u32,
    /// Dynamic shared memory that a block can ask for.
    pub shared_bytes_max: u32,
    /// The second-level cache.
    pub l2_bytes: u32,
}

/// A GPU with its kernels loaded, and a stream of work on it.
///
/// Work happens in the order of the calls. A kernel's fault shows up at a later call, unless the environment variable
/// `OXWARP_SYNC=1` makes every launch wait for its kernel.
pub struct Cuda {
    /// The launches of an open batch.
    pub(super) queue: RefCell<Option<Vec<QueuedLaunch>>>,
    pub(super) recordings: RefCell<Recordings>,
    /// Where downloads arrive; made by the first.
    downloads: RefCell<Option<Pinned>>,
    stream: Stream,
    gpu: Arc<Gpu>,
}

/// Downloads go through page-locked memory in pieces of this size.
const DOWNLOAD_BYTES: usize = 1 << 20;

/// What all streams of a GPU share.
struct Gpu {
    info: GpuInfo,
    module: Module,
    vram: Arc<Vram>,
    /// Whether every launch waits for its kernel.
    sync: bool,
}

/// Number of GPUs that the driver shows to this process.
///
/// # Errors
/// [`Error::NoDriver`], [`Error::NoGpu`] (never a count of 0), or a driver that does not work.
pub fn gpu_count() -> Result<u32, Error> {
    driver::load()?;
    let no_gpu = || Error::NoGpu { visible_devices: std::env::var("CUDA_VISIBLE_DEVICES").ok() };
    match cust::init(cust::CudaFlags::empty()) {
        Ok(()) => {}
        Err(cust::error::CudaError::NoDevice) => return Err(no_gpu()),
        Err(error) => return Err(cust_error("cuInit", error)),
    }
    match CustDevice::num_devices().map_err(|error| cust_error("cuDeviceGetCount", error))? {
        0 => Err(no_gpu()),
        n_gpus => Ok(n_gpus),
    }
}

impl Cuda {
    /// Opens GPU `index` and loads the kernels.
    ///
    /// # Errors
    /// No driver, no GPU (of that number), a GPU or driver that is too old, a missing or stale module or kernel.
    pub fn open(index: u32) -> Result<Self, Error> {
        let n_gpus = gpu_count()?;
        if index >= n_gpus {
            return Err(Error::NoSuchGpu { index, n_gpus });
        }
        let device = CustDevice::get_device(index).map_err(|error| cust_error("cuDeviceGet", error))?;
        let info = describe(device, index)?;
        let context = Context::new(device).map_err(|error| cust_error("cuDevicePrimaryCtxRetain", error))?;
        let vram = Vram::new(context);
        let target = Target {
            gpu: &info.name,
            capability: info.capability,
            cuda: info.cuda,
            shared_bytes_max: info.shared_bytes_max,
        };
        let module = Module::load(&vram, &target)?;
        let sync = std::env::var_os("OXWARP_SYNC").is_some_and(|value| value == "1");
        Cuda::on(Arc::new(Gpu { info, module, vram, sync }))
    }

    /// The same GPU with a stream of its own: what is launched there runs beside what is launched here.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn fork(&self) -> Result<Self, Error> {
        Cuda::on(Arc::clone(&self.gpu))
    }

    fn on(gpu: Arc<Gpu>) -> Result<Self, Error> {
        let stream = Stream::new(&gpu.vram)?;
        Ok(Cuda {
            gpu,
            stream,
            queue: RefCell::default(),
            recordings: RefCell::default(),
            downloads: RefCell::default(),
        })
    }

    pub fn info(&self) -> &GpuInfo {
        &self.gpu.info
    }

    /// Bytes that buffers of this device hold, by purpose.
    pub fn vram_use(&self) -> VramUse {
        self.gpu.vram.in_use()
    }

    /// Bytes that the driver could still give, to this process or another.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn available_bytes(&self) -> Result<u64, Error> {
        self.gpu.vram.available_bytes()
    }

    /// Waits until everything launched so far has run.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn synchronize(&self) -> Result<(), Error> {
        self.stream.synchronize(None)
    }

    /// The driver's handle of the stream, a `CUstream`, for libraries that queue work of their own between launches. It is
    /// valid as long as `self`; the context that it belongs to is current in the thread that called `self` last.
    pub fn stream_handle(&self) -> *mut c_void {
        self.raw_stream().cast()
    }

    /// Queues a copy within the GPU's memory.
    ///
    /// # Errors
    /// Those of the driver.
    ///
    /// # Panics
    /// If the lengths differ, or a batch is open.
    pub fn copy_within<T: Element>(
        &self,
        dst: &mut DeviceSlice<T>,
        src: &DeviceSlice<T>,
    ) -> Result<(), Error> {
        assert!(dst.len() == src.len(), "copy of {} elements into {}", src.len(), dst.len());
        self.assert_no_batch("a copy");
        self.gpu.vram.bind()?;
        // SAFETY: both spans have this size and are borrowed, `dst` exclusively, so they do not overlap.
        let queued = unsafe {
            raw::cuMemcpyDtoDAsync_v2(dst.address(), src.address(), src.size_bytes(), self.raw_stream())
        };
        self.gpu.vram.check(queued, None)
    }

    /// Queues a copy of the first bytes of `src`.
    ///
    /// # Safety
    /// `src` is not written to and not freed before the copy has ended, and nothing else uses `dst` until then.
    pub(super) unsafe fn copy_pinned(&self, dst: &DeviceSlice<u8>, src: &Pinned) -> Result<(), Error> {
        assert!(dst.len() <= src.len(), "copy of {} bytes into {}", src.len(), dst.len());
        self.gpu.vram.bind()?;
        // SAFETY: both spans have this size; the rest is the caller's promise.
        let queued = unsafe {
            raw::cuMemcpyHtoDAsync_v2(dst.address(), src.as_ptr().cast(), dst.len(), self.raw_stream())
        };
        self.gpu.vram.check(queued, None)
    }

    /// Registers and bytes of local memory that a thread of this kernel uses; none for a name that no kernel has.
    pub fn kernel_resources(&self, name: &str) -> Option<(u32, u32)> {
        self.gpu.module.kernel(name).map(|kernel| (kernel.registers, kernel.local_bytes))
    }

    pub(super) fn waits_for_each_launch(&self) -> bool {
        self.gpu.sync
    }

    pub(super) fn vram(&self) -> &Arc<Vram> {
        &self.gpu.vram
    }

    pub(super) fn raw_stream(&self) -> CUstream {
        self.stream.raw()
    }

    /// Queues a kernel in the stream.
    pub(super) fn launch_now(&self, launch: &QueuedLaunch) -> Result<(), Error> {
        let QueuedLaunch { meta, args, grid } = launch;
        let Some(kernel) = self.gpu.module.kernel(meta.name) else {
            panic!("kernel {} ({}) is not one of kernels-gpu", meta.name, meta.file);
        };
        self.check_limits(launch)?;
        meta.check_grid(*grid);
        self.gpu.vram.bind()?;
        // One pointer per parameter, to its word; the driver copies what they point to before it returns.
        let mut pointers = [std::ptr::null_mut::<c_void>(); MAX_PARAMS];
        let maps = tensor_maps(args)?;
        let mut maps = maps.iter();
        for ((pointer, word), param) in pointers.iter_mut().zip(args.words()).zip(meta.params) {
            *pointer = match param.kind {
                ParamKind::InBoxes | ParamKind::OutBoxes => {
                    std::ptr::from_ref(maps.next().expect("one per matrix")).cast_mut().cast()
                }
                _ => std::ptr::from_ref(word).cast_mut().cast(),
            };
        }
        let attribute = LaunchAttribute::programmatic_serialization();
        let config = LaunchConfig {
            grid: [grid.x, grid.y, grid.z],
            block: [meta.threads, 1, 1],
            shared_bytes: meta.shared_bytes,
            stream: self.raw_stream(),
            attributes: &attribute,
            n_attributes: u32::from(meta.pdl),
        };
        // SAFETY: a kernel of the loaded module, with as many pointers to parameters as it has, of the types that
        // `#[kernel]` took from its own signature; the buffers behind them are borrowed by the launch.
        let queued = unsafe {
            raw::cuLaunchKernelEx(&config, kernel.function, pointers.as_mut_ptr(), std::ptr::null_mut())
        };
        self.gpu.vram.check(queued, None)?;
        if self.gpu.sync { self.stream.synchronize(Some(meta.name)) } else { Ok(()) }
    }

    /// Copies up to [`DOWNLOAD_BYTES`] bytes from `address`, after everything launched before.
    fn download_piece(&self, address: u64, dst: &mut [u8]) -> Result<(), Error> {
        let mut downloads = self.downloads.borrow_mut();
        let pinned = match &mut *downloads {
            Some(pinned) => pinned,
            none => none.insert(Pinned::new(&self.gpu.vram, DOWNLOAD_BYTES)?),
        };
        assert!(dst.len() <= pinned.len(), "a piece of {} bytes", dst.len());
        self.gpu.vram.bind()?;
        // SAFETY: the span was borrowed by the caller; the page-locked bytes suffice, and live on in `self`.
        let queued = unsafe {
            raw::cuMemcpyDtoHAsync_v2(pinned.as_mut_ptr().cast(), address, dst.len(), self.raw_stream())
        };
        // Waited for in any case: nothing may be on its way there when the next piece comes.
        let waited = self.stream.synchronize(None);
        self.gpu.vram.check(queued, None)?;
        waited?;
        // SAFETY: the copy has been waited for.
        dst.copy_from_slice(&unsafe { pinned.as_mut_slice() }[..dst.len()]);
        Ok(())
    }

    fn check_limits(&self, launch: &QueuedLaunch) -> Result<(), Error> {
        let QueuedLaunch { meta, grid, .. } = launch;
        let limits = [
            ("blocks along x", grid.x, i32::MAX as u32),
            ("blocks along y", grid.y, 65_535),
            ("blocks along z", grid.z, 65_535),
            ("bytes of shared memory a block", meta.shared_bytes, self.gpu.info.shared_bytes_max),
        ];
        for (what, needed, allowed) in limits {
            if needed > allowed {
                let (needed, allowed) = (needed.into(), allowed.into());
                return Err(Error::LaunchLimit { kernel: meta.name, what, needed, allowed });
            }
        }
        assert!(grid.x > 0 && grid.y > 0 && grid.z > 0, "kernel {}: an empty grid {grid:?}", meta.name);
        Ok(())
    }

    fn assert_no_batch(&self, what: &str) {
        assert!(self.queue.borrow().is_none(), "{what} has no place in a batch of launches");
    }
}

/// The copy engine's description of each matrix: boxes of [`BOX_ROW_BYTES`] by the kernel's rows, swizzled.
fn tensor_maps(args: &KernelArgs) -> Result<[TensorMap; MAX_MATRICES], Error> {
    let mut maps = [TensorMap::ZERO; MAX_MATRICES];
    for (map, matrix) in maps.iter_mut().zip(args.matrices()) {
        // Copies move bits, so all that counts of a type is its size: `CU_TENSOR_MAP_DATA_TYPE_UINT8`, `16`, `32`.
        let element = matrix.element_bytes.ilog2() as c_int;
        let dims = [u64::from(matrix.cols), u64::from(matrix.rows)];
        let box_dims = [BOX_ROW_BYTES as u32 / matrix.element_bytes, matrix.box_rows];
        // SAFETY: `map` is a place for a map, the arrays have two dimensions (one stride), and a map is only a
        // description: the launch's borrow of the matrix keeps it alive while the kernel uses it.
        unsafe {
            raw::cuTensorMapEncodeTiled(
                map,
                element,
                2,
                matrix.address,
                dims.as_ptr(),
                &matrix.stride_bytes,
                box_dims.as_ptr(),
                [1, 1].as_ptr(),
                0,
                raw::SWIZZLE_128B,
                raw::L2_PROMOTION_256B,
                0,
            )
        }?;
    }
    Ok(maps)
}

fn describe(device: CustDevice, index: u32) -> Result<GpuInfo, Error> {
    let failed = |error| cust_error("cuDeviceGetAttribute", error);
    let number = |attribute| device.get_attribute(attribute).map(i32::unsigned_abs).map_err(failed);
    let cuda = cust::CudaApiVersion::get().map_err(|error| cust_error("cuDriverGetVersion", error))?;
    Ok(GpuInfo {
        index,
        name: device.name().map_err(|error| cust_error("cuDeviceGetName", error))?,
        capability: Version::new(
            number(DeviceAttribute::ComputeCapabilityMajor)?,
            number(DeviceAttribute::ComputeCapabilityMinor)?,
        ),
        cuda: Version::new(cuda.major().unsigned_abs(), cuda.minor().unsigned_abs()),
        total_bytes: device.total_memory().map_err(|error| cust_error("cuDeviceTotalMem_v2", error))? as u64,
        n_multiprocessors: number(DeviceAttribute::MultiprocessorCount)?,
        shared_bytes_max: shared_bytes_max(device)?,
        l2_bytes: number(DeviceAttribute::L2CacheSize)?,
    })
}

/// Dynamic shared memory that a block can have when its kernel asks for more than 48 KiB.
fn shared_bytes_max(device: CustDevice) -> Result<u32, Error> {
    let mut bytes = 0;
    // SAFETY: `bytes` is a place for a number, the device exists.
    unsafe { raw::cuDeviceGetAttribute(&mut bytes, raw::MAX_SHARED_BYTES_OPT_IN, device.as_raw()) }?;
    Ok(bytes.unsigned_abs())
}

impl Device for Cuda {
    type Error = Error;

    fn alloc<T: Element>(&self, n: usize, purpose: Purpose) -> Result<DeviceBuffer<T>, Error> {
        let n_bytes = (n as u64).saturating_mul(size_of::<T>() as u64);
        let address = self.gpu.vram.alloc(n_bytes, purpose)?;
        // SAFETY: a new allocation of this size, which `Vram::free` frees; aligned to 256 bytes.
        Ok(unsafe { DeviceBuffer::from_raw(address, n, Arc::clone(&self.gpu.vram) as _) })
    }

    fn copy_in<T: Element>(&self, dst: &mut DeviceSlice<T>, src: &[T]) -> Result<(), Error> {
        assert!(dst.len() == src.len(), "copy of {} elements into {}", src.len(), dst.len());
        self.assert_no_batch("a copy");
        if src.is_empty() {
            return Ok(());
        }
        self.gpu.vram.bind()?;
        // SAFETY: both spans have this size, and the source is pageable, so it has been read when the call returns.
        let queued = unsafe {
            raw::cuMemcpyHtoDAsync_v2(dst.address(), src.as_ptr().cast(), size_of_val(src), self.raw_stream())
        };
        self.gpu.vram.check(queued, None)
    }

    fn copy_out<T: Element>(&self, src: &DeviceSlice<T>, dst: &mut [T]) -> Result<(), Error> {
        assert!(dst.len() == src.len(), "copy of {} elements into {}", src.len(), dst.len());
        self.assert_no_batch("a copy");
        let mut address = src.address();
        for piece in bytemuck::cast_slice_mut::<T, u8>(dst).chunks_mut(DOWNLOAD_BYTES) {
            self.download_piece(address, piece)?;
            address += piece.len() as u64;
        }
        Ok(())
    }

    fn zero<T: Element>(&self, dst: &mut DeviceSlice<T>) -> Result<(), Error> {
        self.assert_no_batch("a fill");
        if dst.is_empty() {
            return Ok(());
        }
        self.gpu.vram.bind()?;
        // SAFETY: the span is borrowed exclusively, and all-zero bytes are an element of every type.
        let queued = unsafe { raw::cuMemsetD8Async(dst.address(), 0, dst.size_bytes(), self.raw_stream()) };
        self.gpu.vram.check(queued, None)
    }

    fn launch<K: Launch>(&self, kernel: K, grid: Grid) -> Result<(), Error> {
        let launch = QueuedLaunch { meta: K::META, args: kernel.args(), grid };
        if let Some(queue) = self.queue.borrow_mut().as_mut() {
            queue.push(launch);
            return Ok(());
        }
        self.launch_now(&launch)
    }
}

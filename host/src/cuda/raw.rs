//! Driver entries that cust does not wrap, or wraps in types that cannot hold what newer drivers answer: thin typed
//! functions over the slots of [`super::driver`], each named like its entry.
//!
//! cust turns the driver's code into a Rust `enum` of 2022, so nothing that may report a kernel's fault, or anything
//! else of the last years, goes through cust.

use std::ffi::{c_char, c_int, c_uint, c_void};

use cust::sys::{CUcontext, CUevent, CUfunction, CUgraph, CUgraphExec, CUmodule, CUstream};

use super::driver::Entry;
use super::error::CallError;

/// An address in a GPU's memory.
pub(super) type DevicePointer = u64;

macro_rules! raw_entries {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?);)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// What the driver's manual asks of this entry's arguments.
        #[allow(non_snake_case, clippy::too_many_arguments)] // The driver's own.
        pub(super) unsafe fn $name($($arg: $ty),*) -> Result<(), CallError> {
            type Signature = unsafe extern "C" fn($($ty),*) -> u32;
            let entry = Entry::$name;
            // SAFETY: the slot holds the entry of this name, whose manual states this signature, or a function without
            // parameters, which the C calling convention allows to be called with any.
            let function = unsafe { std::mem::transmute::<*const (), Signature>(entry.address()) };
            // SAFETY: the caller's promise.
            CallError::check(entry.name(), unsafe { function($($arg),*) })
        }
    )*};
}

raw_entries! {
    /// Reads a property of a GPU.
    fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, device: c_int);
    /// Makes a context the calling thread's.
    fn cuCtxSetCurrent(context: CUcontext);

    /// Loads and, for PTX, compiles a module. `values` are numbers or pointers in the places of pointers.
    fn cuModuleLoadDataEx(
        module: *mut CUmodule,
        image: *const c_void,
        n_options: c_uint,
        options: *const c_int,
        values: *const *mut c_void,
    );
    /// Unloads a module.
    fn cuModuleUnload(module: CUmodule);
    /// Finds a kernel by its symbol.
    fn cuModuleGetFunction(function: *mut CUfunction, module: CUmodule, name: *const c_char);
    /// Reads one of [`FunctionAttribute`].
    fn cuFuncGetAttribute(value: *mut c_int, attribute: c_int, function: CUfunction);
    /// Sets one of [`FunctionAttribute`].
    fn cuFuncSetAttribute(function: CUfunction, attribute: c_int, value: c_int);

    /// Queues a kernel, with launch attributes.
    fn cuLaunchKernelEx(
        config: *const LaunchConfig,
        function: CUfunction,
        params: *mut *mut c_void,
        extra: *mut *mut c_void,
    );

    /// Makes the copy engine's description of an array; no work for the GPU. CUDA 12 and later.
    fn cuTensorMapEncodeTiled(
        map: *mut TensorMap,
        element: c_int,
        rank: c_uint,
        address: DevicePointer,
        dims: *const u64,
        strides_bytes: *const u64,
        box_dims: *const c_uint,
        element_strides: *const c_uint,
        interleave: c_int,
        swizzle: c_int,
        l2_promotion: c_int,
        out_of_bounds: c_int,
    );

    /// Makes a stream.
    fn cuStreamCreate(stream: *mut CUstream, flags: c_uint);
    /// Frees a stream, whose queued work still runs.
    fn cuStreamDestroy_v2(stream: CUstream);
    /// Waits for everything queued in a stream.
    fn cuStreamSynchronize(stream: CUstream);
    /// Makes an event.
    fn cuEventCreate(event: *mut CUevent, flags: c_uint);
    /// Frees an event.
    fn cuEventDestroy_v2(event: CUevent);
    /// Puts an event behind everything queued in a stream.
    fn cuEventRecord(event: CUevent, stream: CUstream);
    /// Waits for an event.
    fn cuEventSynchronize(event: CUevent);
    /// Milliseconds between two events that have happened.
    fn cuEventElapsedTime(milliseconds: *mut f32, start: CUevent, end: CUevent);

    /// Queues a copy to the GPU. From pageable memory it returns when the source has been read.
    fn cuMemcpyHtoDAsync_v2(dst: DevicePointer, src: *const c_void, n_bytes: usize, stream: CUstream);
    /// Queues a copy from the GPU.
    fn cuMemcpyDtoHAsync_v2(dst: *mut c_void, src: DevicePointer, n_bytes: usize, stream: CUstream);
    /// Queues a copy within the GPU's memory.
    fn cuMemcpyDtoDAsync_v2(dst: DevicePointer, src: DevicePointer, n_bytes: usize, stream: CUstream);
    /// Queues the filling of memory with one byte.
    fn cuMemsetD8Async(dst: DevicePointer, value: u8, n_bytes: usize, stream: CUstream);
    /// Allocates memory of the context's GPU.
    fn cuMemAlloc_v2(pointer: *mut DevicePointer, n_bytes: usize);
    /// Frees memory, after waiting for whatever uses it.
    fn cuMemFree_v2(pointer: DevicePointer);
    /// Allocates page-locked memory of the host.
    fn cuMemHostAlloc(pointer: *mut *mut c_void, n_bytes: usize, flags: c_uint);
    /// Frees page-locked memory.
    fn cuMemFreeHost(pointer: *mut c_void);

    /// From here on, what this thread queues in the stream becomes nodes of a graph.
    fn cuStreamBeginCapture_v2(stream: CUstream, mode: c_int);
    /// Ends the capture and gives its graph.
    fn cuStreamEndCapture(stream: CUstream, graph: *mut CUgraph);
    /// Makes an executable form of a graph.
    fn cuGraphInstantiateWithFlags(exec: *mut CUgraphExec, graph: CUgraph, flags: u64);
    /// Brings an executable graph to the GPU ahead of its first launch.
    fn cuGraphUpload(exec: CUgraphExec, stream: CUstream);
    /// Queues a graph.
    fn cuGraphLaunch(exec: CUgraphExec, stream: CUstream);
    /// Frees a graph.
    fn cuGraphDestroy(graph: CUgraph);
    /// Frees an executable graph, after its last run.
    fn cuGraphExecDestroy(exec: CUgraphExec);
}

/// `CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN`, which cust does not know.
pub(super) const MAX_SHARED_BYTES_OPT_IN: c_int = 97;

/// `CU_STREAM_NON_BLOCKING`: no waiting for the default stream.
pub(super) const STREAM_NON_BLOCKING: c_uint = 1;

/// `CU_STREAM_CAPTURE_MODE_THREAD_LOCAL`: only what this thread does can spoil the capture.
pub(super) const CAPTURE_THREAD_LOCAL: c_int = 1;

/// `CU_MEMHOSTALLOC_PORTABLE`: page-locked for every context.
pub(super) const HOST_ALLOC_PORTABLE: c_uint = 1;

/// Numbers of `CUfunction_attribute`.
#[repr(i32)]
#[derive(Clone, Copy)]
pub(super) enum FunctionAttribute {
    /// Bytes of local memory a thread uses: spills and arrays.
    LocalBytes = 3,
    /// Registers of a thread.
    Registers = 4,
    /// The most dynamic shared memory that a launch may ask for; 48 KiB unless raised.
    MaxDynamicSharedBytes = 8,
}

/// Numbers of `CUjit_option`.
#[repr(i32)]
#[derive(Clone, Copy)]
pub(super) enum JitOption {
    /// Where the compiler's errors go.
    ErrorLog = 5,
    /// How many bytes there are for them.
    ErrorLogBytes = 6,
}

/// `CUtensorMap`.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(super) struct TensorMap([u64; 16]);

impl TensorMap {
    pub(super) const ZERO: TensorMap = TensorMap([0; 16]);
}

/// `CU_TENSOR_MAP_SWIZZLE_128B`: 16-byte pieces of rows of 128 bytes are exchanged so that columns spread over the banks.
pub(super) const SWIZZLE_128B: c_int = 3;

/// `CU_TENSOR_MAP_L2_PROMOTION_L2_256B`: a miss brings 256 bytes into the second-level cache.
pub(super) const L2_PROMOTION_256B: c_int = 3;

/// `CUlaunchConfig`, CUDA 11.8 and later.
#[repr(C)]
pub(super) struct LaunchConfig {
    pub grid: [c_uint; 3],
    pub block: [c_uint; 3],
    pub shared_bytes: c_uint,
    pub stream: CUstream,
    pub attributes: *const LaunchAttribute,
    pub n_attributes: c_uint,
}

/// `CUlaunchAttribute`: a number of `CUlaunchAttributeID` and 64 bytes of value.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct LaunchAttribute {
    id: c_int,
    padding: c_int,
    value: [c_uint; 16],
}

const _: () = assert!(size_of::<LaunchAttribute>() == 72 && size_of::<LaunchConfig>() == 56);

impl LaunchAttribute {
    /// `CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION`: the kernel may start while its predecessor in the stream
    /// still runs, and waits for it by `griddepcontrol.wait`.
    pub(super) fn programmatic_serialization() -> Self {
        let mut value = [0; 16];
        value[0] = 1;
        LaunchAttribute { id: 6, padding: 0, value }
    }
}

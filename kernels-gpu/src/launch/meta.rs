//! What is known of a kernel without running it, and the list of all kernels.

/// What a kernel's attribute and signature state.
#[derive(Clone, Copy, Debug)]
pub struct KernelMeta {
    /// The PTX symbol, which is the kernel's name in the source.
    pub name: &'static str,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block in bytes; the launch must pass exactly this.
    pub shared_bytes: u32,
    /// Blocks that must fit on one multiprocessor.
    pub min_blocks: Option<u32>,
    /// Registers of a thread at most.
    pub max_regs: Option<u32>,
    /// Blocks of a cluster.
    pub cluster: Option<u32>,
    /// Whether the PTX linter accepts local memory.
    pub allow_local: bool,
    /// Whether the launch lets the kernel start before its predecessor has finished.
    pub pdl: bool,
    /// Whether only the module for compute capability 9.0 (`sm_90a`) has the kernel.
    pub sm_90a: bool,
    /// The parameters in order.
    pub params: &'static [ParamMeta],
    /// Path of the Rust module.
    pub module: &'static str,
    /// Source file, as the compiler was given it.
    pub file: &'static str,
    /// Line of the kernel's attribute.
    pub line: u32,
}

/// One parameter of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct ParamMeta {
    /// Its name in the source.
    pub name: &'static str,
    /// View or scalar.
    pub kind: ParamKind,
    /// The element type of a view, the type of a scalar, as written in the source.
    pub ty: &'static str,
    /// Bytes of that type.
    pub bytes: u32,
}

/// How a kernel may use a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamKind {
    /// Memory that is read.
    In,
    /// Memory that is written.
    Out,
    /// Memory that is read and written.
    InOut,
    /// A matrix that the copy engine reads in boxes.
    InBoxes,
    /// A matrix that the copy engine writes in boxes.
    OutBoxes,
    /// A value.
    Scalar,
}

/// Shared memory that a block can ask for on compute capability 9.0. (8.0 has 163 KiB, 8.6 and 8.9 have 99;
/// there the launch refuses what is too much.)
const SHARED_BYTES_MAX: u32 = 227 * 1024;

/// Blocks of a cluster at most. (The hardware has 8; checked mode of the emulator tells threads of so many apart.)
pub const MAX_CLUSTER: u32 = 4;

impl KernelMeta {
    /// The same, if it is possible on the hardware; evaluated at compile time by `#[kernel]`.
    ///
    /// # Panics
    /// If the block has no whole warps or more than 1024 threads, asks for more shared memory than any
    /// supported GPU has, or has more parameters than a launch can pass.
    pub const fn checked(self) -> Self {
        assert!(
            self.threads > 0 && self.threads <= 1024 && self.threads.is_multiple_of(32),
            "threads must be a multiple of 32 from 32 to 1024"
        );
        assert!(self.shared_bytes <= SHARED_BYTES_MAX, "no supported GPU has that much shared memory");
        assert!(self.params.len() <= super::MAX_PARAMS, "a kernel has at most 24 parameters");
        if let Some(n) = self.cluster {
            assert!(self.sm_90a, "clusters need `sm_90a`");
            assert!(n >= 2 && n <= MAX_CLUSTER && n.is_power_of_two(), "a cluster has 2 or 4 blocks");
        }
        self
    }

    /// Asserts that the grid consists of whole clusters.
    ///
    /// # Panics
    /// If it does not.
    pub fn check_grid(&self, grid: super::Grid) {
        let n = self.cluster.unwrap_or(1);
        assert!(
            grid.x.is_multiple_of(n),
            "{}: {} blocks in a row are no whole number of clusters of {n}",
            self.name,
            grid.x
        );
    }
}

/// Adds a kernel to [`all_kernels`]. Used by `#[kernel]`.
///
/// Every kernel puts one pointer into the linker section `oxwarp_kernels`; the linker concatenates them and
/// names both ends, so no list is kept by hand and none can be forgotten.
#[doc(hidden)]
#[macro_export]
macro_rules! register_kernel {
    ($meta:expr) => {
        #[cfg(target_os = "linux")]
        #[used]
        #[unsafe(link_section = "oxwarp_kernels")]
        static ENTRY: &'static $crate::launch::KernelMeta = $meta;
    };
}

/// Every kernel that is linked into this program, ordered by name. (All of this crate's, and those of the
/// program's own tests.)
#[cfg(target_os = "linux")]
pub fn all_kernels() -> Vec<&'static KernelMeta> {
    unsafe extern "C" {
        // Made by the linker for every section whose name is a C identifier.
        #[link_name = "__start_oxwarp_kernels"]
        static START: u8;
        #[link_name = "__stop_oxwarp_kernels"]
        static STOP: u8;
    }
    let (start, stop) = ((&raw const START).cast::<&KernelMeta>(), (&raw const STOP).cast::<&KernelMeta>());
    // SAFETY: the linker promises that the two symbols enclose the section, and `register_kernel!` puts
    // nothing but `&'static KernelMeta` into it, so it is a gapless array of them.
    let entries = unsafe { std::slice::from_raw_parts(start, stop.offset_from_unsigned(start)) };
    let mut kernels = entries.to_vec();
    kernels.sort_by_key(|kernel| kernel.name);
    kernels
}

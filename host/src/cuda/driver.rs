//! The NVIDIA driver, found at run time, under a crate that wants to link to it.
//!
//! `cust` calls the driver's entries as external symbols. This module defines all of those symbols, as trampolines
//! that jump through a table of slots. Until [`load`] has found `libcuda.so.1`, every slot answers
//! [`CUDA_ERROR_STUB_LIBRARY`]; afterwards each holds the driver's own address. So the program has no dependency on
//! the driver, starts on any machine, and a call costs one jump more. (The empty linker script `stub/lib64/libcuda.so`
//! satisfies `-lcuda`.)

use std::arch::naked_asm;
use std::ffi::CStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use libloading::Library;

use super::Error;
use super::entries::for_each_entry;

/// What a driver entry answers while there is no driver.
pub(super) const CUDA_ERROR_STUB_LIBRARY: u32 = 34;

/// The driver's library by the name that its package guarantees.
const LIBRARY: &str = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };

extern "C" fn absent() -> u32 {
    CUDA_ERROR_STUB_LIBRARY
}

/// The address that each entry jumps to, by [`Entry`].
static SLOTS: [AtomicPtr<()>; N_ENTRIES] =
    [const { AtomicPtr::new(absent as *const () as *mut ()) }; N_ENTRIES];

/// Jumps to the address in slot `$entry`, with registers and stack as the caller left them.
#[cfg(target_arch = "x86_64")]
macro_rules! jump_through_slot {
    ($entry:ident) => {
        naked_asm!(
            "jmp qword ptr [rip + {slots} + {offset}]",
            slots = sym SLOTS,
            offset = const Entry::$entry as usize * 8,
        )
    };
}

/// Jumps to the address in slot `$entry`, with all but the intra-procedure-call register as the caller left them.
#[cfg(target_arch = "aarch64")]
macro_rules! jump_through_slot {
    ($entry:ident) => {
        naked_asm!(
            "adrp x16, {slots} + {offset}",
            "ldr x16, [x16, :lo12:{slots} + {offset}]",
            "br x16",
            slots = sym SLOTS,
            offset = const Entry::$entry as usize * 8,
        )
    };
}

macro_rules! define_entries {
    ($($name:ident)* ; also $($newer:ident)*) => {
        /// Every entry of the driver that this program can call; its number is that of its slot.
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy, Debug)]
        pub(super) enum Entry { $($name,)* $($newer,)* }

        const N_ENTRIES: usize = NAMES.len();

        /// The symbols, by [`Entry`]; each with its terminating zero.
        const NAMES: &[&str] = &[
            $(concat!(stringify!($name), "\0"),)* $(concat!(stringify!($newer), "\0"),)*
        ];

        /// The symbols that cust links to.
        #[allow(non_snake_case)]
        mod trampolines {
            use super::*;

            $(
                #[unsafe(naked)]
                #[unsafe(no_mangle)]
                unsafe extern "C" fn $name() -> u32 {
                    jump_through_slot!($name)
                }
            )*

            #[cfg(test)]
            pub(super) const ALL: &[(&str, unsafe extern "C" fn() -> u32)] = &[$((stringify!($name), $name)),*];
        }
    };
}

for_each_entry!(define_entries);

impl Entry {
    /// The address to call: the driver's, or that of a function which answers [`CUDA_ERROR_STUB_LIBRARY`].
    pub(super) fn address(self) -> *const () {
        SLOTS[self as usize].load(Ordering::Relaxed)
    }

    /// The entry's symbol.
    pub(super) fn name(self) -> &'static str {
        NAMES[self as usize].trim_end_matches('\0')
    }
}

/// Finds the driver and fills the slots; once per process, all later calls give the first one's answer.
///
/// # Errors
/// [`Error::NoDriver`] with the dynamic loader's reason.
pub(super) fn load() -> Result<(), Error> {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| {
        // SAFETY: the driver's library runs no initialiser that this program must prepare for.
        let library = unsafe { Library::new(LIBRARY) }.map_err(reason)?;
        fill_slots(&library);
        // The slots point into it for as long as the process lives.
        std::mem::forget(library);
        Ok(())
    });
    loaded.clone().map_err(|why| Error::NoDriver { why })
}

/// What the dynamic loader says, which libloading keeps behind its own words.
fn reason(error: libloading::Error) -> String {
    match std::error::Error::source(&error) {
        Some(source) => source.to_string(),
        None => error.to_string(),
    }
}

/// An entry that an old driver lacks keeps its slot's first content, and so answers [`CUDA_ERROR_STUB_LIBRARY`].
fn fill_slots(library: &Library) {
    for (name, slot) in NAMES.iter().zip(&SLOTS) {
        let name = CStr::from_bytes_with_nul(name.as_bytes()).expect("every name ends in its only zero");
        // SAFETY: the symbol is only read as an address here; its type is stated where it is called.
        if let Ok(symbol) = unsafe { library.get::<*mut ()>(name) } {
            slot.store(*symbol, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Runs `test` (its full path) of this binary alone in a process of its own, where no other test has loaded the
    /// driver, and returns whether this is that process.
    fn in_own_process(test: &str) -> bool {
        const MARK: &str = "OXWARP_TEST_ALONE";
        if std::env::var_os(MARK).is_some() {
            return true;
        }
        let output = Command::new(std::env::current_exe().expect("a running program has a path"))
            .args(["--exact", test])
            .env(MARK, "1")
            .output()
            .expect("the test binary starts");
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}\n{output:?}");
        false
    }

    #[test]
    fn every_entry_answers_34_before_the_driver_is_loaded() {
        if !in_own_process("cuda::driver::tests::every_entry_answers_34_before_the_driver_is_loaded") {
            return;
        }
        assert_eq!(trampolines::ALL.len(), 353, "cust_raw 0.11.3 declares 353 entries");
        for (name, entry) in trampolines::ALL {
            // SAFETY: the slot holds `absent`, which takes nothing.
            let answer = unsafe { entry() };
            assert_eq!(answer, CUDA_ERROR_STUB_LIBRARY, "{name}");
        }
    }

    #[test]
    fn each_trampoline_jumps_through_its_own_slot() {
        if !in_own_process("cuda::driver::tests::each_trampoline_jumps_through_its_own_slot") {
            return;
        }
        extern "C" fn present() -> u32 {
            1000
        }
        for (index, (name, entry)) in trampolines::ALL.iter().enumerate() {
            let before = SLOTS[index].swap(present as *const () as *mut (), Ordering::Relaxed);
            // SAFETY: the slot holds `present`, which takes nothing.
            assert_eq!(unsafe { entry() }, 1000, "{name} does not use slot {index}");
            SLOTS[index].store(before, Ordering::Relaxed);
        }
    }

    #[test]
    fn cust_links_to_the_trampolines() {
        if !in_own_process("cuda::driver::tests::cust_links_to_the_trampolines") {
            return;
        }
        // cust has no variant for code 34.
        assert_eq!(cust::init(cust::CudaFlags::empty()), Err(cust::error::CudaError::UnknownError));
        extern "C" fn no_device() -> u32 {
            100
        }
        SLOTS[Entry::cuInit as usize].store(no_device as *const () as *mut (), Ordering::Relaxed);
        assert_eq!(cust::init(cust::CudaFlags::empty()), Err(cust::error::CudaError::NoDevice));
    }

    #[test]
    fn names_are_those_of_the_symbols() {
        assert_eq!(Entry::cuGetErrorString.name(), "cuGetErrorString");
        assert_eq!(Entry::cuMemcpyHtoDAsync_v2.name(), "cuMemcpyHtoDAsync_v2");
        assert_eq!(Entry::cuLaunchKernelEx.name(), "cuLaunchKernelEx");
    }
}

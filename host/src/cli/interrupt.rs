//! Ctrl-C: the first one is a request to stop, the second one ends the program.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// The flag that the handler sets. It is made before the handler is installed.
static REQUESTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Linux's and every other Unix's numbers.
const SIGINT: i32 = 2;
const SIG_DFL: usize = 0;

unsafe extern "C" {
    fn signal(signal: i32, handler: usize) -> usize;
    fn raise(signal: i32) -> i32;
}

/// While this lives, Ctrl-C sets a flag instead of ending the program.
pub struct Interrupt {
    requested: Arc<AtomicBool>,
}

impl Interrupt {
    /// Catches Ctrl-C from now on; the flag is clear.
    pub fn catch() -> Interrupt {
        let requested = REQUESTED.get_or_init(Arc::default);
        requested.store(false, Ordering::Relaxed);
        // SAFETY: `signal` asks for a handler that does only what is safe inside a signal: `on_interrupt` says why it is.
        unsafe { signal(SIGINT, on_interrupt as *const () as usize) };
        Interrupt { requested: Arc::clone(requested) }
    }

    /// True from the first Ctrl-C on.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.requested)
    }

    pub fn happened(&self) -> bool {
        self.requested.load(Ordering::Relaxed)
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        // SAFETY: the default action needs nothing of this process.
        unsafe { signal(SIGINT, SIG_DFL) };
    }
}

/// Async-signal-safe: it reads an initialised `OnceLock` and swaps an atomic, which neither lock nor allocate, and calls
/// `signal` and `raise`, which POSIX lists as safe.
extern "C" fn on_interrupt(_signal: i32) {
    let again = REQUESTED.get().is_some_and(|requested| requested.swap(true, Ordering::Relaxed));
    if again {
        // SAFETY: as above; the signal, at its default action, ends the process once this handler has returned.
        unsafe {
            signal(SIGINT, SIG_DFL);
            raise(SIGINT);
        }
    }
}

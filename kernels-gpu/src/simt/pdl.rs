//! Programmatic dependent launch: a kernel marked `#[kernel(pdl)]` starts while its predecessor ends.
//!
//! Before [`wait`] such a kernel may only read what no earlier kernel of the chain writes (weights); it may
//! write nothing; the emulator reports both, and a kernel of which no thread waits. On GPUs older than compute capability 9.0 both words do nothing, and launches do not overlap.

use super::target;

/// Waits until the kernels launched before have finished and their results can be read.
#[inline(always)]
#[track_caller]
pub fn wait() {
    target::pdl_wait();
}

/// Lets the next kernel of the stream start once every block has said this or has ended.
#[inline(always)]
#[track_caller]
pub fn launch_dependents() {
    target::pdl_launch_dependents();
}

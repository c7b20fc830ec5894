//! Barriers in shared memory (`mbarrier`), at which threads arrive without waiting and the copy engine counts bytes.
//!
//! A barrier goes through phases. A phase is complete when as many threads have arrived as [`Barriers::init`] states,
//! and as many bytes were copied as the arrivals announced; then the next one begins. Phases have parities 0, 1, 0, …;
//! to wait for a phase is to wait for its parity, so a waiter may be at most one phase behind.
//!
//! An arrival covers all that its warp did before; whoever waits for the phase sees it.

use super::{Shared, target};

/// Barriers in shared memory.
#[derive(Clone, Copy)]
pub struct Barriers(pub(super) target::Barriers);

/// Bytes that [`Shared::barriers`] takes for `n` of them.
pub const fn bytes(n: usize) -> usize {
    super::shared::tile_bytes::<u64>(n)
}

impl Shared {
    /// The next `n` barriers.
    #[inline(always)]
    #[track_caller]
    pub fn barriers(&mut self, n: usize) -> Barriers {
        Barriers(self.carver.barriers(n))
    }
}

impl Barriers {
    /// Makes barrier `i`, with phases of this many arrivals. One thread does it for all; then it says
    /// [`fence_init`], and the block synchronises.
    #[inline(always)]
    #[track_caller]
    pub fn init(self, i: usize, arrivals: u32) {
        self.0.init(i, arrivals);
    }

    /// Arrives at barrier `i`.
    #[inline(always)]
    #[track_caller]
    pub fn arrive(self, i: usize) {
        self.0.arrive(i);
    }

    /// Arrives at barrier `i`, and announces that this many bytes will be copied.
    #[inline(always)]
    #[track_caller]
    pub fn arrive_expect(self, i: usize, bytes: u32) {
        self.0.arrive_expect(i, bytes);
    }

    /// Waits until barrier `i` is past the phase of this parity: 0 for the first, third, … phase. (So a wait for parity 1
    /// returns at once while the first phase lasts.)
    #[inline(always)]
    #[track_caller]
    pub fn wait(self, i: usize, parity: u32) {
        self.0.wait(i, parity);
    }
}

/// Makes the initialised barriers known to the copy engine.
#[inline(always)]
#[track_caller]
pub fn fence_init() {
    target::fence_barrier_init();
}

/// A place in a ring of stages, each with barriers: the stage, and the parity of the round.
#[derive(Clone, Copy)]
pub struct Place {
    /// The stage.
    pub stage: usize,
    /// The parity of the phase that the stage's barriers are in: 0 in the first round.
    pub parity: u32,
}

impl Place {
    /// Where every ring begins.
    pub const START: Place = Place { stage: 0, parity: 0 };

    /// The place after this one in a ring of `STAGES` stages.
    #[inline(always)]
    pub fn next<const STAGES: usize>(self) -> Place {
        let wraps = self.stage + 1 == STAGES;
        Place {
            stage: if wraps { 0 } else { self.stage + 1 },
            parity: if wraps { self.parity ^ 1 } else { self.parity },
        }
    }
}

//! The ring of stages of x between the producer and two consumers.

use super::consumer::UNIT_COLS;
use super::items::Item;
use crate::simt::boxes::{InBoxes, Rows};
use crate::simt::mbarrier::{self, Barriers, Place};
use crate::simt::prelude::*;
use crate::simt::wgmma;

/// Columns of a stage: 128 bytes, as wide as swizzled rows are.
pub const STAGE_COLS: u32 = 64;
/// Stages of a unit of columns.
const UNIT_STAGES: u32 = UNIT_COLS / STAGE_COLS;

/// Stages of x, [`STAGE_COLS`] columns deep. A stage is filled by the copy engine, which counts its bytes at the stage's
/// barrier `full`, and freed by the consumers' warps, which arrive at `empty`.
#[derive(Clone, Copy)]
pub struct Ring<const TOKENS: u32, const STAGES: usize> {
    pub x: Rows<f16>,
    pub full: Barriers,
    pub empty: Barriers,
}

impl<const TOKENS: u32, const STAGES: usize> Ring<TOKENS, STAGES> {
    /// Carves the ring's memory, and has one thread prepare its barriers. Ends with a barrier of the block.
    #[inline(always)]
    #[track_caller]
    pub fn new(shared: &mut Shared) -> Self {
        let ring = Ring {
            x: shared.rows(STAGES * TOKENS as usize),
            full: shared.barriers(STAGES),
            empty: shared.barriers(STAGES),
        };
        if thread::thread_idx_x() == 0 {
            for stage in 0..STAGES {
                ring.full.init(stage, 1);
                // One arrival a warp of the consumers.
                ring.empty.init(stage, 2 * wgmma::SIZE / warp::SIZE);
            }
            mbarrier::fence_init();
        }
        thread::sync_threads();
        ring
    }

    #[inline(always)]
    pub fn stage(self, place: Place) -> Rows<f16> {
        self.x.at_row(place.stage * TOKENS as usize)
    }

    /// The producer loads x for an item, from `place` on; gives the place after it.
    #[inline(always)]
    #[track_caller]
    pub fn fill(self, x: InBoxes<f16, TOKENS>, item: Item, place: Place) -> Place {
        let mut place = place;
        let (mut stage, end) =
            (item.first_unit * UNIT_STAGES, (item.first_unit + item.n_units) * UNIT_STAGES);
        while stage < end {
            // The first round finds every stage empty: the phase before the first counts as complete.
            self.empty.wait(place.stage, place.parity ^ 1);
            self.full.arrive_expect(place.stage, InBoxes::<f16, TOKENS>::BYTES);
            x.load(self.stage(place), self.full, place.stage, item.token, stage * STAGE_COLS);
            place = place.next::<STAGES>();
            stage += 1;
        }
        place
    }
}

//! The ring of stages of x between the producers and the consumers of a cluster.

use super::items::Item;
use crate::quant::halves::UNIT_COLS;
use crate::simt::boxes::{InBoxes, Rows};
use crate::simt::cluster;
use crate::simt::mbarrier::{self, Barriers, Place};
use crate::simt::prelude::*;
use crate::simt::wgmma;

/// Columns of a stage: 128 bytes, as wide as swizzled rows are.
pub const STAGE_COLS: u32 = 64;
/// Stages of a unit of columns.
const UNIT_STAGES: u32 = UNIT_COLS / STAGE_COLS;

/// Stages of x, [`STAGE_COLS`] columns deep. If all blocks of a cluster need the same x, each loads `BOX` tokens for all. A
/// stage is filled by the copy engine, which counts its bytes at the stage's barrier `full`, and freed by the consumers'
/// warps of all blocks, which arrive at `empty`.
#[derive(Clone, Copy)]
pub struct Ring<const TOKENS: u32, const BOX: u32, const STAGES: usize> {
    x: Rows<f16>,
    full: Barriers,
    empty: Barriers,
}

impl<const TOKENS: u32, const BOX: u32, const STAGES: usize> Ring<TOKENS, BOX, STAGES> {
    const SHARERS: u32 = TOKENS / BOX;

    /// Carves the ring's memory, and has one thread prepare its barriers, for so many consumers in a block. Ends with a barrier
    /// of the cluster.
    #[inline(always)]
    #[track_caller]
    pub fn new(shared: &mut Shared, n_consumers: u32) -> Self {
        let ring = Ring {
            x: shared.rows(STAGES * TOKENS as usize),
            full: shared.barriers(STAGES),
            empty: shared.barriers(STAGES),
        };
        if thread::thread_idx_x() == 0 {
            for stage in 0..STAGES {
                ring.full.init(stage, 1);
                // One arrival a warp of the consumers.
                ring.empty.init(stage, Self::SHARERS * n_consumers * wgmma::SIZE / warp::SIZE);
            }
            mbarrier::fence_init();
        }
        cluster::start();
        ring
    }

    #[inline(always)]
    pub fn stage(self, place: Place) -> Rows<f16> {
        self.x.at_row(place.stage * TOKENS as usize)
    }

    /// Waits until the stage is filled.
    #[inline(always)]
    #[track_caller]
    pub fn wait(self, place: Place) {
        self.full.wait(place.stage, place.parity);
    }

    /// A consumer's warp is done with a stage.
    #[inline(always)]
    #[track_caller]
    pub fn free(self, place: Place) {
        let lane = warp::lane_id();
        if Self::SHARERS == 1 {
            if lane == 0 {
                self.empty.arrive(place.stage);
            }
        } else if lane < Self::SHARERS {
            self.empty.arrive_remote(place.stage, lane);
        }
    }

    /// The producer, a warp, loads its part of x for an item, from `place` on; gives the place after it.
    #[inline(always)]
    #[track_caller]
    pub fn fill(self, x: InBoxes<f16, BOX>, item: Item, place: Place) -> Place {
        let first = if Self::SHARERS == 1 { 0 } else { cluster::block_rank() * BOX };
        let all = (1 << Self::SHARERS) - 1;
        let mut place = place;
        let (mut stage, end) =
            (item.first_unit * UNIT_STAGES, (item.first_unit + item.n_units) * UNIT_STAGES);
        while stage < end {
            // The first round finds every stage empty: the phase before the first counts as complete.
            self.empty.wait(place.stage, place.parity ^ 1);
            if warp::lane_id() == 0 {
                self.full.arrive_expect(place.stage, Self::SHARERS * InBoxes::<f16, BOX>::BYTES);
                let corner = (item.token + first, stage * STAGE_COLS);
                let part = self.stage(place).at_row(first as usize);
                if Self::SHARERS == 1 {
                    x.load(part, self.full, place.stage, corner.0, corner.1);
                } else {
                    x.load_multicast(part, self.full, place.stage, corner, all);
                }
            }
            place = place.next::<STAGES>();
            stage += 1;
        }
        place
    }

    /// The producer waits until every stage is free in all blocks; `place` is that after the last stage.
    #[inline(always)]
    #[track_caller]
    pub fn drain(self, place: Place) {
        let mut place = place;
        let first = place.stage;
        // (Its end is not known to the compiler: unrolled, the loop takes more registers than a producer has.)
        loop {
            self.empty.wait(place.stage, place.parity ^ 1);
            place = place.next::<STAGES>();
            if place.stage == first {
                break;
            }
        }
    }
}

//! The ring of stages between a producer and two consumers, common to all products of 16-bit matrices on Hopper.

use core::ops::Range;

use crate::simt::boxes::{InBoxes, Rows, rows_bytes};
use crate::simt::cluster;
use crate::simt::mbarrier::{self, Barriers, Place};
use crate::simt::prelude::*;
use crate::simt::wgmma::{self, Accumulators, Operand};

/// Threads of a block: the producer's warpgroup and two consumers.
pub const THREADS: u32 = 3 * wgmma::SIZE;
/// Columns of a stage: 128 bytes, as wide as swizzled rows are.
pub const STAGE_COLS: u32 = 64;
/// Tokens of one product.
pub const CONSUMER_TOKENS: u32 = 64;

/// Bytes of shared memory that a ring takes.
pub const fn ring_bytes(tokens: u32, rows: u32, stages: usize) -> usize {
    rows_bytes(stages * (tokens + rows) as usize) + 2 * mbarrier::bytes(stages)
}

/// `STAGES` tiles of x (`TOKENS` rows) and of w (`ROWS` rows), each [`STAGE_COLS`] columns deep. A stage is filled by the
/// copy engine, which counts its bytes at the stage's barrier `full`, and freed by the consumers' warps, which arrive at
/// `empty`.
///
/// The tiles of w may be those of all blocks of a cluster, of which each loads `BOX` rows for all. Then a stage is free
/// when it is free in all of them.
pub struct Ring<T: Operand, const TOKENS: u32, const ROWS: u32, const BOX: u32, const STAGES: usize> {
    x: Rows<T>,
    w: Rows<T>,
    full: Barriers,
    empty: Barriers,
}

/// A stretch of stages of one tile: which columns are multiplied, from which token and row on.
#[derive(Clone, Copy)]
pub struct Stretch {
    pub token: u32,
    pub row: u32,
    pub first_stage: u32,
    pub n_stages: u32,
}

impl Stretch {
    /// Stages of tile `tile`, which is `TOKENS` by `ROWS`; the tiles of the first tokens come first.
    #[inline(always)]
    pub fn of_tile<const TOKENS: u32, const ROWS: u32>(tile: u32, n_rows: u32, stages: Range<u32>) -> Self {
        let n_row_tiles = n_rows.div_ceil(ROWS);
        Stretch {
            token: tile / n_row_tiles * TOKENS,
            row: tile % n_row_tiles * ROWS,
            first_stage: stages.start,
            n_stages: stages.end - stages.start,
        }
    }
}

impl<T: Operand, const TOKENS: u32, const ROWS: u32, const BOX: u32, const STAGES: usize>
    Ring<T, TOKENS, ROWS, BOX, STAGES>
{
    /// Blocks that share the tiles of w.
    pub const SHARERS: u32 = ROWS / BOX;

    /// Carves the ring's memory, and has one thread prepare its barriers, for so many consumers that read each stage. Ends
    /// with a barrier of the block, or of the cluster.
    #[inline(always)]
    #[track_caller]
    pub fn new(shared: &mut Shared, n_readers: u32) -> Self {
        let ring = Ring {
            x: shared.rows(STAGES * TOKENS as usize),
            w: shared.rows(STAGES * ROWS as usize),
            full: shared.barriers(STAGES),
            empty: shared.barriers(STAGES),
        };
        if thread::thread_idx_x() == 0 {
            for stage in 0..STAGES {
                ring.full.init(stage, 1);
                // One arrival a warp of the consumers.
                ring.empty.init(stage, Self::SHARERS * n_readers * wgmma::SIZE / warp::SIZE);
            }
            mbarrier::fence_init();
        }
        if Self::SHARERS == 1 {
            thread::sync_threads();
        } else {
            cluster::start();
        }
        ring
    }

    /// The producer starts to load the weights of the first stages of its first stretch, as many as the ring has: no earlier
    /// kernel writes them, so that need not wait for `pdl::wait`. Gives their number.
    #[inline(always)]
    #[track_caller]
    pub fn preload(&self, w: InBoxes<T, BOX>, stretch: Stretch) -> u32 {
        let n_stages = stretch.n_stages.min(STAGES as u32);
        let mut i = 0;
        while i < n_stages {
            self.load_w(w, stretch, i, i as usize);
            i += 1;
        }
        n_stages
    }

    #[inline(always)]
    #[track_caller]
    fn load_w(&self, w: InBoxes<T, BOX>, stretch: Stretch, i: u32, stage: usize) {
        let w_bytes = Self::SHARERS * InBoxes::<T, BOX>::BYTES;
        self.full.arrive_expect(stage, InBoxes::<T, TOKENS>::BYTES + w_bytes);
        let col = (stretch.first_stage + i) * STAGE_COLS;
        let tile = self.w.at_row(stage * ROWS as usize);
        if Self::SHARERS == 1 {
            w.load(tile, self.full, stage, stretch.row, col);
        } else {
            let first = cluster::block_rank() * BOX;
            let all = (1 << Self::SHARERS) - 1;
            w.load_multicast(tile.at_row(first as usize), self.full, stage, (stretch.row + first, col), all);
        }
    }

    /// A consumer's warp is done with a stage.
    #[inline(always)]
    #[track_caller]
    fn free(&self, stage: usize) {
        let lane = warp::lane_id();
        if Self::SHARERS == 1 {
            if lane == 0 {
                self.empty.arrive(stage);
            }
        } else if lane < Self::SHARERS {
            self.empty.arrive_remote(stage, lane);
        }
    }

    /// The producer loads a stretch, from `place` on; gives the place after it. Of the first `n_preloaded` stages only x is
    /// missing.
    #[inline(always)]
    #[track_caller]
    pub fn fill(
        &self,
        x: InBoxes<T, TOKENS>,
        w: InBoxes<T, BOX>,
        stretch: Stretch,
        place: Place,
        n_preloaded: u32,
    ) -> Place {
        let mut place = place;
        let mut i = 0;
        while i < stretch.n_stages {
            if i >= n_preloaded {
                // The first round finds every stage empty: the phase before the first counts as complete.
                self.empty.wait(place.stage, place.parity ^ 1);
                self.load_w(w, stretch, i, place.stage);
            }
            let col = (stretch.first_stage + i) * STAGE_COLS;
            x.load(self.x_rows(place.stage, 0), self.full, place.stage, stretch.token, col);
            place = place.next::<STAGES>();
            i += 1;
        }
        place
    }

    /// The producer waits until every stage is free, in all blocks that share it; `place` is that after the last stage.
    #[inline(always)]
    #[track_caller]
    pub fn drain(&self, place: Place) {
        let mut place = place;
        for _ in 0..STAGES {
            self.empty.wait(place.stage, place.parity ^ 1);
            place = place.next::<STAGES>();
        }
    }

    /// A consumer multiplies `n_stages` stages, at least one, from `place` on: 64 tokens from `token` of the tile on, by `2 LEN`
    /// rows from `row` of the tile on. Gives the place after them; the results are complete.
    #[inline(always)]
    #[track_caller]
    pub fn multiply<const LEN: usize>(
        &self,
        results: &mut Accumulators<LEN>,
        (token, row): (u32, u32),
        n_stages: u32,
        place: Place,
    ) -> Place {
        self.products::<LEN>(results, n_stages, place, |stage| {
            (self.x_rows(stage, token), self.w_rows(stage, row))
        })
    }

    /// As [`Ring::multiply`] the other way round, of the first stages: 64 rows from `row` of the tile on, by `2 LEN` tokens.
    #[inline(always)]
    #[track_caller]
    pub fn multiply_rows<const LEN: usize>(&self, results: &mut Accumulators<LEN>, row: u32, n_stages: u32) {
        let operands = |stage| (self.w_rows(stage, row), self.x_rows(stage, 0));
        self.products::<LEN>(results, n_stages, Place::START, operands);
    }

    #[inline(always)]
    fn x_rows(&self, stage: usize, token: u32) -> Rows<T> {
        self.x.at_row(stage * TOKENS as usize + token as usize)
    }

    #[inline(always)]
    fn w_rows(&self, stage: usize, row: u32) -> Rows<T> {
        self.w.at_row(stage * ROWS as usize + row as usize)
    }

    /// Products of `n_stages` stages from `place` on, at least one.
    #[inline(always)]
    #[track_caller]
    fn products<const LEN: usize>(
        &self,
        results: &mut Accumulators<LEN>,
        n_stages: u32,
        place: Place,
        operands: impl Fn(usize) -> (Rows<T>, Rows<T>),
    ) -> Place {
        let (mut place, mut before) = (place, place);
        let mut i = 0;
        // A loop that may end before the first product would leave zeros in the registers of the results, beside which
        // the PTX compiler waits for every product.
        loop {
            self.full.wait(place.stage, place.parity);
            let (a, b) = operands(place.stage);
            results.fence();
            results.mma(a, b, 0, i > 0);
            results.mma(a, b, wgmma::K, true);
            results.mma(a, b, 2 * wgmma::K, true);
            results.mma(a, b, 3 * wgmma::K, true);
            results.commit();
            // The stage before is free when its products are done; those of this one go on.
            results.wait_but::<1>();
            if i > 0 {
                self.free(before.stage);
            }
            before = place;
            place = place.next::<STAGES>();
            i += 1;
            if i >= n_stages {
                break;
            }
        }
        results.finish();
        self.free(before.stage);
        place
    }
}

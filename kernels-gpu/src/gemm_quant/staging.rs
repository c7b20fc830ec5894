//! How results leave: multiplied by their tokens' scales, through shared memory, in boxes.

#![allow(clippy::needless_range_loop, reason = "constant indices keep arrays in registers")]

use super::CONSUMER_ROWS;
use super::items::Place;
use crate::quant::halves::WEIGHT_FACTOR;
use crate::simt::boxes::{self, OutBoxes, Rows};
use crate::simt::prelude::*;
use crate::simt::wgmma::{self, Accumulators};

/// Tokens of a box of y, and the rows in it.
pub const Y_BOX: u32 = 32;
/// Boxes of y side by side that a consumer stages at once.
const BOXES: usize = (CONSUMER_ROWS / Y_BOX) as usize;
/// Stagings of a consumer: one is filled while the other is read.
const N_STAGED: usize = 2;
/// Rows of shared memory of a consumer's stagings.
pub const STAGED_ROWS: usize = N_STAGED * BOXES * Y_BOX as usize;
/// Results of a staging, and those of 8 tokens.
const PART: usize = Y_BOX as usize / 2;
const EIGHT: usize = 4;
/// Stagings of the widest tile.
const PARTS_MAX: usize = 8;

/// The scales of the tokens of a tile, with the weights' factor taken out: lane l has that of token l of each staging.
pub struct Scales<const LEN: usize>([f32; PARTS_MAX]);

impl<const LEN: usize> Scales<LEN> {
    /// Those from token `first` on. Past the last token they are some other's: nobody looks at its results.
    #[inline(always)]
    #[track_caller]
    pub fn load(x_scales: In<f32>, first: u32, n_tokens: u32) -> Self {
        let mut scales = [0.0; PARTS_MAX];
        for part in 0..LEN / PART {
            let token = first + part as u32 * Y_BOX + warp::lane_id();
            scales[part] = x_scales.get(token.min(n_tokens - 1) as usize) * (1.0 / WEIGHT_FACTOR);
        }
        Self(scales)
    }

    /// Those of two tokens of a staging.
    #[inline(always)]
    #[track_caller]
    pub fn pair(&self, part: usize, token: u32) -> [f32; 2] {
        [0, 1].map(|i| warp::shuffle_idx(self.0[part], token + i))
    }
}

/// The way that results leave.
pub trait Output: Copy {
    /// That of a consumer.
    fn of_consumer(self, consumer: u32) -> Self;

    /// Multiplies results by their tokens' scales and stores them; `n_stored` are the stagings of the tiles before, and it gives
    /// their number now.
    fn store<const LEN: usize>(
        self,
        results: &Accumulators<LEN>,
        scales: &Scales<LEN>,
        place: Place,
        n_stored: usize,
    ) -> usize;

    /// Waits until no store reads the block's memory any more.
    fn finish(self);
}

/// Results leave in boxes.
#[derive(Clone, Copy)]
pub struct Staging {
    pub y: OutBoxes<f32, Y_BOX>,
    pub rows: Rows<f32>,
    pub consumer: u32,
}

impl Output for Staging {
    #[inline(always)]
    #[track_caller]
    fn of_consumer(self, consumer: u32) -> Self {
        Self { rows: self.rows.at_row(consumer as usize * STAGED_ROWS), consumer, ..self }
    }

    /// Through shared memory, 32 tokens at a time.
    #[inline(always)]
    #[track_caller]
    fn store<const LEN: usize>(
        self,
        results: &Accumulators<LEN>,
        scales: &Scales<LEN>,
        place: Place,
        n_stored: usize,
    ) -> usize {
        let (token, row) = (place.row, place.col + self.consumer * CONSUMER_ROWS);
        let is_first = thread::thread_idx_x().is_multiple_of(wgmma::SIZE);
        let (lane, warp) = (warp::lane_id() as usize, warp::warp_id() as usize % 4);
        // The warp's 16 rows are half of a box.
        let (in_box, col) = (warp / 2 * Y_BOX as usize, warp % 2 * 16 + lane / 4);
        for part in 0..LEN / PART {
            let first = part * Y_BOX as usize;
            let staged = self.rows.at_row((n_stored + part) % N_STAGED * BOXES * Y_BOX as usize);
            // The last but one store must have read what is overwritten now.
            if is_first {
                boxes::wait_stores_read::<{ N_STAGED as u32 - 1 }>();
            }
            thread::sync_named(1 + self.consumer, wgmma::SIZE);
            let staged_box = staged.at_row(in_box);
            for eight in 0..PART / EIGHT {
                let token = eight * 8 + lane % 4 * 2;
                let pair = scales.pair(part, token as u32);
                for i in 0..EIGHT {
                    let value = results.get(part * PART + eight * EIGHT + i) * pair[i % 2];
                    staged_box.set(token + i % 2, col + i / 2 * 8, value);
                }
            }
            boxes::fence();
            thread::sync_named(1 + self.consumer, wgmma::SIZE);
            if is_first {
                for i in 0..BOXES {
                    let first_row = i * Y_BOX as usize;
                    self.y.store(staged.at_row(first_row), token + first as u32, row + first_row as u32);
                }
                boxes::commit_stores();
            }
        }
        n_stored + LEN / PART
    }

    #[inline(always)]
    #[track_caller]
    fn finish(self) {
        if thread::thread_idx_x().is_multiple_of(wgmma::SIZE) {
            boxes::wait_stores_read::<0>();
        }
    }
}

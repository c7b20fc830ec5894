//! The end of a block: its warps' sums become one part.

#![allow(clippy::needless_range_loop, reason = "constant indices keep arrays in registers")]

use super::{NO_SCORE, STEP, WEIGHT_EXPONENT, rows_of, sums_stride};
use crate::simt::prelude::*;

/// What the warps know of their keys, in shared memory.
pub struct Joint<const DIM: usize, const PASSES: usize, const WARPS: usize> {
    /// `[warp, row, dim]`, rows [`sums_stride`] apart.
    sums: Tile<f32>,
    /// `[warp, row, 2]`
    ml: Tile<f32>,
}

impl<const DIM: usize, const PASSES: usize, const WARPS: usize> Joint<DIM, PASSES, WARPS> {
    const ROWS: usize = 8 * PASSES;

    #[inline(always)]
    #[track_caller]
    pub fn new() -> Self {
        let mut shared = Shared::new();
        let sums = shared.tile::<f32>(WARPS * Self::ROWS * sums_stride(DIM));
        Self { sums, ml: shared.tile::<f32>(WARPS * Self::ROWS * 2) }
    }

    /// Leaves a warp's knowledge.
    #[inline(always)]
    #[track_caller]
    pub fn put<const STEPS: usize>(
        &self,
        sums: &[[[f32; 4]; 2]; STEPS],
        ml: [[f32; 2]; PASSES],
        warp: usize,
        lane: usize,
    ) {
        for row in 0..PASSES {
            let line = warp * Self::ROWS + 8 * row + lane / 4;
            if lane.is_multiple_of(4) {
                self.ml.store::<2>(2 * line, ml[row]);
            }
            for step in 0..STEPS {
                for half in 0..2 {
                    let pair = rows_of::<PASSES>(sums[step][half])[row];
                    let at = line * sums_stride(DIM) + STEP * step + 8 * half + 2 * (lane % 4);
                    self.sums.store::<2>(at, pair);
                }
            }
        }
    }

    /// Joins what the warps know of a row, in their order, and stores it: a warp's work.
    #[inline(always)]
    #[track_caller]
    pub fn store(&self, part_out: Out<f32>, part_ml: Out<f32>, out_row: usize, row: usize, lane: usize) {
        let mut m = NO_SCORE;
        for warp in 0..WARPS {
            m = math::max(m, self.ml.get(2 * (warp * Self::ROWS + row)));
        }
        let (mut l, mut weights) = (0.0, [0.0; WARPS]);
        for warp in 0..WARPS {
            let [warp_m, warp_l] = self.ml.load::<2>(2 * (warp * Self::ROWS + row));
            weights[warp] = math::exp2_flush(warp_m - m);
            l = math::fma(weights[warp], warp_l, l);
        }
        let factor = if l > 0.0 { math::rcp(l) } else { 0.0 };
        let mut dim = 4 * lane;
        while dim < DIM {
            let mut four = [0.0; 4];
            for warp in 0..WARPS {
                let sums = self.sums.load::<4>((warp * Self::ROWS + row) * sums_stride(DIM) + dim);
                for i in 0..4 {
                    four[i] = math::fma(weights[warp], sums[i], four[i]);
                }
            }
            part_out.store::<4>(out_row * DIM + dim, four.map(|sum| sum * factor));
            dim += 4 * 32;
        }
        if lane == 0 {
            // The parts are merged by e^m.
            let l = l * math::exp2(-WEIGHT_EXPONENT);
            part_ml.store::<2>(2 * out_row, [m * core::f32::consts::LN_2, l]);
        }
    }
}

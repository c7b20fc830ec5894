//! What a warp loads at a time: some columns of its 16 rows, which lanes decode to matrix a, chunk by chunk.

use crate::quant::fragments::{self, FloatFragments, QuantFragments};
use crate::quant::halves::{
    CHUNK_COLS, Constants, Decoded, Factors, Fetched, OfRows, UNIT_COLS, WEIGHT_FACTOR,
};
use crate::simt::prelude::*;

/// A unit of weights.
pub(crate) trait Unit: Copy {
    /// Columns: one or more stages of x.
    const COLS: usize;
    /// Weights are multiplied by this.
    const FACTOR: f32;
    /// The chunk with which the load of the next unit starts.
    const NEXT_AT: usize;
    /// What is made of a unit's scales.
    type Scales: Copy;

    /// Starts to load a unit of a tile of rows.
    fn load(w: In<u8>, n_cols: u32, row_tile: usize, unit: u32) -> Self;

    /// The unit's scales.
    fn scales(&self) -> Self::Scales;

    /// Chunk `chunk` as matrix a; `scales` are those that the chunk before it left.
    fn decode(&self, scales: &mut Self::Scales, constants: Constants, chunk: usize) -> Decoded;
}

/// Groups that a unit of a quantised format has parts of.
pub(crate) const fn groups<Q: QuantFragments>() -> usize {
    (UNIT_COLS as usize).div_ceil(Q::GROUP_COLS)
}

impl<Q: QuantFragments, const GROUPS: usize> Unit for Fetched<Q, GROUPS> {
    const COLS: usize = UNIT_COLS as usize;
    const FACTOR: f32 = WEIGHT_FACTOR;
    // So late that most of this unit has left the registers.
    const NEXT_AT: usize = Self::COLS / CHUNK_COLS - 2;
    type Scales = (Factors, OfRows);

    #[inline(always)]
    #[track_caller]
    fn load(w: In<u8>, n_cols: u32, row_tile: usize, unit: u32) -> Self {
        Fetched::load(w, n_cols, row_tile, unit)
    }

    #[inline(always)]
    fn scales(&self) -> (Factors, OfRows) {
        (self.factors(), [[f16x2::from_bits(0); 2]; 2])
    }

    #[inline(always)]
    #[track_caller]
    fn decode(&self, scales: &mut (Factors, OfRows), constants: Constants, chunk: usize) -> Decoded {
        let (factors, of_rows) = scales;
        *of_rows = Self::of_rows(factors, chunk, *of_rows);
        Fetched::decode(self, constants, *of_rows, chunk)
    }
}

/// A tile of 16-bit floats.
#[derive(Clone, Copy)]
pub(crate) struct Floats<F: FloatFragments>([F::Quants; 2]);

impl<F: FloatFragments> Unit for Floats<F> {
    const COLS: usize = F::TILE_COLS;
    const FACTOR: f32 = F::HALF_FACTOR;
    // It is so few columns that memory answers no earlier than needed.
    const NEXT_AT: usize = 0;
    type Scales = ();

    #[inline(always)]
    #[track_caller]
    fn load(w: In<u8>, n_cols: u32, row_tile: usize, unit: u32) -> Self {
        const { assert!(F::GROUPS == 2 && F::STEP_COLS == CHUNK_COLS) };
        let tile = fragments::global_tile::<F>(w, n_cols as usize, row_tile, unit as usize);
        let lane = warp::lane_id() as usize;
        Floats([F::quants(tile, lane, 0), F::quants(tile, lane, 1)])
    }

    #[inline(always)]
    fn scales(&self) {}

    #[inline(always)]
    fn decode(&self, (): &mut (), _: Constants, chunk: usize) -> Decoded {
        F::words(&self.0[chunk / F::GROUP_STEPS], chunk % F::GROUP_STEPS).map(F::half_word)
    }
}

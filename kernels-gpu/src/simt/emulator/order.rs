//! Who takes turns when.

use super::block::LANES;

/// In which order warps, and lanes of a warp, take turns: that of their index for seed 0, else an affine
/// permutation drawn from the seed and the block.
#[derive(Clone, Copy)]
pub struct Order {
    n_warps: usize,
    warp_offset: usize,
    lane_offset: usize,
    lane_stride: usize,
    reverse: bool,
}

impl Order {
    pub fn new(seed: u64, linear: u64, n_warps: usize) -> Self {
        if seed == 0 {
            return Self { n_warps, warp_offset: 0, lane_offset: 0, lane_stride: 1, reverse: false };
        }
        let draw = mix(seed ^ mix(linear)) as usize;
        Self {
            n_warps,
            warp_offset: (draw >> 32) % n_warps,
            lane_offset: draw % LANES,
            lane_stride: ((draw >> 8) % LANES) | 1, // Odd, so that every lane has its turn.
            reverse: (draw >> 16) & 1 == 1,
        }
    }

    pub fn warps(self) -> impl Iterator<Item = usize> {
        (0..self.n_warps).map(move |turn| {
            let warp = (turn + self.warp_offset) % self.n_warps;
            if self.reverse { self.n_warps - 1 - warp } else { warp }
        })
    }

    pub fn lanes(self) -> impl Iterator<Item = usize> {
        (0..LANES).map(move |turn| (turn * self.lane_stride + self.lane_offset) % LANES)
    }
}

/// A well-mixed function of 64 bits (the finaliser of the SplitMix generator).
pub fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

//! Inputs for tests: seeded, so that a failure can be repeated, and with the values that models really have.

use half::f16;
use kernels_gpu::quant::layout::GpuLayout;
use kernels_gpu::quant::{
    BF16, F16, F32, IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0,
    QuantBlock, decode_blocks,
};

/// A generator of reproducible values (SplitMix64).
pub struct Rng(u64);

impl Rng {
    /// The generator for a seed; different seeds give unrelated sequences.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 uniform bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A uniform integer below `n`.
    pub fn below(&mut self, n: u32) -> u32 {
        (((self.bits() >> 32) * u64::from(n)) >> 32) as u32
    }

    /// A uniform value in [0, 1), of 53 bits.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Normally distributed values of mean 0 (Box-Muller).
    pub fn normal(&mut self, n: usize, standard_deviation: f64) -> Vec<f32> {
        let value = |rng: &mut Self| {
            let radius = (-2.0 * (1.0 - rng.unit()).ln()).sqrt();
            (standard_deviation * radius * (std::f64::consts::TAU * rng.unit()).cos()) as f32
        };
        (0..n).map(|_| value(self)).collect()
    }

    /// `n` ids below `n_vocab`.
    pub fn tokens(&mut self, n: usize, n_vocab: usize) -> Vec<u32> {
        let n_vocab = u32::try_from(n_vocab).expect("token ids have 32 bits");
        (0..n).map(|_| self.below(n_vocab)).collect()
    }

    /// A half between 1/2 and 1 times `magnitude`, as bytes; negative in half of the cases if `signed`.
    fn half(&mut self, magnitude: f64, signed: bool) -> [u8; 2] {
        let sign = if signed && self.bits() & 1 == 1 { -1.0 } else { 1.0 };
        f16::from_f64(sign * magnitude * (0.5 + 0.5 * self.unit())).to_le_bytes()
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.bits() as u8)
    }
}

/// A format that tests can make weights of.
pub trait RandomBlock: QuantBlock + bytemuck::Pod {
    /// A block with every quant and sub-scale equally likely and values of the size of a model's weights, up to
    /// about 0.1.
    fn random(rng: &mut Rng) -> Self;

    /// Whether a minimum is added to what the quants give.
    const HAS_MIN: bool = false;

    /// The block with every bit of its quants equal to those of `byte`.
    fn with_quants(&self, _byte: u8) -> Self {
        *self
    }
}

/// For every element the magnitude that rounding errors of a kernel scale with: |w|, or where there is a minimum, which
/// kernels treat apart, |scale · q| + |minimum|.
pub fn magnitudes<B: RandomBlock>(blocks: &[B]) -> Vec<f64> {
    let decoded = |blocks: &[B]| {
        let mut values = vec![0.0; blocks.len() * B::ELEMENTS];
        decode_blocks(blocks, &mut values);
        values
    };
    let values = decoded(blocks);
    if !B::HAS_MIN {
        return values.iter().map(|&w| f64::from(w).abs()).collect();
    }
    let mins = decoded(&blocks.iter().map(|block| block.with_quants(0)).collect::<Vec<_>>());
    let magnitude = |(&w, &min): (&f32, &f32)| (f64::from(w) - f64::from(min)).abs() + f64::from(min).abs();
    values.iter().zip(&mins).map(magnitude).collect()
}

/// A matrix of `n_blocks` random blocks and its values. Exact.
pub fn weights<B: RandomBlock>(rng: &mut Rng, n_blocks: usize) -> (Vec<B>, Vec<f32>) {
    let blocks: Vec<B> = (0..n_blocks).map(|_| B::random(rng)).collect();
    let mut values = vec![0.0; n_blocks * B::ELEMENTS];
    decode_blocks(&blocks, &mut values);
    (blocks, values)
}

/// f32 copies of the kernels' halves. Exact.
pub fn widen_halves(halves: &[kernels_gpu::simt::f16]) -> Vec<f32> {
    halves.iter().map(|h| f16::from_bits(h.to_bits()).to_f32()).collect()
}

/// The kernels' halves nearest to f32 values.
pub fn narrow_halves(values: &[f32]) -> Vec<kernels_gpu::simt::f16> {
    values.iter().map(|&v| kernels_gpu::simt::f16::from_bits(f16::from_f32(v).to_bits())).collect()
}

/// A matrix as it lies in GPU memory.
pub fn packed<B: RandomBlock + GpuLayout>(blocks: &[B], n_cols: usize) -> Vec<u8> {
    let n_rows = blocks.len() * B::ELEMENTS / n_cols;
    let mut bytes = vec![0; B::matrix_bytes(n_rows, n_cols)];
    B::pack(&mut bytes, bytemuck::cast_slice(blocks), n_rows, n_cols);
    bytes
}

impl RandomBlock for F32 {
    fn random(rng: &mut Rng) -> Self {
        Self(rng.normal(1, 0.05)[0].to_le_bytes())
    }
}

impl RandomBlock for F16 {
    fn random(rng: &mut Rng) -> Self {
        Self(f16::from_f32(rng.normal(1, 0.05)[0]).to_le_bytes())
    }
}

impl RandomBlock for BF16 {
    fn random(rng: &mut Rng) -> Self {
        Self(half::bf16::from_f32(rng.normal(1, 0.05)[0]).to_le_bytes())
    }
}

impl RandomBlock for Q4_0 {
    fn random(rng: &mut Rng) -> Self {
        Self { d: rng.half(0.1 / 8.0, true), qs: rng.bytes() }
    }
}

impl RandomBlock for Q4_1 {
    const HAS_MIN: bool = true;

    fn random(rng: &mut Rng) -> Self {
        Self { d: rng.half(0.2 / 15.0, true), m: rng.half(0.1, true), qs: rng.bytes() }
    }

    fn with_quants(&self, byte: u8) -> Self {
        Self { qs: [byte; 16], ..*self }
    }
}

impl RandomBlock for Q5_0 {
    fn random(rng: &mut Rng) -> Self {
        Self { d: rng.half(0.1 / 16.0, true), qh: rng.bytes(), qs: rng.bytes() }
    }
}

impl RandomBlock for Q5_1 {
    const HAS_MIN: bool = true;

    fn random(rng: &mut Rng) -> Self {
        Self { d: rng.half(0.2 / 31.0, true), m: rng.half(0.1, true), qh: rng.bytes(), qs: rng.bytes() }
    }

    fn with_quants(&self, byte: u8) -> Self {
        Self { qh: [byte; 4], qs: [byte; 16], ..*self }
    }
}

impl RandomBlock for Q8_0 {
    fn random(rng: &mut Rng) -> Self {
        Self { d: rng.half(0.1 / 128.0, true), qs: rng.bytes().map(u8::cast_signed) }
    }
}

impl RandomBlock for Q2_K {
    const HAS_MIN: bool = true;

    fn random(rng: &mut Rng) -> Self {
        Self {
            scales: rng.bytes(),
            qs: rng.bytes(),
            d: rng.half(0.2 / 3.0 / 15.0, false),
            dmin: rng.half(0.1 / 15.0, false),
        }
    }

    fn with_quants(&self, byte: u8) -> Self {
        Self { qs: [byte; 64], ..*self }
    }
}

impl RandomBlock for Q3_K {
    fn random(rng: &mut Rng) -> Self {
        Self { hmask: rng.bytes(), qs: rng.bytes(), scales: rng.bytes(), d: rng.half(0.1 / 4.0 / 32.0, true) }
    }
}

impl RandomBlock for Q4_K {
    const HAS_MIN: bool = true;

    fn random(rng: &mut Rng) -> Self {
        Self {
            d: rng.half(0.2 / 15.0 / 63.0, false),
            dmin: rng.half(0.1 / 63.0, false),
            scales: rng.bytes(),
            qs: rng.bytes(),
        }
    }

    fn with_quants(&self, byte: u8) -> Self {
        Self { qs: [byte; 128], ..*self }
    }
}

impl RandomBlock for Q5_K {
    const HAS_MIN: bool = true;

    fn random(rng: &mut Rng) -> Self {
        Self {
            d: rng.half(0.2 / 31.0 / 63.0, false),
            dmin: rng.half(0.1 / 63.0, false),
            scales: rng.bytes(),
            qh: rng.bytes(),
            qs: rng.bytes(),
        }
    }

    fn with_quants(&self, byte: u8) -> Self {
        Self { qh: [byte; 32], qs: [byte; 128], ..*self }
    }
}

impl RandomBlock for Q6_K {
    fn random(rng: &mut Rng) -> Self {
        Self {
            ql: rng.bytes(),
            qh: rng.bytes(),
            scales: rng.bytes().map(u8::cast_signed),
            d: rng.half(0.1 / 32.0 / 128.0, true),
        }
    }
}

impl RandomBlock for IQ4_NL {
    fn random(rng: &mut Rng) -> Self {
        Self { d: rng.half(0.1 / 127.0, true), qs: rng.bytes() }
    }
}

impl RandomBlock for IQ4_XS {
    fn random(rng: &mut Rng) -> Self {
        Self {
            d: rng.half(0.1 / 127.0 / 32.0, true),
            scales_h: rng.bytes(),
            scales_l: rng.bytes(),
            qs: rng.bytes(),
        }
    }
}

impl RandomBlock for MXFP4 {
    fn random(rng: &mut Rng) -> Self {
        // The largest level is 6, so values reach 6 / 2⁷, 6 / 2⁶ or 6 / 2⁵.
        Self { e: 127 - 7 + rng.below(3) as u8, qs: rng.bytes() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_values_have_their_mean_and_deviation() {
        let values = Rng::new(1).normal(100_000, 2.0);
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / 1e5;
        let variance = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / 1e5;
        // Five standard errors: 2 / sqrt(n) for the mean, σ² sqrt(2 / n) for the variance.
        assert!(mean.abs() < 5.0 * 2.0 / 1e5f64.sqrt(), "mean {mean}");
        assert!((variance - 4.0).abs() < 5.0 * 4.0 * (2.0f64 / 1e5).sqrt(), "variance {variance}");
    }

    #[test]
    fn random_blocks_have_the_size_of_weights() {
        fn check<B: RandomBlock>() {
            let (_, values) = weights::<B>(&mut Rng::new(3), 4096 / B::ELEMENTS);
            let largest = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            assert!((0.05..0.4).contains(&largest), "{}: {largest}", B::NAME);
        }
        check::<F32>();
        check::<F16>();
        check::<BF16>();
        check::<Q4_0>();
        check::<Q4_1>();
        check::<Q5_0>();
        check::<Q5_1>();
        check::<Q8_0>();
        check::<Q2_K>();
        check::<Q3_K>();
        check::<Q4_K>();
        check::<Q5_K>();
        check::<Q6_K>();
        check::<IQ4_NL>();
        check::<IQ4_XS>();
        check::<MXFP4>();
    }
}

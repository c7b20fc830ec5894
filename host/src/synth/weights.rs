//! Random weights, made as blocks: no f32 copy, no quantising, as fast as memory.
//!
//! Each element has mean 0 and the wanted standard deviation.  Quants are uniform random bits; the block's scale is chosen
//! so that they come out right, with a random factor between 3/4 and 5/4, and with a random sign where the quants are not
//! symmetric around 0.

use std::sync::LazyLock;

use half::f16;

use crate::gguf::GgmlType;

/// The mean square of the factor between 3/4 and 5/4.
const JITTER_MEAN_SQUARE: f64 = 1.0 + 1.0 / 48.0;

/// A stream of random numbers (SplitMix64): state is a counter, so that any number of streams can run side by side.
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

impl Rng {
    /// The stream of piece `piece` of tensor `tensor`.
    pub fn of_piece(seed: u64, tensor: u64, piece: u64) -> Rng {
        let mut rng = Rng(seed);
        for part in [tensor, piece] {
            rng = Rng(rng.next() ^ part.wrapping_mul(0xd6e8_feb8_6659_fd93));
        }
        Rng(rng.next())
    }

    #[inline(always)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        let mut words = bytes.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.next().to_le_bytes());
        }
        let rest = words.into_remainder();
        let n_rest = rest.len();
        rest.copy_from_slice(&self.next().to_le_bytes()[..n_rest]);
    }
}

/// Fills `bytes` with random blocks of type `ty`, whose elements have standard deviation `std`.
///
/// # Panics
/// If `bytes` is no whole number of blocks, or the type is none that the recipes use.
pub(super) fn fill(ty: GgmlType, std: f64, rng: &mut Rng, bytes: &mut [u8]) {
    assert!(bytes.len().is_multiple_of(ty.block_bytes() as usize), "{} bytes of {ty}", bytes.len());
    rng.fill(bytes);
    // The mean square of an element whose scale is 1.
    let scale = |mean_square: f64| (std / (mean_square * JITTER_MEAN_SQUARE).sqrt()) as f32;
    match ty {
        GgmlType::F32 => floats::<4>(bytes, std, 23, 8),
        GgmlType::F16 => floats::<2>(bytes, std, 10, 5),
        GgmlType::BF16 => floats::<2>(bytes, std, 7, 8),
        GgmlType::Q4_0 => blocks::<18>(bytes, rng, scale(21.5), |block, d| put(block, 0, d)),
        GgmlType::Q5_0 => blocks::<22>(bytes, rng, scale(85.5), |block, d| put(block, 0, d)),
        GgmlType::Q8_0 => blocks::<34>(bytes, rng, scale(5461.5), |block, d| put(block, 0, d)),
        GgmlType::Q4_1 => blocks::<20>(bytes, rng, scale(21.25), |block, d| put_with_min(block, d, 7.5)),
        GgmlType::Q5_1 => blocks::<24>(bytes, rng, scale(85.25), |block, d| put_with_min(block, d, 15.5)),
        GgmlType::Q2_K => blocks::<84>(bytes, rng, scale(1.25 * 137.5), |block, d| {
            // Equal sub-scales and sub-minima from 8 to 15.
            for sub_scale in &mut block[..16] {
                *sub_scale = (*sub_scale & 7 | 8) * 0x11;
            }
            put(block, 80, d);
            put(block, 82, 1.5 * d);
        }),
        // Sub-scales from -32 to 31, whatever the bits.
        GgmlType::Q3_K => blocks::<110>(bytes, rng, scale(5.5 * 341.5), |block, d| put(block, 108, d)),
        GgmlType::Q4_K => blocks::<144>(bytes, rng, scale(21.25 * SUB_SCALE_MEAN_SQUARE), |block, d| {
            put_sub_scales(block);
            put_with_min(block, d, -7.5);
        }),
        GgmlType::Q5_K => blocks::<176>(bytes, rng, scale(85.25 * SUB_SCALE_MEAN_SQUARE), |block, d| {
            put_sub_scales(block);
            put_with_min(block, d, -15.5);
        }),
        GgmlType::Q6_K => blocks::<210>(bytes, rng, scale(341.5 * 9461.5), |block, d| {
            // Sub-scales from 64 to 127 and from -127 to -64.
            for sub_scale in &mut block[192..208] {
                let magnitude = (*sub_scale & 0x3f | 0x40) as i8;
                *sub_scale = if *sub_scale < 0x80 { magnitude } else { -magnitude } as u8;
            }
            put(block, 208, d);
        }),
        GgmlType::IQ4_NL => blocks::<18>(bytes, rng, scale(IQ4_MEAN_SQUARE), |block, d| put(block, 0, d)),
        // Sub-scales from -32 to 31, whatever the bits.
        GgmlType::IQ4_XS => {
            blocks::<136>(bytes, rng, scale(IQ4_MEAN_SQUARE * 341.5), |block, d| put(block, 0, d));
        }
        GgmlType::MXFP4 => mxfp4(bytes, std),
        other => panic!("no recipe uses {other}"),
    }
}

/// Turns random bits into floats of either sign between 2^e and 2^(e+2), e being such that their mean square is right: the
/// bits of the exponent decide between 2^e..2^(e+1) and 2^(e+1)..2^(e+2).
fn floats<const N: usize>(bytes: &mut [u8], std: f64, mantissa_bits: u32, exponent_bits: u32) {
    // Of numbers uniform in 1..2.
    let (exponent, upper_share) = split_mean_square(std * std / (7.0 / 3.0));
    let bias = (1i64 << (exponent_bits - 1)) - 1;
    let lower = (i64::from(exponent) + bias) as u64;
    let exponent_mask = (1u64 << exponent_bits) - 1;
    let n_upper = (upper_share * (exponent_mask + 1) as f64).round() as u64;
    for element in bytes.chunks_exact_mut(N) {
        let mut word = [0; 8];
        word[..N].copy_from_slice(element);
        let random = u64::from_le_bytes(word);
        let is_upper = u64::from((random >> mantissa_bits & exponent_mask) < n_upper);
        let kept = random & !(exponent_mask << mantissa_bits);
        let value = kept | (lower + is_upper) << mantissa_bits;
        element.copy_from_slice(&value.to_le_bytes()[..N]);
    }
}

/// The exponent e and the share p for which 4^e · (1 − p) + 4^(e+1) · p is `mean_square`.
fn split_mean_square(mean_square: f64) -> (i32, f64) {
    let exponent = (mean_square.log2() / 2.0).floor() as i32;
    let ratio = mean_square / 4f64.powi(exponent);
    (exponent, ((ratio - 1.0) / 3.0).clamp(0.0, 1.0))
}

/// Gives each block of `N` bytes its scale.
fn blocks<const N: usize>(
    bytes: &mut [u8],
    rng: &mut Rng,
    scale: f32,
    put_scale: impl Fn(&mut [u8; N], f32),
) {
    let (blocks, rest) = bytes.as_chunks_mut::<N>();
    assert!(rest.is_empty(), "{} bytes after the last block", rest.len());
    for block in blocks {
        let random = rng.next();
        let jitter = 0.75 + 0.5 * (random >> 40) as f32 / (1u64 << 24) as f32;
        let sign = if random & 1 == 0 { 1.0 } else { -1.0 };
        put_scale(block, sign * jitter * scale);
    }
}

fn put(block: &mut [u8], at: usize, value: f32) {
    block[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

/// Scale d and, after it, what makes the mean of quants with mean `middle` zero: the minimum -d · middle.
fn put_with_min(block: &mut [u8], d: f32, middle: f32) {
    put(block, 0, d);
    put(block, 2, -middle * d);
}

/// The mean square of the levels of IQ4_NL and IQ4_XS.
const IQ4_MEAN_SQUARE: f64 = 4548.0;

/// The mean square of a number uniform in 32..=63.
const SUB_SCALE_MEAN_SQUARE: f64 = 2341.5;

/// Sub-scales and sub-minima of Q4_K and Q5_K: 8 equal pairs of 6 bits, packed.
static SUB_SCALES: LazyLock<[[u8; 12]; 64]> = LazyLock::new(|| {
    let mut rng = Rng(0x5ca1e5);
    std::array::from_fn(|_| {
        let pairs: [u8; 8] = std::array::from_fn(|_| 32 + (rng.next() >> 59) as u8);
        let mut packed = [0; 12];
        for (i, &low) in pairs[..4].iter().enumerate() {
            let high = pairs[i + 4];
            packed[i] = low | (high >> 4) << 6;
            packed[i + 4] = packed[i];
            packed[i + 8] = (high & 15) | (high & 15) << 4;
        }
        packed
    })
});

/// Takes one of the ready-made sets, by the random bits that lie in their place.
fn put_sub_scales(block: &mut [u8]) {
    let set = block[4] & 63;
    block[4..16].copy_from_slice(&SUB_SCALES[usize::from(set)]);
}

/// Exponents for codes of mean square 8.5625: 0, 1/2, 1, 3/2, 2, 3, 4 and 6 of either sign.
fn mxfp4(bytes: &mut [u8], std: f64) {
    let (exponent, upper_share) = split_mean_square(std * std / 8.5625);
    let lower = u8::try_from(exponent + 127).expect("a standard deviation within f32's range");
    let n_upper = (upper_share * 256.0).round() as u16;
    for block in bytes.chunks_exact_mut(17) {
        block[0] = lower + u8::from(u16::from(block[0]) < n_upper);
    }
}

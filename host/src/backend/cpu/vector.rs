//! The words that the CPU's kernels are written in: sixteen f32 lanes at a time.
//!
//! A kernel is written once, generic over [`Vector`], and [`Isa::run`] instantiates it for the instruction sets that
//! pay. The lanes are sixteen everywhere, so that every sum is taken in the same order: AVX2 and AVX-512 give the same
//! bits. (The portable lanes have no fused multiply-add, so their sums differ by rounding.)

/// Lanes of a [`Vector`].
pub const LANES: usize = 16;

/// Sixteen f32.
///
/// Methods are `#[inline(always)]`, so that they take on the instruction set of the function that they end up in.
pub trait Vector: Copy {
    /// Sixteen bytes.
    type Bytes: Copy;

    /// Rows and tokens whose sums the registers hold in a product of matrices: see `matmul.rs`.
    const SQUARE: Square;

    fn splat(value: f32) -> Self;
    fn load(values: &[f32; LANES]) -> Self;
    fn store(self, values: &mut [f32; LANES]);
    fn add(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// The larger of each lane; `self`'s NaN stays.
    fn max(self, other: Self) -> Self;
    /// The smaller of each lane; `self`'s NaN stays.
    fn min(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;

    /// self · factor + summand, rounded once where the machine can.
    fn mul_add(self, factor: Self, summand: Self) -> Self;

    /// Singles, little-endian as all that follow.
    fn load_f32(bytes: &[u8; 4 * LANES]) -> Self;
    /// IEEE halves.
    fn load_f16(bytes: &[u8; 2 * LANES]) -> Self;
    /// bfloat16s.
    fn load_bf16(bytes: &[u8; 2 * LANES]) -> Self;

    /// One IEEE half.
    fn f16(bits: [u8; 2]) -> f32;

    fn load_bytes(bytes: &[u8; LANES]) -> Self::Bytes;
    fn and(bytes: Self::Bytes, mask: u8) -> Self::Bytes;
    fn or(bytes: Self::Bytes, other: Self::Bytes) -> Self::Bytes;
    /// Each byte shifted left; `bits` is 0 to 7.
    fn shl(bytes: Self::Bytes, bits: u32) -> Self::Bytes;
    /// Each byte shifted right; `bits` is 0 to 7.
    fn shr(bytes: Self::Bytes, bits: u32) -> Self::Bytes;
    /// `table`'s entry for each byte, which must be below 16.
    fn look_up(table: &[u8; 16], indices: Self::Bytes) -> Self::Bytes;
    /// `value` in byte i where bit i of `bits` is set, else 0.
    fn spread(bits: u16, value: u8) -> Self::Bytes;
    /// The bytes as numbers from 0 to 255.
    fn unsigned(bytes: Self::Bytes) -> Self;
    /// The bytes as numbers from -128 to 127.
    fn signed(bytes: Self::Bytes) -> Self;

    /// The nearest whole numbers, halves to even.
    fn round(self) -> Self;
    /// 2 to the power of whole numbers from -126 to 127.
    fn exp2_whole(self) -> Self;

    /// e to the power of the lanes, within 2 units in the last place; e^-87 below -87 and e^88 above 88. NaN stays NaN.
    #[inline(always)]
    fn exp(self) -> Self {
        // e^x = 2^n · e^r with n whole and |r| <= ln(2) / 2; ln(2) in two parts, so that r keeps its last bits.
        const LN2_HIGH: f32 = 0.693_359_4;
        const LN2_LOW: f32 = -2.121_944_4e-4;
        // Taylor's coefficients of e^r: the next term, r^8 / 40320, is below 2^-27 for these r.
        const TERMS: [f32; 8] =
            [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
        let x = self.min(Self::splat(88.0)).max(Self::splat(-87.0));
        let n = x.mul(Self::splat(std::f32::consts::LOG2_E)).round();
        let r = n.mul_add(Self::splat(-LN2_HIGH), x);
        let r = n.mul_add(Self::splat(-LN2_LOW), r);
        let mut power = Self::splat(TERMS[0]);
        for term in &TERMS[1..] {
            power = power.mul_add(r, Self::splat(*term));
        }
        power.mul(n.exp2_whole())
    }

    /// The sum of the lanes: i with i + 8, then i + 4, i + 2, i + 1.
    #[inline(always)]
    fn sum(self) -> f32 {
        self.fold(|a, b| a + b)
    }

    /// The largest lane.
    #[inline(always)]
    fn largest(self) -> f32 {
        self.fold(f32::max)
    }

    /// Halves the lanes until one is left.
    #[inline(always)]
    fn fold(self, join: impl Fn(f32, f32) -> f32) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(&mut lanes);
        let mut half = LANES / 2;
        while half > 0 {
            for lane in 0..half {
                lanes[lane] = join(lanes[lane], lanes[lane + half]);
            }
            half /= 2;
        }
        lanes[0]
    }

    /// Up to sixteen values, and zeros after them.
    #[inline(always)]
    fn load_partial(values: &[f32]) -> Self {
        let mut lanes = [0.0; LANES];
        lanes[..values.len()].copy_from_slice(values);
        Self::load(&lanes)
    }
}

/// Rows times tokens that a product of matrices sums at once: as many as leave registers for the factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Square {
    Rows1Tokens2,
    Rows2Tokens3,
    Rows4Tokens4,
}

/// Something to compute with whatever vectors the machine has.
pub trait Kernel {
    /// Must be `#[inline(always)]`, and so must whatever it calls that touches a vector.
    fn run<V: Vector>(self);
}

/// An instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(super::x86::Avx2Token),
    #[cfg(target_arch = "x86_64")]
    Avx512(super::x86::Avx512Token),
}

impl Isa {
    /// The best that this machine has.
    pub fn detect() -> Isa {
        Isa::all().pop().expect("portable is always there")
    }

    /// All that this machine has, the best last.
    pub fn all() -> Vec<Isa> {
        #[allow(unused_mut, reason = "other architectures have one")]
        let mut all = vec![Isa::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(super::x86::Avx2Token::new().map(Isa::Avx2));
            all.extend(super::x86::Avx512Token::new().map(Isa::Avx512));
        }
        all
    }

    /// For messages.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) => "AVX-512",
        }
    }

    /// Runs `kernel` with this instruction set.
    pub fn run(self, kernel: impl Kernel) {
        match self {
            Isa::Portable => kernel.run::<Portable>(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(token) => token.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(token) => token.run(kernel),
        }
    }
}

/// Lanes in plain Rust, for machines without one of the other sets.
#[derive(Clone, Copy)]
pub struct Portable([f32; LANES]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, op: impl Fn(f32, f32) -> f32) -> Self {
        Portable(std::array::from_fn(|lane| op(self.0[lane], other.0[lane])))
    }
}

impl Vector for Portable {
    type Bytes = [u8; LANES];

    const SQUARE: Square = Square::Rows1Tokens2;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Portable([value; LANES])
    }

    #[inline(always)]
    fn load(values: &[f32; LANES]) -> Self {
        Portable(*values)
    }

    #[inline(always)]
    fn store(self, values: &mut [f32; LANES]) {
        *values = self.0;
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { b } else { a })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { b } else { a })
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }

    #[inline(always)]
    fn round(self) -> Self {
        Portable(self.0.map(f32::round_ties_even))
    }

    #[inline(always)]
    fn exp2_whole(self) -> Self {
        Portable(self.0.map(|n| f32::from_bits(((n as i32 + 127) as u32) << 23)))
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, summand: Self) -> Self {
        self.mul(factor).add(summand)
    }

    #[inline(always)]
    fn load_f32(bytes: &[u8; 4 * LANES]) -> Self {
        Portable(std::array::from_fn(|lane| {
            let bytes = &bytes[4 * lane..][..4];
            f32::from_le_bytes(bytes.try_into().expect("four bytes"))
        }))
    }

    #[inline(always)]
    fn load_f16(bytes: &[u8; 2 * LANES]) -> Self {
        Portable(std::array::from_fn(|lane| Self::f16([bytes[2 * lane], bytes[2 * lane + 1]])))
    }

    #[inline(always)]
    fn load_bf16(bytes: &[u8; 2 * LANES]) -> Self {
        Portable(std::array::from_fn(|lane| f32::from_le_bytes([0, 0, bytes[2 * lane], bytes[2 * lane + 1]])))
    }

    #[inline(always)]
    fn f16(bits: [u8; 2]) -> f32 {
        kernels_gpu::quant::f16_to_f32(u16::from_le_bytes(bits))
    }

    #[inline(always)]
    fn load_bytes(bytes: &[u8; LANES]) -> Self::Bytes {
        *bytes
    }

    #[inline(always)]
    fn and(bytes: Self::Bytes, mask: u8) -> Self::Bytes {
        bytes.map(|byte| byte & mask)
    }

    #[inline(always)]
    fn or(bytes: Self::Bytes, other: Self::Bytes) -> Self::Bytes {
        std::array::from_fn(|lane| bytes[lane] | other[lane])
    }

    #[inline(always)]
    fn shl(bytes: Self::Bytes, bits: u32) -> Self::Bytes {
        bytes.map(|byte| byte << bits)
    }

    #[inline(always)]
    fn shr(bytes: Self::Bytes, bits: u32) -> Self::Bytes {
        bytes.map(|byte| byte >> bits)
    }

    #[inline(always)]
    fn look_up(table: &[u8; 16], indices: Self::Bytes) -> Self::Bytes {
        indices.map(|index| table[usize::from(index & 15)])
    }

    #[inline(always)]
    fn spread(bits: u16, value: u8) -> Self::Bytes {
        std::array::from_fn(|lane| if bits >> lane & 1 == 1 { value } else { 0 })
    }

    #[inline(always)]
    fn unsigned(bytes: Self::Bytes) -> Self {
        Portable(bytes.map(f32::from))
    }

    #[inline(always)]
    fn signed(bytes: Self::Bytes) -> Self {
        Portable(bytes.map(|byte| f32::from(byte as i8)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// e^x for each of `x`, in place.
    struct Exp<'a>(&'a mut [f32; LANES]);

    impl Kernel for Exp<'_> {
        #[inline(always)]
        fn run<V: Vector>(self) {
            V::load(self.0).exp().store(self.0);
        }
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for isa in Isa::all() {
            for step in 0..20_000 {
                let first = -86.9 + step as f32 * 0.008_74;
                let arguments: [f32; LANES] = std::array::from_fn(|lane| first + lane as f32 * 0.000_5);
                let mut found = arguments;
                isa.run(Exp(&mut found));
                for (x, found) in arguments.into_iter().zip(found) {
                    let expected = f64::from(x).exp();
                    // A unit is at most 2^-23 of the value.
                    let error = (f64::from(found) / expected - 1.0).abs();
                    assert!(
                        error <= 2.0 * f64::from(f32::EPSILON),
                        "{}: e^{x} = {found}, not {expected}",
                        isa.name()
                    );
                }
            }
        }
    }

    #[test]
    fn exp_at_the_ends() {
        for isa in Isa::all() {
            let mut found = [0.0; LANES];
            found[..5].copy_from_slice(&[f32::NEG_INFINITY, -200.0, 200.0, f32::INFINITY, f32::NAN]);
            isa.run(Exp(&mut found));
            let name = isa.name();
            assert!(found[0] == found[1] && found[1] < 2e-38, "{name}: {found:?}");
            assert!(found[2] == found[3] && found[3] > 1e38 && found[3].is_finite(), "{name}: {found:?}");
            assert!(found[4].is_nan(), "{name}: {found:?}");
            assert!(found[5..].iter().all(|one| *one == 1.0), "{name}: {found:?}");
        }
    }
}

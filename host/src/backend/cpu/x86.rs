//! The lanes of AVX2 and AVX-512.
//!
//! A value of a lane type comes only from the type's own methods, which kernels call only inside [`Avx2Token::run`] or
//! [`Avx512Token::run`]; and a token exists only on a machine that has the instructions. That is what every `unsafe` block
//! here relies on.

use std::arch::x86_64::*;

use super::vector::{Kernel, LANES, Square, Vector};

/// Proof that the machine has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx2Token(());

impl Avx2Token {
    pub fn new() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(Avx2Token(()))
    }

    pub fn run(self, kernel: impl Kernel) {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn inside<K: Kernel>(kernel: K) {
            kernel.run::<Avx2>();
        }
        // SAFETY: `new` found these instructions on this machine, and only it makes tokens.
        unsafe { inside(kernel) }
    }
}

/// Proof that the machine has AVX2's set and AVX-512 with byte and 256-bit forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512Token(());

impl Avx512Token {
    pub fn new() -> Option<Self> {
        let found = Avx2Token::new().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl");
        found.then_some(Avx512Token(()))
    }

    pub fn run(self, kernel: impl Kernel) {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
        fn inside<K: Kernel>(kernel: K) {
            kernel.run::<Avx512>();
        }
        // SAFETY: `new` found these instructions on this machine, and only it makes tokens.
        unsafe { inside(kernel) }
    }
}

/// Wraps intrinsics: one sentence of reason for all.
macro_rules! intrinsics {
    ($body:expr) => {
        // SAFETY: the machine has the instructions (see the module's text); loads and stores go through references to
        // arrays of exactly the bytes that they touch, and ask for no alignment.
        unsafe { $body }
    };
}

/// What bytes need is the same for both: 128-bit instructions.
macro_rules! bytes_128 {
    () => {
        type Bytes = __m128i;

        #[inline(always)]
        fn load_bytes(bytes: &[u8; LANES]) -> __m128i {
            intrinsics!(_mm_loadu_si128(bytes.as_ptr().cast()))
        }

        #[inline(always)]
        fn and(bytes: __m128i, mask: u8) -> __m128i {
            intrinsics!(_mm_and_si128(bytes, _mm_set1_epi8(mask as i8)))
        }

        #[inline(always)]
        fn or(bytes: __m128i, other: __m128i) -> __m128i {
            intrinsics!(_mm_or_si128(bytes, other))
        }

        #[inline(always)]
        fn shl(bytes: __m128i, bits: u32) -> __m128i {
            let kept = 0xffu8 << bits;
            intrinsics!(_mm_and_si128(
                _mm_sll_epi16(bytes, _mm_cvtsi32_si128(bits as i32)),
                _mm_set1_epi8(kept as i8)
            ))
        }

        #[inline(always)]
        fn shr(bytes: __m128i, bits: u32) -> __m128i {
            let kept = 0xffu8 >> bits;
            intrinsics!(_mm_and_si128(
                _mm_srl_epi16(bytes, _mm_cvtsi32_si128(bits as i32)),
                _mm_set1_epi8(kept as i8)
            ))
        }

        #[inline(always)]
        fn look_up(table: &[u8; 16], indices: __m128i) -> __m128i {
            intrinsics!(_mm_shuffle_epi8(_mm_loadu_si128(table.as_ptr().cast()), indices))
        }

        #[inline(always)]
        fn f16(bits: [u8; 2]) -> f32 {
            let bits = i32::from(u16::from_le_bytes(bits));
            intrinsics!(_mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits))))
        }
    };
}

/// Two registers of eight lanes.
#[derive(Clone, Copy)]
struct Avx2([__m256; 2]);

impl Avx2 {
    #[inline(always)]
    fn zip(self, other: Self, op: impl Fn(__m256, __m256) -> __m256) -> Self {
        Avx2([op(self.0[0], other.0[0]), op(self.0[1], other.0[1])])
    }
}

impl Vector for Avx2 {
    bytes_128!();

    const SQUARE: Square = Square::Rows2Tokens3;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        intrinsics!(Avx2([_mm256_set1_ps(value); 2]))
    }

    #[inline(always)]
    fn load(values: &[f32; LANES]) -> Self {
        let values = values.as_ptr();
        intrinsics!(Avx2([_mm256_loadu_ps(values), _mm256_loadu_ps(values.add(8))]))
    }

    #[inline(always)]
    fn store(self, values: &mut [f32; LANES]) {
        let values = values.as_mut_ptr();
        intrinsics!({
            _mm256_storeu_ps(values, self.0[0]);
            _mm256_storeu_ps(values.add(8), self.0[1]);
        });
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| intrinsics!(_mm256_add_ps(a, b)))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| intrinsics!(_mm256_mul_ps(a, b)))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // Of a NaN and a number these instructions give the second operand.
        self.zip(other, |a, b| intrinsics!(_mm256_max_ps(b, a)))
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| intrinsics!(_mm256_min_ps(b, a)))
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| intrinsics!(_mm256_div_ps(a, b)))
    }

    #[inline(always)]
    fn round(self) -> Self {
        intrinsics!(Avx2(
            self.0.map(|n| _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(n))
        ))
    }

    #[inline(always)]
    fn exp2_whole(self) -> Self {
        intrinsics!(Avx2(self.0.map(|n| {
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        })))
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, summand: Self) -> Self {
        intrinsics!(Avx2([
            _mm256_fmadd_ps(self.0[0], factor.0[0], summand.0[0]),
            _mm256_fmadd_ps(self.0[1], factor.0[1], summand.0[1]),
        ]))
    }

    #[inline(always)]
    fn load_f32(bytes: &[u8; 4 * LANES]) -> Self {
        let values = bytes.as_ptr().cast::<f32>();
        intrinsics!(Avx2([_mm256_loadu_ps(values), _mm256_loadu_ps(values.add(8))]))
    }

    #[inline(always)]
    fn load_f16(bytes: &[u8; 2 * LANES]) -> Self {
        let halves = bytes.as_ptr().cast::<__m128i>();
        intrinsics!(Avx2([
            _mm256_cvtph_ps(_mm_loadu_si128(halves)),
            _mm256_cvtph_ps(_mm_loadu_si128(halves.add(1))),
        ]))
    }

    #[inline(always)]
    fn load_bf16(bytes: &[u8; 2 * LANES]) -> Self {
        let halves = bytes.as_ptr().cast::<__m128i>();
        intrinsics!(Avx2([0, 1].map(|half| {
            let halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(halves.add(half)));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves))
        })))
    }

    #[inline(always)]
    fn spread(bits: u16, value: u8) -> __m128i {
        intrinsics!({
            let bytes = _mm_set_epi64x(i64::from(bits >> 8), i64::from(bits & 0xff));
            let each = _mm_shuffle_epi8(bytes, _mm_set_epi64x(0x0808_0808_0808_0808, 0));
            let own = _mm_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
            let is_set = _mm_cmpeq_epi8(_mm_and_si128(each, own), own);
            _mm_and_si128(is_set, _mm_set1_epi8(value as i8))
        })
    }

    #[inline(always)]
    fn unsigned(bytes: __m128i) -> Self {
        intrinsics!(Avx2([
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_unpackhi_epi64(bytes, bytes))),
        ]))
    }

    #[inline(always)]
    fn signed(bytes: __m128i) -> Self {
        intrinsics!(Avx2([
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(bytes, bytes))),
        ]))
    }
}

/// One register of sixteen lanes.
#[derive(Clone, Copy)]
struct Avx512(__m512);

impl Vector for Avx512 {
    bytes_128!();

    const SQUARE: Square = Square::Rows4Tokens4;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        intrinsics!(Avx512(_mm512_set1_ps(value)))
    }

    #[inline(always)]
    fn load(values: &[f32; LANES]) -> Self {
        intrinsics!(Avx512(_mm512_loadu_ps(values.as_ptr())))
    }

    #[inline(always)]
    fn store(self, values: &mut [f32; LANES]) {
        intrinsics!(_mm512_storeu_ps(values.as_mut_ptr(), self.0));
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        intrinsics!(Avx512(_mm512_add_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        intrinsics!(Avx512(_mm512_mul_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // Of a NaN and a number these instructions give the second operand.
        intrinsics!(Avx512(_mm512_max_ps(other.0, self.0)))
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        intrinsics!(Avx512(_mm512_min_ps(other.0, self.0)))
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        intrinsics!(Avx512(_mm512_div_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn round(self) -> Self {
        intrinsics!(Avx512(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)))
    }

    #[inline(always)]
    fn exp2_whole(self) -> Self {
        intrinsics!({
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
            Avx512(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased)))
        })
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, summand: Self) -> Self {
        intrinsics!(Avx512(_mm512_fmadd_ps(self.0, factor.0, summand.0)))
    }

    #[inline(always)]
    fn load_f32(bytes: &[u8; 4 * LANES]) -> Self {
        intrinsics!(Avx512(_mm512_loadu_ps(bytes.as_ptr().cast())))
    }

    #[inline(always)]
    fn load_f16(bytes: &[u8; 2 * LANES]) -> Self {
        intrinsics!(Avx512(_mm512_cvtph_ps(_mm256_loadu_si256(bytes.as_ptr().cast()))))
    }

    #[inline(always)]
    fn load_bf16(bytes: &[u8; 2 * LANES]) -> Self {
        intrinsics!({
            let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(bytes.as_ptr().cast()));
            Avx512(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves)))
        })
    }

    #[inline(always)]
    fn spread(bits: u16, value: u8) -> __m128i {
        intrinsics!(_mm_maskz_set1_epi8(bits, value as i8))
    }

    #[inline(always)]
    fn unsigned(bytes: __m128i) -> Self {
        intrinsics!(Avx512(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))))
    }

    #[inline(always)]
    fn signed(bytes: __m128i) -> Self {
        intrinsics!(Avx512(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))))
    }
}

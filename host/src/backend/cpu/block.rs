//! Weight formats, sixteen elements at a time.
//!
//! The values are bit for bit those of `kernels_gpu::quant`: where a fused multiply-add or a subtraction stands here, its
//! product is exact.

use kernels_gpu::quant::{
    E2M1_LEVELS, IQ4_LEVELS, IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K,
    Q8_0, half_e8m0, q3_scale, scale_min,
};

use super::vector::{LANES, Vector};

/// A run of elements of a row that decodes by itself.
pub trait Block: bytemuck::Pod + Sync {
    /// Elements, a multiple of [`LANES`].
    const ELEMENTS: usize;

    /// Elements `LANES * group ..` of the block. `group` should be a constant after inlining.
    fn group<V: Vector>(&self, group: usize) -> V;
}

/// Sixteen floats of one of the unquantised formats; a row's last may be cut short.
macro_rules! floats {
    ($name:ident, $bytes:literal, $load:ident) => {
        #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
        #[repr(transparent)]
        pub struct $name([u8; $bytes * LANES]);

        impl Block for $name {
            const ELEMENTS: usize = LANES;

            #[inline(always)]
            fn group<V: Vector>(&self, _: usize) -> V {
                V::$load(&self.0)
            }
        }
    };
}

floats!(F32x16, 4, load_f32);
floats!(F16x16, 2, load_f16);
floats!(BF16x16, 2, load_bf16);

/// Nibble `nibble` (0: low, 1: high) of each byte.
#[inline(always)]
fn nibbles<V: Vector>(bytes: &[u8; LANES], nibble: usize) -> V::Bytes {
    let bytes = V::load_bytes(bytes);
    if nibble == 0 { V::and(bytes, 15) } else { V::shr(bytes, 4) }
}

/// Five-bit quants: nibbles, and their fifth bits from half `half` of `qh`.
#[inline(always)]
fn five_bits<V: Vector>(qs: &[u8; LANES], qh: [u8; 4], half: usize) -> V {
    let fifth = u16::from_le_bytes([qh[2 * half], qh[2 * half + 1]]);
    V::unsigned(V::or(nibbles::<V>(qs, half), V::spread(fifth, 16)))
}

/// Sixteen of `bytes` from `first` on.
#[inline(always)]
fn sixteen(bytes: &[u8], first: usize) -> &[u8; LANES] {
    bytes[first..first + LANES].try_into().expect("sixteen bytes")
}

impl Block for Q4_0 {
    const ELEMENTS: usize = 32;

    #[inline(always)]
    fn group<V: Vector>(&self, group: usize) -> V {
        let d = V::f16(self.d);
        V::unsigned(nibbles::<V>(&self.qs, group)).mul_add(V::splat(d), V::splat(-8.0 * d))
    }
}

impl Block for Q4_1 {
    const ELEMENTS: usize = 32;

    #[inline(always)]
    fn group<V: Vector>(&self, group: usize) -> V {
        let (d, m) = (V::f16(self.d), V::f16(self.m));
        V::unsigned(nibbles::<V>(&self.qs, group)).mul_add(V::splat(d), V::splat(m))
    }
}

impl Block for Q5_0 {
    const ELEMENTS: usize = 32;

    #[inline(always)]
    fn group<V: Vector>(&self, group: usize) -> V {
        let d = V::f16(self.d);
        five_bits::<V>(&self.qs, self.qh, group).mul_add(V::splat(d), V::splat(-16.0 * d))
    }
}

impl Block for Q5_1 {
    const ELEMENTS: usize = 32;

    #[inline(always)]
    fn group<V: Vector>(&self, group: usize) -> V {
        let (d, m) = (V::f16(self.d), V::f16(self.m));
        five_bits::<V>(&self.qs, self.qh, group).mul_add(V::splat(d), V::splat(m))
    }
}

impl Block for Q8_0 {
    const ELEMENTS: usize = 32;

    #[inline(always)]
    fn group<V: Vector>(&self, group: usize) -> V {
        let qs: &[u8; 32] = bytemuck::cast_ref(&self.qs);
        V::signed(V::load_bytes(sixteen(qs, LANES * group))).mul(V::splat(V::f16(self.d)))
    }
}

/// The levels that the nibbles `nibble` of sixteen bytes stand for.
#[inline(always)]
fn levels<V: Vector>(levels: &[i8; 16], qs: &[u8; LANES], nibble: usize) -> V {
    V::signed(V::look_up(bytemuck::cast_ref(levels), nibbles::<V>(qs, nibble)))
}

impl Block for IQ4_NL {
    const ELEMENTS: usize = 32;

    #[inline(always)]
    fn group<V: Vector>(&self, group: usize) -> V {
        levels::<V>(&IQ4_LEVELS, &self.qs, group).mul(V::splat(V::f16(self.d)))
    }
}

impl Block for MXFP4 {
    const ELEMENTS: usize = 32;

    #[inline(always)]
    fn group<V: Vector>(&self, group: usize) -> V {
        levels::<V>(&E2M1_LEVELS, &self.qs, group).mul(V::splat(half_e8m0(self.e)))
    }
}

impl Block for IQ4_XS {
    const ELEMENTS: usize = 256;

    #[inline(always)]
    fn group<V: Vector>(&self, group: usize) -> V {
        // Two groups (low and high nibbles) a sub-block.
        let s = group / 2;
        let scale = V::f16(self.d) * f32::from(self.scale(s));
        levels::<V>(&IQ4_LEVELS, sixteen(&self.qs, LANES * s), group % 2).mul(V::splat(scale))
    }
}

/// Bits 2 k and 2 k + 1 of the bytes of half n that belong to `group`, half h of quarter k of half n.
#[inline(always)]
fn two_bits<V: Vector>(qs: &[u8; 64], group: usize) -> V::Bytes {
    let (n, k, h) = (group / 8, group / 2 % 4, group % 2);
    let qs = V::load_bytes(sixteen(qs, 32 * n + LANES * h));
    V::and(V::shr(qs, 2 * k as u32), 3)
}

impl Block for Q2_K {
    const ELEMENTS: usize = 256;

    #[inline(always)]
    fn group<V: Vector>(&self, group: usize) -> V {
        let scales = self.scales[group];
        let scale = V::f16(self.d) * f32::from(scales & 15);
        let min = -(V::f16(self.dmin) * f32::from(scales >> 4));
        V::unsigned(two_bits::<V>(&self.qs, group)).mul_add(V::splat(scale), V::splat(min))
    }
}

impl Block for Q3_K {
    const ELEMENTS: usize = 256;

    #[inline(always)]
    fn group<V: Vector>(&self, group: usize) -> V {
        let high = V::load_bytes(sixteen(&self.hmask, LANES * (group % 2)));
        let third = V::shl(V::and(V::shr(high, group as u32 / 2), 1), 2);
        let scale = V::f16(self.d) * f32::from(q3_scale(&self.scales, group));
        let q = V::unsigned(V::or(two_bits::<V>(&self.qs, group), third));
        q.mul_add(V::splat(scale), V::splat(-4.0 * scale))
    }
}

/// Scale and negated minimum of sub-block `s`; both products are exact.
#[inline(always)]
fn sub_block<V: Vector>(d: [u8; 2], dmin: [u8; 2], scales: &[u8; 12], s: usize) -> (V, V) {
    let (scale, min) = scale_min(scales, s);
    (V::splat(V::f16(d) * f32::from(scale)), V::splat(-(V::f16(dmin) * f32::from(min))))
}

impl Block for Q4_K {
    const ELEMENTS: usize = 256;

    #[inline(always)]
    fn group<V: Vector>(&self, group: usize) -> V {
        // Two groups a sub-block, two sub-blocks (low and high nibbles) in 32 bytes.
        let (s, half) = (group / 2, group % 2);
        let (scale, min) = sub_block(self.d, self.dmin, &self.scales, s);
        let qs = sixteen(&self.qs, 32 * (s / 2) + LANES * half);
        V::unsigned(nibbles::<V>(qs, s % 2)).mul_add(scale, min)
    }
}

impl Block for Q5_K {
    const ELEMENTS: usize = 256;

    #[inline(always)]
    fn group<V: Vector>(&self, group: usize) -> V {
        let (s, half) = (group / 2, group % 2);
        let (scale, min) = sub_block(self.d, self.dmin, &self.scales, s);
        let qs = sixteen(&self.qs, 32 * (s / 2) + LANES * half);
        let qh = V::load_bytes(sixteen(&self.qh, LANES * half));
        let fifth = V::shl(V::and(V::shr(qh, s as u32), 1), 4);
        V::unsigned(V::or(nibbles::<V>(qs, s % 2), fifth)).mul_add(scale, min)
    }
}

impl Block for Q6_K {
    const ELEMENTS: usize = 256;

    #[inline(always)]
    fn group<V: Vector>(&self, group: usize) -> V {
        // Halves of 128 elements; quarter k of a half takes nibble k / 2 of bytes 32 (k % 2).. and bits 2k of `qh`.
        let (n, k, half) = (group / 8, group / 2 % 4, group % 2);
        let ql = sixteen(&self.ql, 64 * n + 32 * (k % 2) + LANES * half);
        let qh = V::load_bytes(sixteen(&self.qh, 32 * n + LANES * half));
        let upper = V::shl(V::and(V::shr(qh, 2 * k as u32), 3), 4);
        let q = V::unsigned(V::or(nibbles::<V>(ql, k / 2), upper));
        // The product of scale and quant takes more bits than an f32 has, so 32 goes off the quant.
        q.add(V::splat(-32.0)).mul(V::splat(V::f16(self.d) * f32::from(self.scales[group])))
    }
}

#[cfg(test)]
mod tests {
    use kernels_gpu::quant::{BF16, F16, F32, QuantBlock};

    use super::super::vector::{Isa, Kernel};
    use super::*;

    struct Decode<'a, B> {
        block: &'a B,
        out: Vec<&'a mut [f32; LANES]>,
    }

    impl<B: Block> Kernel for Decode<'_, B> {
        #[inline(always)]
        fn run<V: Vector>(self) {
            for (group, out) in self.out.into_iter().enumerate() {
                self.block.group::<V>(group).store(out);
            }
        }
    }

    /// Random bytes, the edges of a half among them: every bit pattern is a block.
    fn random_bytes(len: usize, seed: u64) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    /// `B` decodes to the bits of `Q`, which are checked against golden blocks in its own crate.
    fn check<B: Block, Q: QuantBlock + bytemuck::Pod>() {
        for seed in 0..200 {
            let bytes = random_bytes(size_of::<B>(), seed);
            let mut expected = vec![0.0; B::ELEMENTS];
            kernels_gpu::quant::decode_blocks(bytemuck::cast_slice::<u8, Q>(&bytes), &mut expected);
            for isa in Isa::all() {
                let mut found = vec![0.0; B::ELEMENTS];
                let block: &B = bytemuck::from_bytes(&bytes);
                isa.run(Decode { block, out: found.as_chunks_mut::<LANES>().0.iter_mut().collect() });
                for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
                    // A zero quant times a negative scale, plus zero: the sign of a zero product has no meaning.
                    let zeros = *found == 0.0 && *expected == 0.0;
                    assert!(
                        same || zeros,
                        "{} {}, element {i}: {found}, not {expected}",
                        Q::NAME,
                        isa.name()
                    );
                }
            }
        }
    }

    #[test]
    fn floats_decode_exactly() {
        check::<F32x16, F32>();
        check::<F16x16, F16>();
        check::<BF16x16, BF16>();
    }

    #[test]
    fn blocks_of_32_decode_exactly() {
        check::<Q4_0, Q4_0>();
        check::<Q4_1, Q4_1>();
        check::<Q5_0, Q5_0>();
        check::<Q5_1, Q5_1>();
        check::<Q8_0, Q8_0>();
        check::<IQ4_NL, IQ4_NL>();
        check::<MXFP4, MXFP4>();
    }

    #[test]
    fn blocks_of_256_decode_exactly() {
        check::<Q2_K, Q2_K>();
        check::<Q3_K, Q3_K>();
        check::<Q4_K, Q4_K>();
        check::<Q5_K, Q5_K>();
        check::<Q6_K, Q6_K>();
        check::<IQ4_XS, IQ4_XS>();
    }
}

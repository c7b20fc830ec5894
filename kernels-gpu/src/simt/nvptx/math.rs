//! Arithmetic instructions.

use core::arch::nvptx;
use core::intrinsics;
use core::mem::transmute;

unsafe extern "unadjusted" {
    #[link_name = "llvm.nvvm.ex2.approx.ftz.f"]
    fn ex2_approx_ftz(x: f32) -> f32;
    #[link_name = "llvm.nvvm.lg2.approx.f"]
    fn lg2_approx(x: f32) -> f32;
    #[link_name = "llvm.nvvm.rsqrt.approx.f"]
    fn rsqrt_approx(x: f32) -> f32;
    #[link_name = "llvm.nvvm.sqrt.approx.f"]
    fn sqrt_approx(x: f32) -> f32;
    #[link_name = "llvm.nvvm.div.approx.f"]
    fn div_approx(a: f32, b: f32) -> f32;
    #[link_name = "llvm.nvvm.f2i.rn"]
    fn cvt_rni_s32(x: f32) -> i32;
    #[link_name = "llvm.nvvm.idp4a.s.s"]
    fn dp4a_s32_s32(a: u32, b: u32, c: i32) -> i32;
    #[link_name = "llvm.nvvm.idp4a.u.s"]
    fn dp4a_u32_s32(a: u32, b: u32, c: i32) -> i32;
    #[link_name = "llvm.nvvm.prmt"]
    fn prmt(a: u32, b: u32, selector: u32) -> u32;
}

unsafe extern "C" {
    // shim.ll
    fn oxwarp_rcp_approx(x: f32) -> f32;
    fn oxwarp_cvt_rn_bf16_f32(x: f32) -> u16;
    fn oxwarp_cvt_rn_f16x2_f32(low: f32, high: f32) -> u32;
    fn oxwarp_cvt_rn_bf16x2_f32(low: f32, high: f32) -> u32;
    fn oxwarp_fma_rn_bf16x2(a: u32, b: u32, c: u32) -> u32;
}

#[inline(always)]
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    intrinsics::fmaf32(a, b, c)
}

#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    intrinsics::exp2f32(x)
}

macro_rules! pure {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $result:ty = $intrinsic:ident;)*) => {$(
        #[inline(always)]
        pub fn $name($($arg: $ty),*) -> $result {
            // SAFETY: one arithmetic instruction, defined for all values.
            unsafe { $intrinsic($($arg),*) }
        }
    )*};
}

pure! {
    exp2_flush(x: f32) -> f32 = ex2_approx_ftz;
    log2(x: f32) -> f32 = lg2_approx;
    rsqrt(x: f32) -> f32 = rsqrt_approx;
    sqrt(x: f32) -> f32 = sqrt_approx;
    rcp(x: f32) -> f32 = oxwarp_rcp_approx;
    div(a: f32, b: f32) -> f32 = div_approx;
    round_to_i32(x: f32) -> i32 = cvt_rni_s32;
    dp4a(a: u32, b: u32, c: i32) -> i32 = dp4a_s32_s32;
    dp4a_unsigned(a: u32, b: u32, c: i32) -> i32 = dp4a_u32_s32;
    byte_perm(a: u32, b: u32, selector: u32) -> u32 = prmt;
    bf16_from_f32(x: f32) -> u16 = oxwarp_cvt_rn_bf16_f32;
    f16x2_from_f32(low: f32, high: f32) -> u32 = oxwarp_cvt_rn_f16x2_f32;
    bf16x2_from_f32(low: f32, high: f32) -> u32 = oxwarp_cvt_rn_bf16x2_f32;
    bf16x2_fma(a: u32, b: u32, c: u32) -> u32 = oxwarp_fma_rn_bf16x2;
}

#[inline(always)]
pub fn f16_from_f32(x: f32) -> u16 {
    (x as f16).to_bits()
}

#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    f16::from_bits(bits) as f32
}

macro_rules! pairs {
    ($($name:ident($($arg:ident),*) = $intrinsic:ident;)*) => {$(
        #[inline(always)]
        pub fn $name($($arg: u32),*) -> u32 {
            // SAFETY: one arithmetic instruction on two halves; both types are 4 plain bytes.
            unsafe { transmute(nvptx::$intrinsic($(transmute($arg)),*)) }
        }
    )*};
}

pairs! {
    f16x2_add(a, b) = f16x2_add;
    f16x2_mul(a, b) = f16x2_mul;
    f16x2_fma(a, b, c) = f16x2_fma;
}

/// Both halves 1.
const BF16X2_ONE: u32 = 0x3f80_3f80;
/// Both halves −0, which added changes no value: −0 + 0 is 0, and −0 + −0 is −0.
const BF16X2_NEGATIVE_ZERO: u32 = 0x8000_8000;

/// By `fma`, since compute capability 8.0 has no addition of pairs.
#[inline(always)]
pub fn bf16x2_add(a: u32, b: u32) -> u32 {
    bf16x2_fma(a, BF16X2_ONE, b)
}

/// By `fma`, since compute capability 8.0 has no product of pairs.
#[inline(always)]
pub fn bf16x2_mul(a: u32, b: u32) -> u32 {
    bf16x2_fma(a, b, BF16X2_NEGATIVE_ZERO)
}

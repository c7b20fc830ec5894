//! Every GPU kernel of Oxwarp, and the DSL they are written in: one source for the GPU and for a checking
//! emulator.
//!
//! - [`simt`]: the words a GPU thread can say; start there to read or write a kernel.
//! - [`quant`]: the block formats of GGUF files.
//! - [`elementwise`], [`row`]: how kernels pass over arrays and rows.
//! - `launch` (not on the GPU): launch structs, device memory, the `Device` trait.
//!
//! | kernel | does |
//! |---|---|
//! | [`add`] | adds a branch to the residual stream |
//! | [`attention_decode`] | attention of one token over a long cache, in parts, and their merge |
//! | [`attention_decode_mma`] | the same on the tensor cores, each key read once for all heads that share it |
//! | [`attention_prefill`] | attention of many new tokens |
//! | [`attention_wgmma`] | the same on Hopper |
//! | [`bias`] | adds a bias to each row |
//! | [`convert`] | activations for products that read 16 bits |
//! | [`copy`] | copies within device memory |
//! | [`embedding`] | looks up the rows of tokens |
//! | [`gelu`] | the Gaussian error linear unit, plain and gated |
//! | [`gemm`] | linear layers over many tokens |
//! | [`gemm_quant`] | the same on Hopper, quantised weights |
//! | [`gemm_wgmma`] | the same on Hopper, 16-bit operands |
//! | [`gemm_mma`] | the same on the tensor cores |
//! | [`gemm_quant_mma`] | the same on the tensor cores, quantised weights |
//! | [`gemv`] | linear layers over one token or a few |
//! | [`kv_cache`] | writes new keys and values into the cache |
//! | [`narrow`] | rounds activations to f16, with a scale a row |
//! | [`layernorm`] | brings rows to mean 0 and variance 1 |
//! | [`position`] | adds learned positions |
//! | [`moe`] | mixtures of experts: routes tokens, groups them by expert, gathers and combines rows |
//! | [`moe_gemm`] | products of many tokens' rows and their experts' matrices, on Hopper |
//! | [`moe_gemm_mma`] | the same on the tensor cores of any GPU |
//! | [`moe_gemv`] | products of one token's rows, or a few's, and their experts' matrices |
//! | [`read`] | reads memory as fast as it goes, for measurements |
//! | [`repack`] | brings a file's blocks into the layout that kernels read |
//! | [`rmsnorm`] | divides rows by their root mean square |
//! | [`rope`] | rotary position embedding |
//! | [`rope_kv`] | the same of q and k, and the write to the cache |
//! | [`sample`] | chooses the next token: argmax; penalties, top-k, top-p, min-p, temperature and a draw |
//! | [`swiglu`] | the gated activation |

#![cfg_attr(target_arch = "nvptx64", no_std)]
#![cfg_attr(
    target_arch = "nvptx64",
    allow(internal_features),
    feature(
        abi_ptx,
        abi_unadjusted,
        asm_experimental_arch,
        core_intrinsics,
        f16,
        link_llvm_intrinsics,
        repr_simd,
        stdarch_nvptx
    )
)]

// `#[kernel]` names this crate from outside, so that it works in any crate.
extern crate self as kernels_gpu;

pub mod elementwise;
#[cfg(not(target_arch = "nvptx64"))]
pub mod launch;
pub mod quant;
pub mod row;
pub mod simt;

pub mod add;
pub mod attention_decode;
pub mod attention_decode_mma;
pub mod attention_prefill;
#[cfg(any(not(target_arch = "nvptx64"), oxwarp_sm = "90a"))]
pub mod attention_wgmma;
pub mod bias;
pub mod convert;
pub mod copy;
pub mod embedding;
pub mod gelu;
pub mod gemm;
pub mod gemm_mma;
#[cfg(any(not(target_arch = "nvptx64"), oxwarp_sm = "90a"))]
pub mod gemm_quant;
pub mod gemm_quant_mma;
#[cfg(any(not(target_arch = "nvptx64"), oxwarp_sm = "90a"))]
pub mod gemm_wgmma;
pub mod gemv;
pub mod kv_cache;
pub mod layernorm;
pub mod moe;
#[cfg(any(not(target_arch = "nvptx64"), oxwarp_sm = "90a"))]
pub mod moe_gemm;
pub mod moe_gemm_mma;
pub mod moe_gemv;
pub mod narrow;
pub mod position;
pub mod read;
pub mod repack;
pub mod rmsnorm;
pub mod rope;
pub mod rope_kv;
pub mod sample;
pub mod swiglu;

#[cfg(target_arch = "nvptx64")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    simt::trap()
}

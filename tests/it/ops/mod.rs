//! Every kernel against the f64 reference: on the emulator, which checks each access, and on a GPU where there is one.

/// Runs a check on the checking emulator; `|device| check(device, …)` names the device.
macro_rules! on_every_device {
    (|$device:ident| $check:expr) => {{
        {
            let $device = &kernels_gpu::simt::emulator::Emulator::checked();
            $check;
        }
        if let Some(gpu) = crate::cuda::gpu() {
            let $device = &gpu;
            $check;
        }
    }};
}

/// Runs a check on the checking emulator, and on a GPU if there is one of compute capability 9.0.
macro_rules! on_hopper {
    (|$device:ident| $check:expr) => {{
        {
            let $device = &kernels_gpu::simt::emulator::Emulator::checked();
            $check;
        }
        if let Some(gpu) = crate::cuda::gpu().filter(|gpu| gpu.info().capability.major == 9) {
            let $device = &gpu;
            $check;
        }
    }};
}

mod add;
mod attention;
mod attention_decode_mma;
mod attention_wgmma;
mod bias;
mod convert;
mod copy;
mod embedding;
mod gelu;
mod gemm;
mod gemm_mma;
mod gemm_quant;
mod gemm_quant_mma;
mod gemm_wgmma;
mod gemv;
mod kv_cache;
mod layernorm;
mod moe;
mod moe_gemm;
mod moe_gemm_mma;
mod moe_gemv;
mod narrow;
mod position;
mod read;
mod repack;
mod rmsnorm;
mod rope;
mod rope_kv;
mod sample;
mod swiglu;

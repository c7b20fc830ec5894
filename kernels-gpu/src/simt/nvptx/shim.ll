; What Rust 1.95 cannot say: address spaces, bfloat16, atomics of device scope, cache hints.
; Linked to the kernels' bitcode before any LLVM pass; every function is inlined, so that address-space
; inference turns the casts into ld.shared, st.global and the like.

target datalayout = "e-p6:32:32-i64:64-i128:128-i256:256-v16:16-v32:32-n16:32:64"
target triple = "nvptx64-nvidia-cuda"

; The dynamic shared memory of the block; the launch states its size.
@oxwarp_shared = external addrspace(3) global [0 x i8], align 1024

define ptr @oxwarp_shared_base() alwaysinline nounwind memory(none) {
  ret ptr addrspacecast (ptr addrspace(3) @oxwarp_shared to ptr)
}

; The 32-bit address of something in shared memory, for assembly.
define i32 @oxwarp_shared_address(ptr %address) alwaysinline nounwind memory(none) {
  %shared = addrspacecast ptr %address to ptr addrspace(3)
  %offset = ptrtoint ptr addrspace(3) %shared to i32
  ret i32 %offset
}

define void @oxwarp_prefetch(ptr %address) alwaysinline nounwind {
  %global = addrspacecast ptr %address to ptr addrspace(1)
  call void asm sideeffect "prefetch.global.L2 [$0];", "l"(ptr addrspace(1) %global)
  ret void
}

; Streaming loads of data that no kernel writes meanwhile: the read-only path, not kept in L1.

define i32 @oxwarp_ld_stream_u32(ptr %address) alwaysinline nounwind {
  %global = addrspacecast ptr %address to ptr addrspace(1)
  %value = call i32 asm "ld.global.nc.L1::no_allocate.b32 $0, [$1];", "=r,l"(ptr addrspace(1) %global)
  ret i32 %value
}

define i64 @oxwarp_ld_stream_u32x2(ptr %address) alwaysinline nounwind {
  %global = addrspacecast ptr %address to ptr addrspace(1)
  %value = call i64 asm "ld.global.nc.L1::no_allocate.b64 $0, [$1];", "=l,l"(ptr addrspace(1) %global)
  ret i64 %value
}

define { i64, i64 } @oxwarp_ld_stream_u32x4(ptr %address) alwaysinline nounwind {
  %global = addrspacecast ptr %address to ptr addrspace(1)
  %values = call { i64, i64 } asm "ld.global.nc.L1::no_allocate.v2.b64 {$0, $1}, [$2];", "=l,=l,l"(ptr addrspace(1) %global)
  ret { i64, i64 } %values
}

; Copies into shared memory in the background. 16 bytes pass by the first-level cache.

declare void @llvm.nvvm.cp.async.ca.shared.global.4.s(ptr addrspace(3), ptr addrspace(1), i32)
declare void @llvm.nvvm.cp.async.ca.shared.global.8.s(ptr addrspace(3), ptr addrspace(1), i32)
declare void @llvm.nvvm.cp.async.cg.shared.global.16.s(ptr addrspace(3), ptr addrspace(1), i32)

define void @oxwarp_cp_async_4(ptr %destination, ptr %source, i32 %source_bytes) alwaysinline nounwind {
  %shared = addrspacecast ptr %destination to ptr addrspace(3)
  %global = addrspacecast ptr %source to ptr addrspace(1)
  call void @llvm.nvvm.cp.async.ca.shared.global.4.s(ptr addrspace(3) %shared, ptr addrspace(1) %global, i32 %source_bytes)
  ret void
}

define void @oxwarp_cp_async_8(ptr %destination, ptr %source, i32 %source_bytes) alwaysinline nounwind {
  %shared = addrspacecast ptr %destination to ptr addrspace(3)
  %global = addrspacecast ptr %source to ptr addrspace(1)
  call void @llvm.nvvm.cp.async.ca.shared.global.8.s(ptr addrspace(3) %shared, ptr addrspace(1) %global, i32 %source_bytes)
  ret void
}

define void @oxwarp_cp_async_16(ptr %destination, ptr %source, i32 %source_bytes) alwaysinline nounwind {
  %shared = addrspacecast ptr %destination to ptr addrspace(3)
  %global = addrspacecast ptr %source to ptr addrspace(1)
  call void @llvm.nvvm.cp.async.cg.shared.global.16.s(ptr addrspace(3) %shared, ptr addrspace(1) %global, i32 %source_bytes)
  ret void
}

; Relaxed atomics of device scope.

define float @oxwarp_atomic_add_f32(ptr %address, float %value) alwaysinline nounwind {
  %old = atomicrmw fadd ptr %address, float %value syncscope("device") monotonic
  ret float %old
}

define i32 @oxwarp_atomic_add_u32(ptr %address, i32 %value) alwaysinline nounwind {
  %old = atomicrmw add ptr %address, i32 %value syncscope("device") monotonic
  ret i32 %old
}

define i32 @oxwarp_atomic_max_u32(ptr %address, i32 %value) alwaysinline nounwind {
  %old = atomicrmw umax ptr %address, i32 %value syncscope("device") monotonic
  ret i32 %old
}

define i32 @oxwarp_atomic_cas_u32(ptr %address, i32 %expected, i32 %new) alwaysinline nounwind {
  %pair = cmpxchg ptr %address, i32 %expected, i32 %new syncscope("device") monotonic monotonic
  %old = extractvalue { i32, i1 } %pair, 0
  ret i32 %old
}

; Arithmetic.

define float @oxwarp_rcp_approx(float %x) alwaysinline nounwind memory(none) {
  %r = call float asm "rcp.approx.f32 $0, $1;", "=f,f"(float %x)
  ret float %r
}

define i16 @oxwarp_cvt_rn_bf16_f32(float %x) alwaysinline nounwind memory(none) {
  %narrow = fptrunc float %x to bfloat
  %bits = bitcast bfloat %narrow to i16
  ret i16 %bits
}

; Pairs: the first value in the low half.

define i32 @oxwarp_cvt_rn_f16x2_f32(float %low, float %high) alwaysinline nounwind memory(none) {
  %pair = call i32 asm "cvt.rn.f16x2.f32 $0, $1, $2;", "=r,f,f"(float %high, float %low)
  ret i32 %pair
}

define i32 @oxwarp_cvt_rn_bf16x2_f32(float %low, float %high) alwaysinline nounwind memory(none) {
  %pair = call i32 asm "cvt.rn.bf16x2.f32 $0, $1, $2;", "=r,f,f"(float %high, float %low)
  ret i32 %pair
}

define i32 @oxwarp_fma_rn_bf16x2(i32 %a, i32 %b, i32 %c) alwaysinline nounwind memory(none) {
  %pair = call i32 asm "fma.rn.bf16x2 $0, $1, $2, $3;", "=r,r,r,r"(i32 %a, i32 %b, i32 %c)
  ret i32 %pair
}

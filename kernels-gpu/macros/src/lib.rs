//! `#[kernel]`: PTX entry, typed launch struct and emulator entry from one definition.
//!
//! The attribute is documented where it is used from: `kernels_gpu::simt`.

mod attribute;
mod expand;

use proc_macro::TokenStream;
use syn::{ItemFn, parse_macro_input};

/// Makes a GPU kernel of a function over views and scalars.
///
/// ```text
/// #[kernel(threads = 256, shared = 32 * 4)]
/// pub fn rmsnorm_f32(y: Out<f32>, x: In<f32>, w: In<f32>, dim: u32, eps: f32) { … }
/// ```
///
/// | argument | meaning | default |
/// |---|---|---|
/// | `threads = N` | threads of a block (one-dimensional), a multiple of 32 up to 1024 | required |
/// | `shared = BYTES` | shared memory that `Shared::new()` carves its tiles from | 0 |
/// | `min_blocks = N` | blocks that must fit on one multiprocessor (limits registers) | none |
/// | `max_regs = N` | registers of a thread at most | none |
/// | `cluster = N` | blocks of a cluster, 2 or 4, neighbours along x; needs `sm_90a` | none |
/// | `allow_local` | the PTX linter accepts local memory (stack) in this kernel | refused |
/// | `sm_90a` | uses instructions of Hopper alone (`wgmma`, the copy engine): in that module only | every module |
/// | `pdl` | launched with programmatic dependent launch: the kernel must call `pdl::wait` | off |
///
/// Values are constant expressions. For the GPU the function becomes the PTX entry of its name. On the
/// host it becomes a struct of its name with one field per parameter (`In<T>`: `&DeviceSlice<T>`;
/// `Out<T>` and `InOut<T>`: `&mut DeviceSlice<T>`; `InBoxes<T, …>`: `Matrix<T>`; `OutBoxes<T, …>`:
/// `MatrixMut<T>`; scalars by value) that implements `Launch`.
#[proc_macro_attribute]
pub fn kernel(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let statement = parse_macro_input!(attribute as attribute::Statement);
    let item = parse_macro_input!(item as ItemFn);
    expand::expand(&statement, &item).unwrap_or_else(syn::Error::into_compile_error).into()
}

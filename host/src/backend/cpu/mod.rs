//! The CPU back end: plain Rust with rayon. Weights stay in the file's map, packed; activations, keys and values are
//! f32. The result is the same bit for bit for any number of threads and any split of a prompt.

mod attention;
mod block;
mod columns;
mod matmul;
mod matrix;
mod memory;
mod ops;
mod rows;
mod vector;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use ops::{Cpu, CpuOptions};
pub use vector::Isa;

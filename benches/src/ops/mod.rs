//! The benchmarks, one file an op, named as the op is everywhere.
//!
//! To add one: a file with `pub fn cases() -> Vec<Case>` and a struct that implements [`crate::case::Subject`], and a line
//! here. Bytes and FLOPs come from the kernel's own `const fn`s; `add.rs` is the shortest example, `gemv.rs` one with
//! formats and a peer.

mod add;
mod attention;
mod attention_decode;
mod attention_prefill;
mod attention_wgmma;
mod bias;
mod convert;
mod converted;
mod embedding;
mod gelu;
mod gemm_mma;
mod gemm_quant;
mod gemm_wgmma;
mod gemv;
mod kv_write;
mod layernorm;
mod moe_gemm;
mod moe_gemv;
mod narrow;
mod position;
mod product;
mod rmsnorm;
mod rope;
mod rope_kv;
mod sample;
mod swiglu;

use crate::case::Case;

/// Every case, variants included.
pub fn all() -> Vec<Case> {
    let ops: [fn() -> Vec<Case>; 25] = [
        gemm_wgmma::cases,
        gemm_quant::cases,
        gemm_mma::cases,
        gemm_quant::mma_cases,
        gemv::cases,
        moe_gemm::cases,
        moe_gemm::mma_cases,
        moe_gemv::cases,
        attention_wgmma::cases,
        attention_prefill::cases,
        attention_decode::cases,
        narrow::cases,
        rmsnorm::cases,
        layernorm::cases,
        rope::cases,
        rope_kv::cases,
        swiglu::cases,
        gelu::cases,
        convert::cases,
        position::cases,
        embedding::cases,
        kv_write::cases,
        bias::cases,
        add::cases,
        sample::cases,
    ];
    ops.iter().flat_map(|cases| cases()).collect()
}

/// Numbers of tokens and widths at which the element-wise ops of a prefill are measured.
const ELEMENTWISE: [[usize; 2]; 4] = [[512, 4096], [4096, 4096], [512, 14336], [4096, 14336]];

/// Rows of an element-wise op that are compared with the reference.
const CHECKED_ROWS: usize = 8;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_case_has_a_name_of_its_own_and_work_to_do() {
        let mut names = HashSet::new();
        for case in all() {
            assert!(names.insert(format!("{} {}", case.op, case.name)), "{} {} twice", case.op, case.name);
            assert!(case.work.bytes > 0, "{} {} moves nothing", case.op, case.name);
        }
    }

    #[test]
    fn every_kernel_of_the_table_of_contents_is_measured_or_said_not_to_be() {
        // gemm: the product in f32 for all formats, which the tensor cores replace; repack and copy: while loading only;
        // moe: the way of rows to the experts' products and back, little beside these.
        const NOT_MEASURED: [&str; 5] = ["gemm", "moe", "repack", "copy", "read"];
        // The op is named as the kernel, the file as what it fills.
        let mut measured: HashSet<_> =
            all().iter().map(|case| if case.op == "kv_write" { "kv_cache" } else { case.op }).collect();
        // The cases of attention_decode launch both: what the back end takes, and the simple kernel as a variant.
        measured.insert("attention_decode_mma");
        let lib = include_str!("../../../kernels-gpu/src/lib.rs");
        let ops: Vec<_> =
            lib.lines().filter_map(|line| line.strip_prefix("//! | [`")?.split('`').next()).collect();
        assert!(ops.len() > 10, "{ops:?}");
        for op in ops {
            assert!(measured.contains(op) != NOT_MEASURED.contains(&op), "{op}");
        }
    }
}

//! Which type each tensor has: the mixtures that llama.cpp's quantiser makes under the names that users know.

use crate::gguf::GgmlType;

use super::shapes::{Role, ShapeTensor};

/// A recipe for a whole file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quant {
    /// What users type.
    pub name: &'static str,
    /// `general.file_type`.
    pub file_type: u32,
    /// The type of matrices that no rule singles out. No two recipes have the same.
    base: GgmlType,
}

/// Every recipe there is.
pub const QUANTS: [Quant; 16] = {
    use GgmlType::*;
    const fn quant(name: &'static str, file_type: u32, base: GgmlType) -> Quant {
        Quant { name, file_type, base }
    }
    [
        quant("f32", 0, F32),
        quant("f16", 1, F16),
        quant("bf16", 32, BF16),
        quant("q4_0", 2, Q4_0),
        quant("q4_1", 3, Q4_1),
        quant("q5_0", 8, Q5_0),
        quant("q5_1", 9, Q5_1),
        quant("q8_0", 7, Q8_0),
        quant("q2_k", 10, Q2_K),
        quant("q3_k_m", 12, Q3_K),
        quant("q4_k_m", 15, Q4_K),
        quant("q5_k_m", 17, Q5_K),
        quant("q6_k", 18, Q6_K),
        quant("iq4_nl", 25, IQ4_NL),
        quant("iq4_xs", 30, IQ4_XS),
        quant("mxfp4", 38, MXFP4),
    ]
};

impl Quant {
    /// The recipe called `name`.
    pub fn from_name(name: &str) -> Option<&'static Quant> {
        QUANTS.iter().find(|quant| quant.name == name)
    }

    /// Whether the recipe says something about experts only.
    pub fn needs_experts(&self) -> bool {
        self.base == GgmlType::MXFP4
    }

    /// The type of `tensor` in a file of `n_layers` layers, whose heads of keys serve `n_shared` heads of queries each.
    pub fn type_of(&self, tensor: &ShapeTensor, n_layers: u32, n_shared: u64) -> GgmlType {
        use GgmlType::*;
        use Role::*;
        // Only matrices of layers come to a rule that asks.
        let layer = || tensor.layer.expect("a matrix of a layer");
        let wanted = match (self.base, tensor.role) {
            (_, Norm | Bias | ExpertBias | Sinks | Router | RopeFactors) => return F32,
            (F32 | F16 | BF16, _) => return self.base,
            (MXFP4, Expert | ExpertDown) => MXFP4,
            (MXFP4, _) => Q8_0,
            (Q8_0, Output) => Q8_0,
            (_, Output) => Q6_K,
            (Q2_K, AttnV) if n_shared >= 4 => Q4_K,
            (Q2_K, AttnV | AttnOutput | FfnDown | ExpertDown) => Q3_K,
            (Q3_K, AttnV) if layer() < 2 => Q5_K,
            (Q3_K, FfnDown | ExpertDown) if layer() < n_layers / 16 => Q5_K,
            (Q3_K, AttnV | AttnQkv | AttnOutput | FfnDown | ExpertDown) => Q4_K,
            (Q4_K, AttnQkv) => Q5_K,
            (Q5_K, AttnQkv) => Q6_K,
            (Q4_K | Q5_K, AttnV | FfnDown | ExpertDown) if gets_more_bits(layer(), n_layers) => Q6_K,
            (IQ4_NL | IQ4_XS, AttnV) if n_shared >= 4 => Q5_K,
            (IQ4_NL | IQ4_XS, FfnDown | ExpertDown) if layer() < n_layers / 8 => Q5_K,
            _ => self.base,
        };
        fit(wanted, tensor.dims[0])
    }
}

/// The layers whose `attn_v` and `ffn_down` get more bits: the first and the last eighth, and every third between.
fn gets_more_bits(layer: u32, n_layers: u32) -> bool {
    let eighth = n_layers / 8;
    layer < eighth || layer >= 7 * n_layers / 8 || (layer - eighth) % 3 == 2
}

/// `wanted`, or what takes its place where a row of `n_cols` is no whole number of its blocks.
fn fit(wanted: GgmlType, n_cols: u64) -> GgmlType {
    use GgmlType::*;
    if n_cols.is_multiple_of(wanted.block_elements()) {
        return wanted;
    }
    let smaller = match wanted {
        Q2_K | Q3_K | IQ4_XS => IQ4_NL,
        Q4_K => Q5_0,
        Q5_K => Q5_1,
        Q6_K => Q8_0,
        _ => F16,
    };
    if n_cols.is_multiple_of(smaller.block_elements()) { smaller } else { F16 }
}

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
    /// The type of matrices that no rule singles out.
    base: GgmlType,
    /// The type of matrices that matter more, in some layers; that of the output head.
    more: Option<GgmlType>,
}

/// Every recipe there is.
pub const QUANTS: [Quant; 12] = {
    use GgmlType::*;
    const fn plain(name: &'static str, file_type: u32, base: GgmlType) -> Quant {
        Quant { name, file_type, base, more: None }
    }
    [
        plain("f32", 0, F32),
        plain("f16", 1, F16),
        plain("bf16", 32, BF16),
        plain("q4_0", 2, Q4_0),
        plain("q4_1", 3, Q4_1),
        plain("q5_0", 8, Q5_0),
        plain("q5_1", 9, Q5_1),
        plain("q8_0", 7, Q8_0),
        Quant { name: "q4_k_m", file_type: 15, base: Q4_K, more: Some(Q5_K) },
        Quant { name: "q5_k_m", file_type: 17, base: Q5_K, more: Some(Q6_K) },
        plain("q6_k", 18, Q6_K),
        plain("mxfp4", 38, MXFP4),
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

    /// The type of `tensor` in a file of `n_layers` layers.
    pub fn type_of(&self, tensor: &ShapeTensor, n_layers: u32) -> GgmlType {
        use GgmlType::*;
        let is_mixture = self.more.is_some();
        let wanted = match tensor.role {
            Role::Norm | Role::Bias | Role::ExpertBias | Role::Sinks | Role::Router | Role::RopeFactors => {
                return F32;
            }
            _ if matches!(self.base, F32 | F16 | BF16) => return self.base,
            Role::Expert | Role::ExpertDown if self.needs_experts() => self.base,
            _ if self.needs_experts() => Q8_0,
            Role::Output if self.base != Q8_0 => Q6_K,
            Role::AttnQkv => self.more.unwrap_or(self.base),
            Role::AttnV | Role::FfnDown | Role::ExpertDown
                if is_mixture && gets_more_bits(tensor.layer, n_layers) =>
            {
                Q6_K
            }
            _ => self.base,
        };
        fit(wanted, tensor.dims[0])
    }
}

/// The layers whose `attn_v` and `ffn_down` get more bits: the first and the last eighth, and every third between.
fn gets_more_bits(layer: Option<u32>, n_layers: u32) -> bool {
    let layer = layer.expect("attn_v and ffn_down belong to layers");
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
        Q4_K => Q5_0,
        Q5_K => Q5_1,
        Q6_K => Q8_0,
        _ => F16,
    };
    if n_cols.is_multiple_of(smaller.block_elements()) { smaller } else { F16 }
}

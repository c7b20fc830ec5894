//! The kernels that must be in a module, from the registry that `#[kernel]` fills.

use super::{Entry, Target};
use kernels_gpu::launch::{KernelMeta, ParamKind, all_kernels};

/// The kernels of a target's module, by name.
pub fn kernels(target: Target) -> Vec<Entry> {
    let mut kernels: Vec<_> = all_kernels()
        .into_iter()
        .filter(|meta| !meta.sm_90a || target.cpu == "sm_90a")
        .map(|meta| Entry {
            name: meta.name.to_string(),
            threads: meta.threads,
            shared_bytes: meta.shared_bytes,
            min_blocks: meta.min_blocks,
            max_registers: meta.max_regs,
            cluster: meta.cluster,
            allow_local: meta.allow_local,
            tensor_maps: tensor_maps(meta),
        })
        .collect();
    kernels.sort_by(|a, b| a.name.cmp(&b.name));
    kernels
}

fn tensor_maps(meta: &KernelMeta) -> Vec<usize> {
    let is_map = |kind| matches!(kind, ParamKind::InBoxes | ParamKind::OutBoxes);
    meta.params.iter().enumerate().filter(|(_, param)| is_map(param.kind)).map(|(index, _)| index).collect()
}

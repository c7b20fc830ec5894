//! The kernels that must be in a module, from the registry that `#[kernel]` fills.

use super::Entry;
use kernels_gpu::launch::all_kernels;

/// All kernels, by name. Every target has all of them.
pub fn kernels() -> Vec<Entry> {
    let mut kernels: Vec<_> = all_kernels()
        .into_iter()
        .map(|meta| Entry {
            name: meta.name.to_string(),
            threads: meta.threads,
            shared_bytes: meta.shared_bytes,
            min_blocks: meta.min_blocks,
            max_registers: meta.max_regs,
            cluster: meta.cluster,
            allow_local: meta.allow_local,
        })
        .collect();
    kernels.sort_by(|a, b| a.name.cmp(&b.name));
    kernels
}

//! What `ptxas -v` says about a module.

use std::collections::BTreeMap;

/// What a kernel takes on the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Per thread.
    pub registers: u32,
    /// Shared memory of static size, in bytes. A launch adds the dynamic size that the kernel's attribute states.
    pub static_shared_bytes: u32,
    /// Local memory of each thread, in bytes, spills included.
    pub stack_bytes: u32,
    pub spill_store_bytes: u32,
    pub spill_load_bytes: u32,
}

/// The log of one run of ptxas.
#[derive(Debug, Default)]
pub struct PtxasReport {
    pub kernels: BTreeMap<String, Resources>,
    /// Lines on wgmma instructions that lost their overlap.
    pub serialized: Vec<String>,
}

impl PtxasReport {
    pub fn parse(log: &str) -> PtxasReport {
        let mut report = PtxasReport::default();
        let mut kernel = None;
        for line in log.lines() {
            if let Some(quoted) = line.split("Compiling entry function '").nth(1) {
                kernel = quoted.split('\'').next().map(str::to_string);
            } else if line.contains("Function properties for") {
                // A function that was not inlined has a block of its own, without an entry line.
                let name = line.split("Function properties for ").nth(1).map(str::trim).unwrap_or_default();
                kernel = kernel.filter(|kernel| kernel == name);
            } else if is_serialization_note(line) {
                report.serialized.push(line.trim().to_string());
            } else if let Some(name) = &kernel {
                read_figures(line, report.kernels.entry(name.clone()).or_default());
            }
        }
        report
    }
}

/// ptxas numbers its notes on wgmma C7500 to C7599: "Potential Performance Loss: wgmma.mma_async instructions are
/// serialized due to …".
fn is_serialization_note(line: &str) -> bool {
    let numbered =
        line.split("(C75").nth(1).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    numbered || (line.contains("wgmma") && line.contains("serialized"))
}

fn read_figures(line: &str, resources: &mut Resources) {
    let before = |words: &str| -> Option<u32> {
        let (before, _) = line.split_once(words)?;
        before.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let read = |target: &mut u32, words: &str| {
        if let Some(value) = before(words) {
            *target = value;
        }
    };
    read(&mut resources.registers, " registers");
    read(&mut resources.static_shared_bytes, " bytes smem");
    read(&mut resources.stack_bytes, " bytes stack frame");
    read(&mut resources.spill_store_bytes, " bytes spill stores");
    read(&mut resources.spill_load_bytes, " bytes spill loads");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_each_kernel() {
        let log = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'planted' for 'sm_80'
ptxas info    : Function properties for planted
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 13 registers, used 1 barriers, 1024 bytes smem, 372 bytes cmem[0]
ptxas info    : Compile time = 4.205 ms
ptxas info    : Compiling entry function 'acc' for 'sm_80'
ptxas info    : Function properties for acc
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 254 registers, used 1 barriers, 372 bytes cmem[0]
ptxas info    : Function properties for helper
    64 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
";
        let report = PtxasReport::parse(log);
        let planted = Resources {
            registers: 13,
            static_shared_bytes: 1024,
            stack_bytes: 16,
            spill_store_bytes: 8,
            spill_load_bytes: 4,
        };
        let acc = Resources { registers: 254, ..Resources::default() };
        let kernels: Vec<_> = report.kernels.into_iter().collect();
        assert_eq!(kernels, [("acc".to_string(), acc), ("planted".to_string(), planted)]);
    }

    #[test]
    fn notes_on_wgmma_are_kept() {
        let note = "ptxas info    : (C7511) Potential Performance Loss: wgmma.mma_async instructions are serialized due to \
                    insufficient register resources for the wgmma pipeline in the function 'gemm' in line 40";
        let log = format!("ptxas info    : (C7101) something else\n{note}\n");
        assert_eq!(PtxasReport::parse(&log).serialized, [note]);
    }
}

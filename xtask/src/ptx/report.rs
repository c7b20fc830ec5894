//! The table of a module's kernels.

use super::Entry;
use super::resources::PtxasReport;

/// Stands for figures that only ptxas knows, where there is none.
pub const UNKNOWN: &str = "?";

/// One line a kernel: registers of a thread, shared memory of a block (static and dynamic), spills and stack of a thread.
pub fn table(kernels: &[Entry], report: Option<&PtxasReport>) -> String {
    let mut rows = vec![["kernel", "registers", "shared B", "spills B", "stack B"].map(str::to_string)];
    for kernel in kernels {
        let known = report.and_then(|report| report.kernels.get(&kernel.name));
        let figure = |value: Option<u32>| value.map_or(UNKNOWN.to_string(), |value| value.to_string());
        rows.push([
            kernel.name.clone(),
            figure(known.map(|r| r.registers)),
            figure(known.map(|r| r.static_shared_bytes + kernel.shared_bytes)),
            figure(known.map(|r| r.spill_store_bytes + r.spill_load_bytes)),
            figure(known.map(|r| r.stack_bytes)),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<_> = (0..5).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        text.push_str(&format!("  {:<width$}", row[0], width = widths[0]));
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            text.push_str(&format!("  {cell:>width$}"));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ptx::resources::Resources;

    #[test]
    fn columns_line_up() {
        let kernels = [
            Entry { name: "rmsnorm_f32".into(), shared_bytes: 128, ..Entry::default() },
            Entry { name: "add_f32".into(), ..Entry::default() },
        ];
        let mut report = PtxasReport::default();
        report.kernels.insert("rmsnorm_f32".into(), Resources { registers: 32, ..Resources::default() });
        assert_eq!(
            table(&kernels, Some(&report)),
            "  kernel       registers  shared B  spills B  stack B\n  \
               rmsnorm_f32         32       128         0        0\n  \
               add_f32              ?         ?         ?        ?\n"
        );
    }
}

//! Kernels keep everything in registers: no local memory and no spills, unless the kernel's attribute says `allow_local`.

use super::{Subject, Violation};

pub fn check(subject: &Subject<'_>) -> Vec<Violation> {
    if subject.kernel.allow_local {
        return Vec::new();
    }
    // Without ptxas only what LLVM left in local memory is known, not the spills.
    let declared = subject.ptx.statements.iter().find(|statement| statement.operation() == ".local");
    let found = match subject.resources {
        Some(r) if r.stack_bytes + r.spill_store_bytes + r.spill_load_bytes > 0 => format!(
            "{} bytes of stack, {} bytes of spill stores, {} bytes of spill loads",
            r.stack_bytes, r.spill_store_bytes, r.spill_load_bytes
        ),
        _ => match declared {
            Some(statement) => format!("`{}` in line {} of the PTX", statement.text(), statement.line),
            None => return Vec::new(),
        },
    };
    vec![subject.violation("local memory", found, "none without `allow_local` in the kernel's attribute")]
}

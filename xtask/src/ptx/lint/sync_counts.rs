//! Generating code from the optimised IR adds no barrier, shuffle, vote or matrix instruction.

use super::{Subject, Violation};
use crate::ptx::sync_op::SyncOp;

pub fn check(subject: &Subject<'_>) -> Vec<Violation> {
    let instructions = || subject.ir.blocks.iter().flat_map(|block| block.instructions.iter().copied());
    let mut violations = Vec::new();
    for op in SyncOp::ALL {
        let found =
            subject.ptx.statements.iter().filter(|statement| SyncOp::of_ptx(statement) == Some(op)).count();
        let allowed = instructions().flat_map(SyncOp::in_ir).filter(|candidate| *candidate == op).count();
        if found > allowed {
            let rule = "synchronisation added by code generation";
            violations.push(subject.violation(
                rule,
                format!("{found} × {op}"),
                format!("{allowed}, as in the IR"),
            ));
        }
    }
    violations
}

//! Accesses are not split into bytes. LLVM does that silently where a value's type promises less alignment than the
//! access needs (a packed struct, a copy of a block), and for copies of large values.
//!
//! The optimised IR still has the accesses as the source asks for them. So the rule counts, in both, accesses of one
//! byte to global and shared memory: the PTX may have no more of them than the IR. A kernel that loads bytes on
//! purpose has them in both.

use super::{Subject, Violation};
use crate::ptx::text::Statement;

pub fn check(subject: &Subject<'_>) -> Vec<Violation> {
    let instructions = || subject.ir.blocks.iter().flat_map(|block| block.instructions.iter().copied());
    let mut violations = Vec::new();
    for (operation, word) in [("ld", "load"), ("st", "store")] {
        let found: usize =
            subject.ptx.statements.iter().map(|statement| bytes_in_ptx(statement, operation)).sum();
        let allowed: usize = instructions().map(|instruction| bytes_in_ir(instruction, word)).sum();
        if found > allowed {
            let found =
                format!("{found} byte-wise `{operation}` (e.g. line {})", first_line(subject, operation));
            let allowed = format!("{allowed}, as many single bytes as the source accesses");
            violations.push(subject.violation("split access", found, allowed));
        }
    }
    violations
}

/// How many single bytes an instruction of the PTX loads or stores.
fn bytes_in_ptx(statement: &Statement, operation: &str) -> usize {
    let parts: Vec<_> = statement.parts().collect();
    let in_memory = parts.iter().any(|part| part.starts_with("global") || part.starts_with("shared"));
    let of_bytes = parts.last().is_some_and(|ty| ["b8", "u8", "s8"].contains(ty));
    if parts.first() != Some(&operation) || !in_memory || !of_bytes {
        return 0;
    }
    parts.iter().find_map(|part| part.strip_prefix('v')?.parse().ok()).unwrap_or(1)
}

/// How many elements of one byte an instruction of the IR loads or stores.
fn bytes_in_ir(instruction: &str, word: &str) -> usize {
    let operation = instruction.split_once(" = ").map_or(instruction, |(_, operation)| operation);
    let Some(operands) = operation.strip_prefix(word).and_then(|rest| rest.strip_prefix(' ')) else {
        return 0;
    };
    let mut operands = operands;
    for qualifier in ["atomic ", "volatile "] {
        operands = operands.strip_prefix(qualifier).unwrap_or(operands);
    }
    match operands.strip_prefix('<') {
        Some(vector) => {
            let Some((count, element)) = vector.split_once(" x ") else { return 0 };
            if element.starts_with("i8>") { count.parse().unwrap_or(0) } else { 0 }
        }
        None => usize::from(["i8", "i1"].iter().any(|ty| operands.split([' ', ',']).next() == Some(ty))),
    }
}

fn first_line(subject: &Subject<'_>, operation: &str) -> usize {
    let statements = &subject.ptx.statements;
    statements
        .iter()
        .find(|statement| bytes_in_ptx(statement, operation) > 0)
        .map_or(0, |statement| statement.line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_ir_instructions() {
        let loads = [
            ("%1 = load i8, ptr %0, align 1", 1),
            ("%1 = load <4 x i8>, ptr addrspace(1) %0, align 4", 4),
            ("%1 = load atomic volatile i8, ptr %0 monotonic, align 1", 1),
            ("%1 = load i32, ptr %0, align 1", 0),
            ("%1 = load <2 x i16>, ptr %0, align 2", 0),
            ("store i8 %2, ptr %0, align 1", 0),
        ];
        for (instruction, bytes) in loads {
            assert_eq!(bytes_in_ir(instruction, "load"), bytes, "{instruction}");
        }
        assert_eq!(bytes_in_ir("store i8 %2, ptr %0, align 1", "store"), 1);
    }
}

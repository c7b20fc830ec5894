//! The operations that bring threads together, as PTX and LLVM IR name them.

use super::text::Statement;
use std::fmt;

/// An operation that all threads of a warp, warpgroup or block must execute together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SyncOp {
    Barrier,
    Shuffle,
    Vote,
    Matrix,
    MatrixMove,
}

impl SyncOp {
    pub const ALL: [SyncOp; 5] = [Self::Barrier, Self::Shuffle, Self::Vote, Self::Matrix, Self::MatrixMove];

    /// First words of operations, the same in PTX (`bar.sync`) and in LLVM's names (`llvm.nvvm.barrier.cta.sync…`).
    const fn first_words(self) -> &'static [&'static str] {
        match self {
            Self::Barrier => &["bar", "barrier", "barrier0"],
            Self::Shuffle => &["shfl"],
            Self::Vote => &["vote", "match", "activemask", "redux", "elect"],
            Self::Matrix => &["mma", "wmma", "wgmma", "setmaxnreg"],
            Self::MatrixMove => &["ldmatrix", "stmatrix"],
        }
    }

    fn of_words(operation: &str) -> Option<SyncOp> {
        let first = operation.split('.').next()?;
        Self::ALL.into_iter().find(|op| op.first_words().contains(&first))
    }

    /// The operation of a PTX statement.
    pub fn of_ptx(statement: &Statement) -> Option<SyncOp> {
        Self::of_words(statement.operation())
    }

    /// The operations of an IR instruction: one for a call of an intrinsic, any number for inline assembly.
    pub fn in_ir(instruction: &str) -> Vec<SyncOp> {
        if let Some((_, call)) = instruction.split_once(" asm ") {
            let template = call.split('"').nth(1).unwrap_or_default();
            // LLVM writes newline and tab as \0A and \09; braces and semicolons separate statements.
            let statements = template.replace("\\0A", ";").replace("\\09", " ").replace(['{', '}'], ";");
            return statements
                .split(';')
                .filter_map(|statement| Self::of_words(without_predicate(statement)))
                .collect();
        }
        let intrinsic = instruction.split_once("@llvm.nvvm.").filter(|_| instruction.contains("call "));
        intrinsic.and_then(|(_, name)| Self::of_words(name.split('(').next()?)).into_iter().collect()
    }
}

/// A statement of an assembly template (`@$0 bar.sync 0`) without its predicate.
fn without_predicate(statement: &str) -> &str {
    let statement = statement.trim();
    match statement.strip_prefix('@').and_then(|rest| rest.split_once(' ')) {
        Some((_, operation)) => operation.trim_start(),
        None => statement,
    }
}

impl fmt::Display for SyncOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Barrier => "barrier",
            Self::Shuffle => "shuffle",
            Self::Vote => "vote",
            Self::Matrix => "matrix instruction",
            Self::MatrixMove => "matrix load or store",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_of_ir_instructions() {
        let cases: [(&str, &[SyncOp]); 6] = [
            ("tail call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0), !dbg !3", &[SyncOp::Barrier]),
            (
                "%1 = call float @llvm.nvvm.shfl.sync.bfly.f32(i32 -1, float %0, i32 16, i32 31)",
                &[SyncOp::Shuffle],
            ),
            (r#"call void asm sideeffect "bar.sync 0;", "~{memory}"() #5"#, &[SyncOp::Barrier]),
            (
                r#"call void asm sideeffect "{\0A\09.reg .pred p;\0A\09@p wgmma.fence.sync.aligned;\0A\09wgmma.wait_group.sync.aligned 0;}", ""()"#,
                &[SyncOp::Matrix, SyncOp::Matrix],
            ),
            ("%4 = tail call i32 @llvm.nvvm.read.ptx.sreg.tid.x(), !dbg !357", &[]),
            (r#"%2 = call i32 asm sideeffect "ld.global.b32 $0, [$1];", "=r,l"(i64 %a)"#, &[]),
        ];
        for (instruction, expected) in cases {
            assert_eq!(SyncOp::in_ir(instruction), expected, "{instruction}");
        }
    }
}

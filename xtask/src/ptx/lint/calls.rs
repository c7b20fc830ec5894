//! Every function is inlined into its kernel: a call costs a stack, and hides what the other rules look for.

use super::{Subject, Violation};
use crate::ptx::text::Statement;

pub fn check(subject: &Subject<'_>) -> Vec<Violation> {
    let is_call = |statement: &&Statement| statement.parts().next() == Some("call");
    let violation = |statement: &Statement| {
        let found = format!("`{}` in line {} of the PTX", statement.text(), statement.line);
        subject.violation("calls", found, "none: mark the function #[inline(always)]")
    };
    subject.ptx.statements.iter().filter(is_call).map(violation).collect()
}

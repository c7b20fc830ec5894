//! Loads, stores and atomics name their memory: a generic address costs a lookup at every access, and mostly means that
//! a pointer came out of a struct or a slice.

use super::{Subject, Violation};
use crate::ptx::text::Statement;

const ACCESSES: [&str; 4] = ["ld", "st", "atom", "red"];
const SPACES: [&str; 5] = ["global", "shared", "local", "param", "const"];

pub fn check(subject: &Subject<'_>) -> Vec<Violation> {
    let violation = |statement: &Statement| {
        let found = format!("`{}` in line {} of the PTX", statement.text(), statement.line);
        subject.violation("generic access", found, format!("with one of {}", SPACES.join(", ")))
    };
    subject.ptx.statements.iter().filter(|statement| is_generic(statement)).map(violation).collect()
}

fn is_generic(statement: &Statement) -> bool {
    let mut parts = statement.parts();
    let is_access = parts.next().is_some_and(|operation| ACCESSES.contains(&operation));
    // `shared::cta` and `param::entry` are spaces too.
    is_access && !parts.any(|part| SPACES.contains(&part.split("::").next().unwrap_or(part)))
}

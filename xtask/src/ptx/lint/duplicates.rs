//! No barrier, shuffle, vote or matrix instruction of the source has copies that exclude each other.
//!
//! The threads that such an instruction brings together must all execute the same one. A compiler that copies a barrier
//! into both arms of an `if` makes threads wait at two different barriers. Unrolling makes copies too, which is fine:
//! there a thread runs one copy after the other. So two copies of one source instruction are a violation exactly when
//! neither can run after the other without going round a loop again.
//!
//! The copies are found by their debug location, which they share: the call in the source with the whole chain of calls
//! that it was inlined through. It is there since the bitcode is compiled with line directives.

use super::{Subject, Violation};
use crate::ptx::ir::Site;
use crate::ptx::sync_op::SyncOp;
use std::collections::HashMap;

pub fn check(subject: &Subject<'_>) -> Vec<Violation> {
    let copies = blocks_by_site(subject);
    let mut sites: Vec<_> = copies.iter().filter(|(_, blocks)| blocks.len() > 1).collect();
    if sites.is_empty() {
        return Vec::new();
    }
    sites.sort_by_key(|((op, site), _)| (*op, site.shown()));
    let reach = subject.ir.forward_reach();
    let exclude = |a: usize, b: usize| a != b && !reach[a][b] && !reach[b][a];
    let mut violations = Vec::new();
    for ((op, site), blocks) in sites {
        let pairs = blocks.iter().enumerate().flat_map(|(i, a)| blocks[..i].iter().map(move |b| (*a, *b)));
        if pairs.into_iter().any(|(a, b)| exclude(a, b)) {
            let found =
                format!("{} copies of the {op} at {}, not all in one path", blocks.len(), site.shown());
            violations.push(subject.violation("duplicated synchronisation", found, "one on each path"));
        }
    }
    violations
}

/// For each operation of the source, the blocks that its copies are in.
fn blocks_by_site<'a>(subject: &Subject<'a>) -> HashMap<(SyncOp, Site<'a>), Vec<usize>> {
    let mut copies: HashMap<_, Vec<usize>> = HashMap::new();
    for (index, block) in subject.ir.blocks.iter().enumerate() {
        for instruction in block.instructions.iter().copied() {
            let Some(site) = subject.module.site(instruction) else { continue };
            for op in SyncOp::in_ir(instruction) {
                copies.entry((op, site.clone())).or_default().push(index);
            }
        }
    }
    copies
}

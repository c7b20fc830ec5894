//! Checks of every built kernel. A violation fails the build; each names kernel, rule, what was found and what is
//! allowed.

mod calls;
mod duplicates;
mod entries;
mod externs;
mod generic_access;
mod local_memory;
mod split_access;
mod sync_counts;
mod wgmma;

#[cfg(test)]
mod planted;

use super::resources::{PtxasReport, Resources};
use super::text::{Function, Ptx};
use super::{Entry, ir};
use std::fmt;

/// A rule that a kernel breaks.
#[derive(Debug, PartialEq, Eq)]
pub struct Violation {
    pub kernel: String,
    pub rule: &'static str,
    pub found: String,
    pub allowed: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel {}: {}: found {}; allowed: {}", self.kernel, self.rule, self.found, self.allowed)
    }
}

/// One kernel in all its forms.
pub struct Subject<'a> {
    pub kernel: &'a Entry,
    pub ptx: &'a Function,
    /// The optimised module that the PTX was generated from.
    pub module: &'a ir::Module<'a>,
    pub ir: &'a ir::Function<'a>,
    /// Known where ptxas is.
    pub resources: Option<&'a Resources>,
}

impl Subject<'_> {
    fn violation(
        &self,
        rule: &'static str,
        found: impl Into<String>,
        allowed: impl Into<String>,
    ) -> Violation {
        Violation { kernel: self.kernel.name.clone(), rule, found: found.into(), allowed: allowed.into() }
    }
}

/// Rules about one kernel.
const KERNEL_RULES: [fn(&Subject<'_>) -> Vec<Violation>; 6] = [
    duplicates::check,
    sync_counts::check,
    local_memory::check,
    generic_access::check,
    split_access::check,
    calls::check,
];

/// Checks a module: its PTX, the optimised IR that the PTX came from, and ptxas's log where there is one.
pub fn check(
    ptx: &Ptx,
    module: &ir::Module<'_>,
    report: Option<&PtxasReport>,
    kernels: &[Entry],
) -> Vec<Violation> {
    let mut violations = entries::check(ptx, kernels);
    violations.extend(externs::check(ptx));
    violations.extend(report.map(wgmma::check).unwrap_or_default());
    for kernel in kernels {
        let (Some(ptx), Some(ir)) = (ptx.function(&kernel.name), module.function(&kernel.name)) else {
            continue; // named by entries::check
        };
        let resources = report.and_then(|report| report.kernels.get(&kernel.name));
        let subject = Subject { kernel, ptx, module, ir, resources };
        violations.extend(KERNEL_RULES.iter().flat_map(|rule| rule(&subject)));
    }
    violations
}

//! What can be said about a file without running it: one finding a line.

use std::fmt::{self, Display};

use super::printable::printable;
use super::scales::Scan;
use super::{Error, Gguf, TensorInfo};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing, nothing to mend.
    Note,
    /// Odd, but the model can be run.
    Warning,
    /// The model cannot be run, or not to any use.
    Error,
}

/// One thing that is worth saying.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub severity: Severity,
    /// The part of the file, as in error messages.
    pub place: String,
    /// What is there.
    pub what: String,
}

impl Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        write!(f, "{severity}: {}: {}", self.place, self.what)
    }
}

impl Finding {
    /// A finding at `place`.
    pub fn new(severity: Severity, place: impl Display, what: impl Display) -> Finding {
        Finding { severity, place: place.to_string(), what: what.to_string() }
    }
}

impl From<Error> for Finding {
    fn from(error: Error) -> Finding {
        let place = match &error {
            Error::Malformed { place, offset, fault } => {
                return Finding::new(Severity::Error, format_args!("{place}, byte {offset}"), fault);
            }
            Error::Key { key, .. } => format!("metadata key `{}`", printable(key, 100)),
            Error::NoTensor { .. } => "tensors".to_owned(),
        };
        let text = error.to_string();
        let what = text.strip_prefix(&format!("{place}: ")).unwrap_or(&text).to_owned();
        Finding { severity: Severity::Error, place, what }
    }
}

impl Gguf<'_> {
    /// Findings about a well-formed file that hold for any model: stray bytes and block scales.  `strict` adds what is legal but unusual: gaps, zero and subnormal scales of each tensor.
    ///
    /// Reads every tensor.
    pub fn check(&self, strict: bool) -> Vec<Finding> {
        let mut findings = Vec::new();
        self.check_layout(strict, &mut findings);
        self.check_scales(strict, &mut findings);
        findings
    }

    fn check_layout(&self, strict: bool, findings: &mut Vec<Finding>) {
        if self.tensors.is_empty() {
            findings.push(Finding::new(Severity::Note, "tensors", "none: the file holds a vocabulary only"));
        }
        let trailing = self.trailing();
        if !trailing.is_empty() {
            let place = format_args!("tensor data, byte {}", trailing.start);
            let what = format_args!("{} bytes after the last tensor", trailing.len());
            findings.push(Finding::new(Severity::Warning, place, what));
        }
        if strict {
            findings.extend(self.gaps().into_iter().map(|gap| {
                let place = format_args!("tensor data, byte {}", gap.start);
                Finding::new(
                    Severity::Warning,
                    place,
                    format_args!("a gap of {} bytes between tensors", gap.len()),
                )
            }));
        }
    }

    fn check_scales(&self, strict: bool, findings: &mut Vec<Finding>) {
        let (mut zero, mut subnormal) = (Summary::default(), Summary::default());
        for tensor in &self.tensors {
            let scan = Scan::of(tensor.ty, self.data(tensor));
            let is_plain = tensor.ty.block_elements() == 1;
            for bad in &scan.bad {
                let unit = if is_plain { "elements" } else { "blocks" };
                let Scan { n_bad, n_blocks, .. } = scan;
                let what =
                    format_args!("{} is {}; such {unit}: {n_bad} of {n_blocks}", bad.field, bad.problem);
                findings.push(Finding::new(Severity::Error, block_place(tensor, bad.block), what));
            }
            let kinds = [
                (&mut zero, "an all-zero block", scan.n_zero, scan.first_zero),
                (&mut subnormal, "a subnormal scale", scan.n_subnormal, scan.first_subnormal),
            ];
            for (summary, kind, n_found, first) in kinds {
                // A zero or a tiny number among plain numbers is nothing to speak of.
                let Some(first) = first.filter(|_| !is_plain) else { continue };
                let place = block_place(tensor, first);
                if strict {
                    let what = format_args!("{kind}, the first of {n_found} in {} blocks", scan.n_blocks);
                    findings.push(Finding::new(Severity::Note, &place, what));
                }
                summary.add(kind, place, n_found);
            }
        }
        if !strict {
            findings.extend([zero, subnormal].into_iter().filter_map(Summary::finding));
        }
    }
}

/// Block `block` of `tensor`, as users can find it: by number, and by the row and column where it begins.
fn block_place(tensor: &TensorInfo<'_>, block: u64) -> String {
    let element = block * tensor.ty.block_elements();
    let (row, column) = (element / tensor.dims[0], element % tensor.dims[0]);
    format!(
        "tensor `{}` ({}), block {block} (row {row}, column {column})",
        printable(tensor.name, 100),
        tensor.ty
    )
}

/// One line about all tensors.
#[derive(Default)]
struct Summary {
    kind: &'static str,
    first: String,
    n_blocks: u64,
    n_tensors: u64,
}

impl Summary {
    fn add(&mut self, kind: &'static str, place: String, n_blocks: u64) {
        if self.n_tensors == 0 {
            (self.kind, self.first) = (kind, place);
        }
        self.n_blocks += n_blocks;
        self.n_tensors += 1;
    }

    fn finding(self) -> Option<Finding> {
        let Summary { kind, first, n_blocks, n_tensors } = self;
        let what = format_args!("{kind}, the first of {n_blocks} in {n_tensors} tensors; legal");
        (n_tensors > 0).then(|| Finding::new(Severity::Note, first, what))
    }
}

//! ptxas keeps wgmma instructions asynchronous: its notes on serialisation mean a loss of most of the speed.

use super::Violation;
use crate::ptx::resources::PtxasReport;

pub fn check(report: &PtxasReport) -> Vec<Violation> {
    report.serialized.iter().map(|note| violation(note)).collect()
}

fn violation(note: &str) -> Violation {
    let kernel = note.split("function '").nth(1).and_then(|rest| rest.split('\'').next());
    Violation {
        kernel: kernel.unwrap_or("(unnamed by ptxas)").to_string(),
        rule: "serialised wgmma",
        found: note.to_string(),
        allowed: "no such note".into(),
    }
}

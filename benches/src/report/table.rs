//! Results as lines for people.

use super::{Report, Row};
use crate::limits::Limits;

/// The columns' names.
pub fn heading() -> String {
    format!(
        "{:<18} {:<30} {:>10} {:>6} {:>8} {:>7} {:>6} {:>9} {:>7} {:>7} {:>8}",
        "op", "case", "µs", "± %", "TFLOP/s", "GB/s", "limit", "µs cuBLAS", "xcuBLAS", "xSDPA", "error"
    )
}

/// A row; marks behind it are explained in [`notes`].
pub fn row_text(row: &Row) -> String {
    let factor = |us: f64| format!("{:.2}x", us / row.time.median_us);
    let vendor = row.vendor().map(|(_, stats)| stats.median_us);
    let torch = row.torch().map(|(_, stats)| stats.median_us);
    let mut text = format!(
        "{:<18} {:<30} {:>10} {:>6.1} {:>8} {:>7.0} {:>5.0}% {:>9} {:>7} {:>7} {:>8}",
        row.op,
        row.case,
        number(row.time.median_us),
        row.time.spread_percent(),
        number(row.tflop_s),
        row.gb_s,
        row.limit_percent,
        vendor.map_or("-".into(), number),
        vendor.map_or("-".into(), factor),
        torch.map_or("-".into(), factor),
        row.error.map_or("nan".into(), |error| format!("{error:.1e}")),
    );
    if !row.is_right() {
        text.push_str("  WRONG");
    }
    if row.in_cache {
        text.push_str("  in cache");
    }
    for peer in row.peers.iter().filter(|peer| peer.is_right == Some(false)) {
        text.push_str(&format!("  {} wrong", peer.name));
    }
    text
}

/// Four digits, more or less.
fn number(x: f64) -> String {
    match x {
        x if x >= 100.0 => format!("{x:.1}"),
        x if x >= 10.0 => format!("{x:.2}"),
        _ => format!("{x:.3}"),
    }
}

/// The machine's limits, and how they were found.
pub fn limits_text(limits: &Limits) -> String {
    let matmul = limits.matmul_tflop_s.map_or("?".into(), |tflop_s| format!("{tflop_s:.1} TFLOP/s"));
    format!(
        "limits of this run: read {:.0} GB/s ({}), copy {:.0} GB/s ({}), product {matmul} ({})",
        limits.read_gb_s, limits.read_by, limits.copy_gb_s, limits.copy_by, limits.matmul_by
    )
}

/// A peer's line, in full.
fn peer_lines(row: &Row) -> impl Iterator<Item = String> {
    row.peers.iter().map(move |peer| {
        let found = match (&peer.time, &peer.reason) {
            (Some(time), _) => {
                let error = peer.error.map_or(String::new(), |error| format!(", error {error:.1e}"));
                format!("{} µs ± {:.1} %{error}", number(time.median_us), time.spread_percent())
            }
            (None, reason) => reason.clone().unwrap_or_else(|| "not measured".into()),
        };
        format!("    {:<16} {found}", peer.name)
    })
}

/// What the table does not say by itself.
pub fn notes(report: &Report) -> String {
    let mut text = String::from(
        "µs: median of a launch, ± the distance of the quartiles. limit: the least time that the limits of this run allow, of \
         the time. xcuBLAS, xSDPA: how many times as long cuBLAS's best and PyTorch's best way take. error: the largest of a \
         sample against f64, in units of the root mean square. in cache: too small to be rotated past the cache. \
         Launches of ours overlap with the one before as far as they allow it (programmatic dependent launch), as they do in \
         a model.\n",
    );
    let mut said: Vec<&str> = report.rows.iter().filter_map(|row| row.note.as_deref()).collect();
    said.dedup();
    said.sort_unstable();
    said.dedup();
    for note in said {
        text.push_str(&format!("{note}.\n"));
    }
    text
}

/// The whole report.
pub fn text(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "{}, driver {}, CUDA {}, {} multiprocessors; {}\ncuBLAS: {}; PyTorch: {}\n{}\n\n{}\n",
        machine.gpu,
        machine.driver,
        machine.cuda,
        machine.n_multiprocessors,
        machine.date,
        machine.vendor,
        machine.torch,
        limits_text(&report.limits),
        heading()
    );
    for row in &report.rows {
        text.push_str(&row_text(row));
        text.push('\n');
        if row.peers.len() > 1 {
            peer_lines(row).for_each(|line| text.push_str(&(line + "\n")));
        }
    }
    text.push('\n');
    text.push_str(&notes(report));
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    #[test]
    fn a_row_has_its_factor_and_its_marks() {
        let report = report();
        let gemm = row_text(&report.rows[0]);
        assert!(
            gemm.contains(" 1.07x ") && gemm.contains("733.0") && gemm.ends_with("cuBLAS wrong"),
            "{gemm}"
        );
        let attention = row_text(&report.rows[1]);
        assert!(attention.contains(" 3.00x ") && attention.contains(" 1.10x "), "{attention}");
        let norm = row_text(&report.rows[2]);
        assert!(norm.contains("nan  WRONG  in cache"), "{norm}");
    }

    #[test]
    fn columns_are_aligned() {
        let report = report();
        let marks = row_text(&report.rows[1]).chars().count();
        assert_eq!(heading().chars().count(), marks);
    }

    #[test]
    fn the_whole_text_names_the_machine_and_every_peer() {
        let text = text(&report());
        for part in ["H100", "read 3100 GB/s (kernel read_u32)", "SDPA flash", "no kernel", "two products"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

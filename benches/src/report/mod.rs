//! Results: what is written, shown and recorded.

mod charts;
mod csv;
mod record;
mod svg;
mod table;

use serde::{Deserialize, Serialize};

use crate::case::{Case, Check, Work};
use crate::limits::Limits;
use crate::race::Outcome;
use crate::stats::Stats;
use crate::torch::Torch;

pub use charts::charts;
pub use csv::csv;
pub use record::{date_utc, read_json, write_file, write_json, write_record};
pub use table::{heading, limits_text, notes, row_text};

/// Everything that a run found out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub machine: Machine,
    pub limits: Limits,
    pub rows: Vec<Row>,
}

/// Where and with what it ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub gpu: String,
    /// The newest CUDA version that the driver knows.
    pub cuda: String,
    pub driver: String,
    pub n_multiprocessors: u32,
    pub l2_bytes: u32,
    /// The day, in UTC.
    pub date: String,
    /// The vendor's library, or why there is none.
    pub vendor: String,
    /// PyTorch, or why there is none.
    pub torch: String,
}

/// One case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub op: String,
    pub case: String,
    pub bytes: u64,
    pub flops: u64,
    pub time: Stats,
    pub tflop_s: f64,
    pub gb_s: f64,
    /// The least time that the machine's limits allow, in per cent of the time.
    pub limit_percent: f64,
    /// The largest error of a sample, in units of the reference's root mean square; none where it is not a number.
    pub error: Option<f64>,
    pub error_allowed: f64,
    /// Whether the inputs stay in the second-level cache from launch to launch.
    pub in_cache: bool,
    pub peers: Vec<PeerRow>,
    pub note: Option<String>,
}

/// What another library took for the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerRow {
    pub name: String,
    pub time: Option<Stats>,
    /// Why there is no time.
    pub reason: Option<String>,
    pub error: Option<f64>,
    /// Whether its results are right, where they were checked.
    pub is_right: Option<bool>,
}

/// The peers of the vendor's library have names that begin so; those of PyTorch begin otherwise.
const VENDOR: &str = "cuBLAS";

impl Row {
    /// The row of a case.
    pub fn new(case: &Case, outcome: Outcome, limits: &Limits, torch: Option<&Torch>) -> Self {
        let Outcome { ours, check, fits_cache, peers, note } = outcome;
        let Work { bytes, flops, .. } = case.work;
        let mut rows: Vec<PeerRow> = peers
            .into_iter()
            .map(|peer| PeerRow {
                error: peer.check.and_then(finite),
                is_right: peer.check.map(|check| check.is_ok()),
                ..PeerRow::new(peer.name, peer.stats)
            })
            .collect();
        let of_torch = torch.zip(case.attention).map_or(&[][..], |(torch, shape)| torch.times(shape));
        rows.extend(of_torch.iter().map(|(name, stats)| PeerRow::new(format!("SDPA {name}"), stats.clone())));
        Row {
            op: case.op.into(),
            case: case.name.clone(),
            bytes,
            flops,
            time: ours,
            tflop_s: flops as f64 / ours.median_us / 1e6,
            gb_s: bytes as f64 / ours.median_us / 1e3,
            limit_percent: 100.0 * limits.least_us(case.work) / ours.median_us,
            error: finite(check),
            error_allowed: check.allowed,
            in_cache: fits_cache,
            peers: rows,
            note: note.map(Into::into),
        }
    }

    /// Whether the results are right.
    pub fn is_right(&self) -> bool {
        self.error.is_some_and(|error| error <= self.error_allowed)
    }

    /// The vendor's fastest way that is not known to be wrong.
    pub fn vendor(&self) -> Option<(&PeerRow, Stats)> {
        self.fastest(|peer| peer.name.starts_with(VENDOR))
    }

    /// PyTorch's fastest back end.
    pub fn torch(&self) -> Option<(&PeerRow, Stats)> {
        self.fastest(|peer| !peer.name.starts_with(VENDOR))
    }

    fn fastest(&self, is_meant: impl Fn(&PeerRow) -> bool) -> Option<(&PeerRow, Stats)> {
        let right = self.peers.iter().filter(|peer| is_meant(peer) && peer.is_right != Some(false));
        let timed = right.filter_map(|peer| Some((peer, peer.time?)));
        timed.min_by(|a, b| a.1.median_us.total_cmp(&b.1.median_us))
    }
}

impl PeerRow {
    fn new(name: String, stats: Result<Stats, String>) -> Self {
        let (time, reason) = match stats {
            Ok(stats) => (Some(stats), None),
            Err(reason) => (None, Some(reason)),
        };
        PeerRow { name, time, reason, error: None, is_right: None }
    }
}

/// JSON has no infinity.
fn finite(check: Check) -> Option<f64> {
    check.error.is_finite().then_some(check.error)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn stats(us: f64) -> Stats {
        Stats::of(&[us, us * 1.01, us * 0.99])
    }

    fn peer(name: &str, us: f64, is_right: Option<bool>) -> PeerRow {
        PeerRow { is_right, ..PeerRow::new(name.into(), Ok(stats(us))) }
    }

    /// A small report with everything in it that a run can give.
    pub fn report() -> Report {
        let row = |op: &str, case: &str, bytes: u64, flops: u64, us: f64| Row {
            op: op.into(),
            case: case.into(),
            bytes,
            flops,
            time: stats(us),
            tflop_s: flops as f64 / us / 1e6,
            gb_s: bytes as f64 / us / 1e3,
            limit_percent: 50.0,
            error: Some(1e-5),
            error_allowed: 1e-4,
            in_cache: false,
            peers: Vec::new(),
            note: None,
        };
        let mut gemm = row("gemm_wgmma", "bf16 8192x8192x8192", 402_653_184, 1_099_511_627_776, 1500.0);
        gemm.peers = vec![peer("cuBLASLt", 1600.0, Some(true)), peer("cuBLAS", 1400.0, Some(false))];
        let mut attention = row("attention_wgmma", "32/8x128 8192", 1 << 28, 550_000_000_000, 1000.0);
        attention.peers = vec![
            peer("cuBLASLt", 3000.0, None),
            peer("SDPA flash", 1100.0, None),
            PeerRow::new("SDPA cudnn".into(), Err("no kernel".into())),
        ];
        attention.note = Some("two products & no <mask>".into());
        let mut norm = row("rmsnorm", "f32 1x4096", 49_152, 16_384, 2.0);
        (norm.error, norm.in_cache) = (None, true);
        let limits = Limits {
            read_gb_s: 3100.0,
            read_by: "kernel read_u32".into(),
            copy_gb_s: 2800.0,
            copy_by: "cuMemcpyDtoD".into(),
            matmul_tflop_s: Some(750.0),
            matmul_by: "cuBLASLt".into(),
        };
        let machine = Machine {
            gpu: "NVIDIA H100 80GB HBM3".into(),
            cuda: "13.0".into(),
            driver: "580.0".into(),
            n_multiprocessors: 132,
            l2_bytes: 50 << 20,
            date: "2026-01-31".into(),
            vendor: "cuBLASLt 13.0.2".into(),
            torch: "2.9".into(),
        };
        Report { machine, limits, rows: vec![gemm, attention, norm] }
    }

    #[test]
    fn a_peer_with_wrong_results_does_not_count() {
        let report = report();
        let (peer, stats) = report.rows[0].vendor().expect("one is right");
        assert_eq!((peer.name.as_str(), stats.median_us), ("cuBLASLt", 1600.0));
        assert_eq!(report.rows[1].torch().expect("flash").0.name, "SDPA flash");
        assert!(report.rows[2].vendor().is_none());
    }

    #[test]
    fn an_error_that_is_no_number_is_wrong() {
        let report = report();
        assert!(report.rows[0].is_right() && !report.rows[2].is_right());
    }
}

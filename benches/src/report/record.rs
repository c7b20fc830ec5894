//! Files: results, and the record of a run.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Report, charts, csv, table};
use crate::error::{Error, Result};

/// Writes a file and the folders above it.
///
/// # Errors
/// Those of the file system.
pub fn write_file(path: &Path, text: &str) -> Result<()> {
    let failed = |source| Error::File { path: path.into(), source };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    fs::write(path, text).map_err(failed)
}

/// # Errors
/// Those of the file system.
pub fn write_json(path: &Path, report: &Report) -> Result<()> {
    let json = |source| Error::Json { path: path.into(), source };
    write_file(path, &(serde_json::to_string_pretty(report).map_err(json)? + "\n"))
}

/// # Errors
/// Those of the file system, and a file that is no report.
pub fn read_json(path: &Path) -> Result<Report> {
    let text = fs::read_to_string(path).map_err(|source| Error::File { path: path.into(), source })?;
    serde_json::from_str(&text).map_err(|source| Error::Json { path: path.into(), source })
}

/// Writes results, table and charts to `<root>/<gpu>/<date>/`; gives the folder.
///
/// # Errors
/// Those of the file system.
pub fn write_record(root: &Path, report: &Report) -> Result<PathBuf> {
    let folder = root.join(slug(&report.machine.gpu)).join(&report.machine.date);
    write_json(&folder.join("results.json"), report)?;
    write_file(&folder.join("results.csv"), &csv(report))?;
    write_file(&folder.join("table.txt"), &table::text(report))?;
    for (name, svg) in charts(report) {
        write_file(&folder.join(name), &svg)?;
    }
    Ok(folder)
}

/// A GPU's name as a folder's: `NVIDIA H100 80GB HBM3` is `h100-80gb-hbm3`.
fn slug(gpu: &str) -> String {
    let words = gpu.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let words = words.map(str::to_ascii_lowercase).filter(|word| word != "nvidia");
    words.collect::<Vec<_>>().join("-")
}

/// Today, in UTC: 2026-01-31.
pub fn date_utc() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let [year, month, day] = civil(since.as_secs() / 86_400);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Year, month and day of a day since 1970-01-01.
fn civil(days: u64) -> [u64; 3] {
    let is_leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let (mut year, mut left) = (1970, days);
    while left >= 365 + u64::from(is_leap(year)) {
        left -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while left >= lengths[month] {
        left -= lengths[month];
        month += 1;
    }
    [year, month as u64 + 1, left + 1]
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    #[test]
    fn days_are_dates() {
        assert_eq!(civil(0), [1970, 1, 1]);
        assert_eq!(civil(365 + 365 + 31 + 28), [1972, 2, 29]);
        assert_eq!(civil(11_016), [2000, 2, 29]);
        assert_eq!(civil(20_454), [2026, 1, 1]);
        assert_eq!(civil(20_453), [2025, 12, 31]);
    }

    #[test]
    fn folders_are_named_after_the_gpu() {
        assert_eq!(slug("NVIDIA H100 80GB HBM3"), "h100-80gb-hbm3");
        assert_eq!(slug("NVIDIA A100-SXM4-40GB"), "a100-sxm4-40gb");
    }

    #[test]
    fn a_record_can_be_read_again() {
        let root = tempfile::tempdir().expect("a folder");
        let report = report();
        let folder = write_record(root.path(), &report).expect("written");
        assert!(folder.ends_with("h100-80gb-hbm3/2026-01-31"));
        assert_eq!(read_json(&folder.join("results.json")).expect("read"), report);
        let mut names: Vec<_> = fs::read_dir(&folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        let expected = [
            "bars-attention_wgmma.svg",
            "bars-gemm_wgmma.svg",
            "limits.svg",
            "results.csv",
            "results.json",
            "roofline.svg",
            "table.txt",
        ];
        assert_eq!(names, expected);
    }
}

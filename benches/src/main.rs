//! `oxwarp-bench`: times every kernel. `cargo xtask bench` builds and runs it; the binary alone can be carried to a machine
//! with a GPU, where neither Rust nor Python is needed.
//!
//! - `ops/`: what is measured, one file an op; to add one, begin there.
//! - `case`: what a benchmark consists of; `lab`: what it gets its inputs from; `data`: random numbers.
//! - `race`: one case with its peers; `measure`: time; `stats`: what samples say; `limits`: what the machine can do.
//! - `vendor/`: cuBLASLt and cuBLAS, found at run time; `torch/`: PyTorch, in a process of its own.
//! - `report/`: table, JSON, CSV, charts, records.

mod case;
mod data;
mod error;
mod lab;
mod limits;
mod measure;
mod ops;
mod options;
mod race;
mod report;
mod stats;
mod torch;
mod vendor;

use std::process::ExitCode;
use std::{env, fs};

use clap::Parser as _;
use oxwarp::cuda::{Cuda, GpuInfo, Version};

use case::Case;
use error::{Error, Result};
use lab::Lab;
use options::Options;
use report::{Machine, Report, Row};
use torch::Torch;
use vendor::Vendor;

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match &options.charts {
        Some(results) => draw(results).map(|()| true),
        None => bench(&options),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Draws the charts of recorded results, beside them.
fn draw(results: &std::path::Path) -> Result<()> {
    let report = report::read_json(results)?;
    for (name, svg) in report::charts(&report) {
        let path = results.with_file_name(name);
        report::write_file(&path, &svg)?;
        println!("{}", path.display());
    }
    Ok(())
}

/// Measures what is asked for; whether all of it was measured and is right.
fn bench(options: &Options) -> Result<bool> {
    let asked = |case: &Case| (options.all_plans || !case.is_variant) && case::matches(case, &options.filter);
    let mut cases: Vec<Case> = ops::all().into_iter().filter(asked).collect();
    if options.list {
        cases.iter().for_each(|case| println!("{} {}", case.op, case.name));
        return Ok(true);
    }
    if cases.is_empty() {
        eprintln!("no case matches {:?}: --list shows all", options.filter);
        return Ok(false);
    }
    if env::var_os("OXWARP_SYNC").is_some_and(|value| value == "1") {
        eprintln!("OXWARP_SYNC=1 makes every launch wait, which cannot be timed: unset it");
        return Ok(false);
    }
    let device = Cuda::open(options.gpu)?;
    if device.info().capability != Version::new(9, 0) {
        let n = cases.len();
        cases.retain(|case| !case.is_hopper);
        println!("{} cases are only for compute capability 9.0", n - cases.len());
    }
    let python = vendor::find::python(options.torch.as_deref());
    // PyTorch first, while the GPU's memory is free.
    let torch = ask_torch(options, &python, &cases);
    let lab = Lab::new(device, |device| Vendor::find(device, options.cublas.as_deref(), &python))?;
    let machine = machine(lab.device.info(), &lab, &torch);
    println!("{}, driver {}, CUDA {}", machine.gpu, machine.driver, machine.cuda);
    println!("cuBLAS: {}; PyTorch: {}", machine.vendor, machine.torch);
    let limits = limits::measure(&lab, options.pace())?;
    println!("{}\n\n{}", report::limits_text(&limits), report::heading());

    let mut report = Report { machine, limits, rows: Vec::new() };
    let mut all_good = true;
    for case in &cases {
        match race::run(case, &lab, options.pace()) {
            Ok(outcome) => {
                let row = Row::new(case, outcome, &report.limits, torch.as_ref().ok());
                println!("{}", report::row_text(&row));
                all_good &= row.is_right();
                report.rows.push(row);
            }
            Err(error) => {
                println!("{:<18} {:<30} not measured: {error}", case.op, case.name);
                all_good = false;
                if matches!(error, Error::Gpu(oxwarp::cuda::Error::KernelFault { .. })) {
                    println!("the GPU's context is lost: nothing more can be measured");
                    break;
                }
            }
        }
    }
    println!("\n{}", report::notes(&report));
    write(options, &report)?;
    Ok(all_good)
}

fn write(options: &Options, report: &Report) -> Result<()> {
    if let Some(path) = &options.json {
        report::write_json(path, report)?;
    }
    if let Some(path) = &options.csv {
        report::write_file(path, &report::csv(report))?;
    }
    if let Some(root) = &options.record {
        println!("recorded in {}", report::write_record(root, report)?.display());
    }
    Ok(())
}

/// PyTorch's times of the attentions among the cases, or why there are none.
fn ask_torch(options: &Options, python: &std::path::Path, cases: &[Case]) -> Result<Torch, String> {
    if !options.wants_torch() {
        return Err("left out".into());
    }
    let mut shapes: Vec<_> = cases.iter().filter_map(|case| case.attention).collect();
    shapes.sort();
    shapes.dedup();
    if shapes.is_empty() {
        return Err("no attention to compare".into());
    }
    Torch::measure(python, &shapes)
}

fn machine(info: &GpuInfo, lab: &Lab, torch: &Result<Torch, String>) -> Machine {
    let words = fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    Machine {
        gpu: info.name.clone(),
        cuda: info.cuda.to_string(),
        driver: driver_version(&words).unwrap_or("unknown").into(),
        n_multiprocessors: info.n_multiprocessors,
        l2_bytes: info.l2_bytes,
        date: report::date_utc(),
        vendor: match &lab.vendor {
            Ok(vendor) => vendor.name.clone(),
            Err(why) => why.clone(),
        },
        torch: match torch {
            Ok(torch) => torch.version.clone(),
            Err(why) => why.clone(),
        },
    }
}

/// The first word that is numbers and points.
fn driver_version(words: &str) -> Option<&str> {
    let is_version = |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    words.split_whitespace().find(is_version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_names_its_version() {
        let words =
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (x@y)";
        assert_eq!(driver_version(words), Some("580.65.06"));
        assert_eq!(driver_version(""), None);
    }
}

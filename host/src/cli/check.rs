//! `oxwarp check`: what is wrong with a file, without running it.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use oxwarp::backend::cpu::{Cpu, CpuOptions};
use oxwarp::gguf::{Finding, Gguf, MappedFile, Severity};
use oxwarp::model;
use oxwarp::tokenizer::{ChatTemplate, Tokenizer};

use super::Outcome;

const CHAT_TEMPLATE: &str = "metadata key `tokenizer.chat_template`";

/// Check a model file and list what is wrong with it
///
/// Prints one finding a line, as severity: place: what. The exit status is 1 if there is an error, else 0.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The model, a GGUF file
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Report what is legal but unusual too, and take warnings for errors
    #[arg(long)]
    strict: bool,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Outcome {
    let file = MappedFile::open(&args.file)?;
    let findings = check(file.bytes(), args.strict)?;
    let mut out = io::stdout().lock();
    for finding in &findings {
        writeln!(out, "{finding}")?;
    }
    let limit = if args.strict { Severity::Warning } else { Severity::Error };
    let is_bad = findings.iter().any(|finding| finding.severity >= limit);
    Ok(if is_bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// All findings about a file. Structure first: if that is broken, nothing else can be said.
fn check(bytes: &[u8], strict: bool) -> Result<Vec<Finding>, Box<dyn Error>> {
    let gguf = match Gguf::parse(bytes) {
        Ok(gguf) => gguf,
        Err(error) => return Ok(vec![error.into()]),
    };
    let mut findings = gguf.check(strict);
    let error = |place, error: &dyn Error| Finding::new(Severity::Error, place, one_line(error));
    if let Err(fault) = Tokenizer::from_gguf(&gguf) {
        findings.push(error("tokenizer", &fault));
    }
    if let Err(fault) = ChatTemplate::from_gguf(&gguf) {
        // The model can be run all the same, with a plain prompt.
        findings.push(Finding::new(Severity::Warning, CHAT_TEMPLATE, one_line(&fault)));
    }
    if !gguf.tensors.is_empty() {
        let backend = Cpu::new(CpuOptions { n_threads: Some(1), ..CpuOptions::default() })?;
        if let Err(fault) = model::check(&gguf, &backend) {
            findings.push(error("model", &fault));
        }
    }
    Ok(findings)
}

/// An error with its causes, in one line.
fn one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use oxwarp::gguf::{GgmlType, write::Head};
    use oxwarp::synth::{Plan, Quant, Shape};

    fn findings(bytes: &[u8], strict: bool) -> String {
        let findings = check(bytes, strict).unwrap();
        findings.iter().map(|finding| format!("{finding}\n")).collect()
    }

    #[test]
    fn the_fixture_models_are_fine() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/models");
        for name in ["stories260K.F32", "rnd-llama.Q4_1", "rnd-qwen2.Q4_K_M", "rnd-llama-k.Q6_K"] {
            let file = std::fs::read(format!("{folder}/{name}.gguf")).unwrap();
            let errors = findings(&file, false);
            assert!(!errors.contains("error: ") && !errors.contains("warning: "), "{name}: {errors}");
        }
    }

    #[test]
    fn a_broken_structure_is_one_finding() {
        insta::assert_snapshot!(findings(b"GGUF\x09\0\0\0", false), @"error: header, byte 4: version 9, allowed: 2 and 3");
    }

    #[test]
    fn what_tokenizer_and_model_refuse_is_found() {
        let mut head = Head::new();
        head.str("general.architecture", "no-such-model");
        head.str("tokenizer.chat_template", "{% for message in messages %}");
        head.tensor("a", &[1], GgmlType::F32);
        let mut data = head.begin(Vec::new()).unwrap();
        data.write(&f32::NAN.to_le_bytes()).unwrap();
        insta::assert_snapshot!(findings(&data.finish().unwrap(), false), @r#"
        error: tensor `a` (F32), block 0 (row 0, column 0): value is NaN; such elements: 1 of 1
        error: tokenizer: metadata key `tokenizer.ggml.model`: missing; needed: a string
        warning: metadata key `tokenizer.chat_template`: chat template, line 1: syntax error: unexpected end of input, expected end of block
        error: model: architecture "no-such-model" is not supported (supported: llama, qwen2)
        "#);
    }

    #[test]
    fn a_missing_layer_is_found() {
        static SMALL: Shape =
            Shape { n_layers: 2, dim: 64, hidden_dim: 64, n_heads: 1, n_kv_heads: 1, ..SHAPE };
        const SHAPE: Shape = oxwarp::synth::SHAPES[0];
        let plan = Plan::new(&SMALL, Quant::from_name("q8_0").unwrap(), None).unwrap();
        let mut file = Vec::new();
        plan.write(&mut file, 1, |_| {}).unwrap();
        assert_eq!(findings(&file, false), "");
        let key = b"qwen2.block_count";
        let at = file.windows(key.len()).position(|window| window == key).unwrap() + key.len() + 4;
        file[at] = 3;
        insta::assert_snapshot!(findings(&file, false), @"error: model: metadata key `qwen2.block_count`: found 3, but the tensors are of 2 layers");
    }
}

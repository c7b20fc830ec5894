//! Loading and running models that are made here: every way in which metadata and tensors can disagree, and what the
//! fixture models do not cover. Each refusal's message is a snapshot.

mod build;
mod metadata;
mod numbers;
mod requests;
mod rope_tables;
mod tensors;

use std::sync::Arc;

use oxwarp::backend::cpu::{Cpu, CpuOptions};
use oxwarp::gguf::{Gguf, MappedFile};
use oxwarp::model::{Engine, EngineOptions, Error, Runner};

use build::ModelFile;

/// Loads `model` on the CPU.
fn load(model: &ModelFile, options: EngineOptions) -> Result<Box<dyn Runner>, Error> {
    load_with(CpuOptions::default(), model, options)
}

fn load_with(cpu: CpuOptions, model: &ModelFile, options: EngineOptions) -> Result<Box<dyn Runner>, Error> {
    let written = model.write();
    let file = Arc::new(MappedFile::open(written.path()).unwrap());
    let gguf = Gguf::parse(file.bytes())?;
    Ok(Box::new(Engine::load(Cpu::new(cpu)?, Arc::clone(&file), &gguf, options, &mut |_| ())?))
}

/// The message with which `model` is refused.
fn refusal(model: &ModelFile) -> String {
    match load(model, EngineOptions::default()) {
        Ok(_) => panic!("the model was loaded"),
        Err(error) => error.to_string(),
    }
}

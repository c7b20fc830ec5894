//! Completes a text.
//!
//!     cargo run --release --example complete -- MODEL.gguf "Once upon a time"
//!
//! Without arguments it uses the children's-story model of the tests.

use std::error::Error;
use std::io::{self, Write};

use oxwarp::generate::GenerateOptions;
use oxwarp::{LoadOptions, Model};

const STORIES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/models/stories260K.Q8_0.gguf");

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().unwrap_or_else(|| STORIES.to_owned());
    let prompt = arguments.next().unwrap_or_else(|| "Once upon a time".to_owned());

    let mut model = Model::load(path, LoadOptions::default())?;
    let mut generation =
        model.generate(&prompt, GenerateOptions { max_tokens: Some(100), ..Default::default() })?;

    let mut stdout = io::stdout().lock();
    write!(stdout, "{prompt}")?;
    for token in generation.by_ref() {
        write!(stdout, "{}", token?.text)?;
        stdout.flush()?;
    }
    writeln!(stdout)?;

    let rate = generation.timings().generated_rate().unwrap_or_default();
    eprintln!("{rate:.1} tokens/s; seed {} repeats this text", generation.seed());
    Ok(())
}

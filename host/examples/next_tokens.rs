//! The tokens that are most probable to follow a text, from the model's logits.
//!
//!     cargo run --release --example next_tokens -- MODEL.gguf "The capital of France is"
//!
//! Without arguments it uses the children's-story model of the tests.

use std::error::Error;

use oxwarp::sampler::{Sampler, SamplerOptions};
use oxwarp::tokenizer::EncodeOptions;
use oxwarp::{LoadOptions, Model};

const STORIES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/models/stories260K.Q8_0.gguf");

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().unwrap_or_else(|| STORIES.to_owned());
    let prompt = arguments.next().unwrap_or_else(|| "Once upon a time, there was a little".to_owned());

    let mut model = Model::load(path, LoadOptions::default())?;
    let tokens = model.tokenizer().encode(&prompt, EncodeOptions::PROMPT)?;
    let logits = model.logits(&tokens)?;
    let after_last = logits.chunks(model.config().n_vocab).last().ok_or("a prompt of no tokens")?;

    // The softmax of all logits: a sampler whose every other stage is off.
    let plain = SamplerOptions { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..Default::default() };
    let mut candidates = Sampler::new(plain)?.distribution(after_last, &tokens)?.to_vec();
    candidates.sort_by(|a, b| b.probability.total_cmp(&a.probability));

    println!("{prompt} …");
    for candidate in candidates.iter().take(5) {
        let text = model.tokenizer().decode(&[candidate.id])?;
        println!("{:6.2} %  {text:?}", 100.0 * candidate.probability);
    }
    Ok(())
}

//! A conversation of which each turn is a line of standard input.
//!
//!     cargo run --release --example chat -- MODEL.gguf
//!
//! The model must have a chat template.

use std::error::Error;
use std::io::{self, Write};

use oxwarp::generate::GenerateOptions;
use oxwarp::tokenizer::Message;
use oxwarp::{LoadOptions, Model};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: chat MODEL.gguf")?;
    let mut model = Model::load(path, LoadOptions::default())?;
    let mut messages = vec![Message::new("system", "You answer in one short sentence.")];
    let mut stdout = io::stdout().lock();

    for line in io::stdin().lines() {
        messages.push(Message::new("user", line?));
        let mut answer = String::new();
        // All messages each time: the model still has the earlier ones in its cache and computes the new ones only.
        for token in model.chat(&messages, GenerateOptions::default())? {
            let token = token?;
            write!(stdout, "{}", token.text)?;
            stdout.flush()?;
            answer += &token.text;
        }
        writeln!(stdout)?;
        messages.push(Message::new("assistant", answer));
    }
    Ok(())
}

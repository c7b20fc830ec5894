//! Any vocabulary in a well-formed file: loaded, and if it loads, used.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oxwarp::gguf::Gguf;
use oxwarp::tokenizer::{EncodeOptions, Tokenizer};

const TEXT: &str = "Hello wörld 123\n\n  <s>\u{0}日本語 aaaaaaaaaaaa";

fuzz_target!(|bytes: &[u8]| {
    let Ok(gguf) = Gguf::parse(bytes) else { return };
    let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) else { return };
    let options = EncodeOptions { add_special: true, parse_special: bytes.len() % 2 == 0 };
    let Ok(ids) = tokenizer.encode(TEXT, options) else { return };
    assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
    tokenizer.decode(&ids).unwrap();
});

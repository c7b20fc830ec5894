//! Any vocabulary and chat template in a well-formed file: loaded, and what loads is used.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oxwarp::gguf::Gguf;
use oxwarp::tokenizer::{ChatOptions, ChatTemplate, EncodeOptions, Message, Tokenizer};

const TEXT: &str = "Hello wörld 123\n\n  <s>\u{0}日本語 aaaaaaaaaaaa";

fuzz_target!(|bytes: &[u8]| {
    let Ok(gguf) = Gguf::parse(bytes) else { return };
    if let Ok(Some(template)) = ChatTemplate::from_gguf(&gguf) {
        let _ = template.render(&[Message::new("user", TEXT)], &ChatOptions::default());
    }
    let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) else { return };
    // Some of the file's own bytes as a text, so that its tokens occur in it.
    let tail = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(200)..]);
    for text in [TEXT, &tail] {
        let options = EncodeOptions { add_special: true, parse_special: bytes.len() % 2 == 0 };
        let Ok(ids) = tokenizer.encode(text, options) else { continue };
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
        let mut decoder = tokenizer.stream_decoder();
        let mut streamed: String = ids.iter().map(|&id| decoder.push(id).unwrap().to_owned()).collect();
        streamed += decoder.finish();
        assert_eq!(streamed, tokenizer.decode(&ids).unwrap());
    }
});

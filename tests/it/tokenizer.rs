//! Tokenizers from GGUF files against vectors and prompts that other programs made.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use oxwarp::gguf::{Gguf, MappedFile};
use oxwarp::tokenizer::{ChatOptions, ChatTemplate, EncodeOptions, Message, Tokenizer};

/// A file below `tests/fixtures`.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(path)
}

/// The tokenizer of a GGUF file.
pub fn load(path: &Path) -> Tokenizer {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let gguf = Gguf::parse(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Tokenizer::from_gguf(&gguf).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The GGUF file in `tests/fixtures/tokenizers` with the vocabulary called `name`.
pub fn read_vocab(name: &str) -> Vec<u8> {
    let packed = fs::read(fixture(&format!("tokenizers/ggml-vocab-{name}.gguf.gz"))).expect("fixture");
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut bytes).expect("gzip");
    bytes
}

/// The tokenizer of that vocabulary.
pub fn load_vocab(name: &str) -> Tokenizer {
    let bytes = read_vocab(name);
    Tokenizer::from_gguf(&Gguf::parse(&bytes).expect("fixture")).expect("fixture")
}

/// Texts of `tests/fixtures/tokenizers/NAME.inp`, with their ids.
pub fn vectors(name: &str) -> Vec<(String, Vec<u32>)> {
    let read = |extension: &str| {
        fs::read_to_string(fixture(&format!("tokenizers/{name}.{extension}"))).expect("fixture")
    };
    let (inputs, outputs) = (read("inp"), read("out"));
    let inputs: Vec<&str> = inputs.split("\n__ggml_vocab_test__\n").collect();
    // The last text is empty, and so is what follows the last newline of the ids.
    let outputs: Vec<&str> = outputs.split('\n').collect();
    let ids = |line: &str| line.split_whitespace().map(|id| id.parse().expect("an id")).collect();
    inputs.into_iter().map(str::to_owned).zip(outputs.into_iter().map(ids)).collect()
}

fn check_vectors(name: &str) {
    let tokenizer = load_vocab(name);
    let vectors = vectors(&format!("ggml-vocab-{name}.gguf"));
    assert_eq!(vectors.len(), 47);
    for (text, expected) in vectors {
        let ids = tokenizer.encode(&text, EncodeOptions::TEXT).expect("in the vocabulary");
        assert_eq!(ids, expected, "{name}: {text:?}");
        assert_eq!(tokenizer.decode_prompt(&ids).expect("ids"), text, "{name}");
        let mut decoder = tokenizer.stream_decoder();
        let mut streamed: String = ids.iter().map(|&id| decoder.push(id).expect("id").to_owned()).collect();
        streamed += decoder.finish();
        assert_eq!(streamed, tokenizer.decode(&ids).expect("ids"), "{name}");
    }
}

#[test]
fn gpt2_vectors() {
    check_vectors("gpt-2");
}

#[test]
fn qwen2_vectors() {
    check_vectors("qwen2");
}

#[test]
fn phi3_vectors() {
    check_vectors("phi-3");
}

#[derive(serde::Deserialize)]
struct Golden {
    models: Vec<GoldenModel>,
    smollm2: SmolLm2,
}

#[derive(serde::Deserialize)]
struct GoldenModel {
    file: String,
    greedy: Greedy,
}

#[derive(serde::Deserialize)]
struct SmolLm2 {
    greedy: Vec<Greedy>,
}

#[derive(serde::Deserialize)]
struct Greedy {
    prompt: String,
    prompt_tokens: Vec<u32>,
    tokens: Vec<u32>,
    text_hex: String,
    /// Present where the prompt is a rendered chat template.
    chat: Option<Vec<Message>>,
    #[serde(default)]
    stopped_at_eog: bool,
}

fn golden() -> Golden {
    let json = fs::read(fixture("golden/models.json")).expect("fixture");
    serde_json::from_slice(&json).expect("golden/models.json")
}

fn check_greedy(tokenizer: &Tokenizer, greedy: &Greedy, of: &str) {
    let options = if greedy.chat.is_some() { EncodeOptions::CHAT } else { EncodeOptions::PROMPT };
    let prompt = tokenizer.encode(&greedy.prompt, options).expect("in the vocabulary");
    assert_eq!(prompt, greedy.prompt_tokens, "{of}: {:?}", greedy.prompt);
    let bytes = tokenizer.decode_bytes(&greedy.tokens).expect("ids");
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, greedy.text_hex, "{of}");
}

#[test]
fn golden_prompts_of_the_fixture_models() {
    let mut seen = BTreeSet::new();
    for model in golden().models {
        let path = fixture(&model.file);
        // The goldens cover more architectures than the fixtures kept here.
        if path.exists() {
            check_greedy(&load(&path), &model.greedy, &model.file);
            seen.insert(model.file);
        }
    }
    assert!(seen.len() >= 23, "{seen:?}");
}

/// Skipped where the demo model has not been fetched.
#[test]
fn golden_prompts_of_the_demo_model() {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let Some(cache) = cache.or(home) else { return };
    let path = cache.join("oxwarp/SmolLM2-135M-Instruct.Q4_1.gguf");
    if !path.exists() {
        eprintln!("{} is not there: `cargo xtask setup` fetches it", path.display());
        return;
    }
    let file = MappedFile::open(&path).expect("readable");
    let gguf = Gguf::parse(file.bytes()).expect("a GGUF file");
    let tokenizer = Tokenizer::from_gguf(&gguf).expect("a tokenizer");
    let runs = golden().smollm2.greedy;
    assert_eq!(runs.len(), 4);
    for greedy in &runs {
        check_greedy(&tokenizer, greedy, "smollm2");
        if let Some(messages) = &greedy.chat {
            let template = ChatTemplate::from_gguf(&gguf).expect("valid").expect("it has one");
            let options = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
            let prompt = tokenizer.encode_chat(&template, messages, &options).expect("valid");
            assert_eq!((&prompt.text, &prompt.ids), (&greedy.prompt, &greedy.prompt_tokens));
        }
        if greedy.stopped_at_eog {
            assert!(greedy.tokens.last().is_some_and(|&id| tokenizer.is_eog(id)));
        }
    }
    assert_eq!(tokenizer.eog_ids(), [0, 2], "<|endoftext|> and <|im_end|>");
}

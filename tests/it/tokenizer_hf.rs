//! Differential tests: the tokenizers built from GGUF files against the `tokenizers` library, on random text.  The library
//! gets the same vocabulary as a `tokenizer.json`, which tests the loading of such files too.

use std::sync::LazyLock;

use oxwarp::gguf::Gguf;
use oxwarp::tokenizer::{EncodeOptions, Error, Source, TokenKind, Tokenizer};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::tokenizer::read_vocab;

const CONTRACTIONS: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";

/// The part of a `tokenizer.json` that splits a text, for the pre-tokenizer `pre`.
fn pre_tokenizer(pre: &str) -> Value {
    let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let by_regex = |regex: String| {
        let split =
            json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]})
    };
    let cl100k = |digits: &str| {
        by_regex(format!(
            r"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ))
    };
    match pre {
        "gpt-2" => byte_level(true),
        "smollm" => {
            let digits = json!({"type": "Digits", "individual_digits": true});
            json!({"type": "Sequence", "pretokenizers": [digits, byte_level(true)]})
        }
        "qwen2" => cl100k(r"\p{N}"),
        "llama-bpe" => cl100k(r"\p{N}{1,3}"),
        "gpt-4o" => {
            let (upper, lower) = (r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]");
            let (prefix, suffix) = (r"[^\r\n\p{L}\p{N}]?", format!("{CONTRACTIONS}?"));
            by_regex(format!(
                r"{prefix}{upper}*{lower}+{suffix}|{prefix}{upper}+{lower}*{suffix}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            ))
        }
        other => panic!("{other} has no test"),
    }
}

/// The control and user-defined tokens of `source`.
fn added_tokens(source: &Source<'_>) -> Vec<Value> {
    let types = source.token_types.as_ref().expect("the fixtures have types");
    let added = source.tokens.iter().zip(types).enumerate().filter(|(_, (_, ty))| matches!(ty, 2..=4));
    added
        .map(|(id, (text, &ty))| {
            json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": ty != 4})
        })
        .collect()
}

/// Byte-level BPE as a `tokenizer.json`.
fn byte_level_json(source: &Source<'_>, pre: &str) -> Value {
    let vocab: serde_json::Map<String, Value> =
        (0..).zip(&source.tokens).map(|(id, token)| (token.to_string(), Value::from(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added_tokens(source),
        "normalizer": null, "pre_tokenizer": pre_tokenizer(pre), "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": pre == "llama-bpe", "vocab": vocab, "merges": source.merges,
        },
    })
}

/// SentencePiece as a `tokenizer.json`: for each token all pairs of tokens that make it, the best token first.
fn sentence_piece_json(source: &Source<'_>) -> Value {
    let vocab: serde_json::Map<String, Value> =
        (0..).zip(&source.tokens).map(|(id, token)| (token.to_string(), Value::from(id))).collect();
    let scores = source.scores.as_ref().expect("SentencePiece has scores");
    let types = source.token_types.as_ref().expect("the fixtures have types");
    let mut best_first: Vec<usize> = (0..source.tokens.len()).filter(|&id| types[id] == 1).collect();
    best_first.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let mut merges: Vec<[&str; 2]> = Vec::new();
    for id in best_first {
        let token = source.tokens[id];
        let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        merges.extend(
            cuts.filter(|(l, r)| vocab.contains_key(*l) && vocab.contains_key(*r)).map(|(l, r)| [l, r]),
        );
    }
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added_tokens(source),
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "pre_tokenizer": null,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": merges,
        },
    })
}

fn from_json(json: &Value) -> Tokenizer {
    Tokenizer::from_hf_json(json.to_string().as_bytes()).expect("a well-formed tokenizer.json")
}

/// Random text: words, scripts, spaces and symbols in all mixtures, and arbitrary characters.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-zA-Z]{1,12}",
        2 => " {1,4}",
        1 => "[ \\n\\t\\r]{1,6}",
        1 => "[0-9]{1,8}",
        1 => "[!-/:-@\\[-`{-~]{1,5}",
        1 => "'(s|t|re|ve|m|ll|d|S|LL|x)",
        1 => "[à-öø-ÿ]{1,6}",
        1 => "[а-яА-Я]{1,8}",
        1 => "[一-龥]{1,4}",
        1 => "[\u{1f300}-\u{1f64f}\u{200d}\u{fe0f}]{1,3}",
        1 => "[ก-๛]{1,6}",
        // SentencePiece cannot tell U+2581 from a space.
        1 => any::<char>().prop_filter("stands for a space", |&c| c != '\u{2581}').prop_map(String::from),
        1 => Just("<|endoftext|>".to_owned()),
    ];
    proptest::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat())
}

/// `ours` and the library agree on `n_cases` random texts.
fn compare(ours: &Tokenizer, theirs: &Tokenizer, n_cases: u32, what: &str) {
    let runner_config = Config { cases: n_cases, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(runner_config).run(&(text(), any::<bool>()), |(text, parse_special)| {
        let options = EncodeOptions { add_special: false, parse_special };
        let ids = ours.encode(&text, options).expect("every byte is a token");
        prop_assert_eq!(&ids, &theirs.encode(&text, options).expect("every byte is a token"));
        prop_assert_eq!(ours.decode(&ids), theirs.decode(&ids));
        // With special tokens, an EOS in the text is taken for the one that encoding adds.
        if !parse_special {
            prop_assert_eq!(ours.decode_prompt(&ids), Ok(text));
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{what}: {error}"));
}

/// Both agree on what each token stands for.
fn compare_vocabularies(ours: &Tokenizer, theirs: &Tokenizer) {
    assert_eq!(ours.vocab_size(), theirs.vocab_size());
    for id in 0..ours.vocab_size() as u32 {
        assert_eq!(ours.token_bytes(id), theirs.token_bytes(id), "token {id}");
        assert_eq!(
            ours.kind(id) == Ok(TokenKind::Byte),
            theirs.kind(id) == Ok(TokenKind::Byte),
            "token {id}"
        );
    }
}

static GPT2: LazyLock<Vec<u8>> = LazyLock::new(|| read_vocab("gpt-2"));

fn check_byte_level(vocabulary: &[u8], pre: &str, n_cases: u32) -> (Tokenizer, Tokenizer) {
    let gguf = Gguf::parse(vocabulary).expect("fixture");
    let source = Source { pre: Some(pre), ..Source::from_gguf(&gguf).expect("fixture") };
    let ours = Tokenizer::from_source(&source).expect("fixture");
    let theirs = from_json(&byte_level_json(&source, pre));
    compare(&ours, &theirs, n_cases, pre);
    (ours, theirs)
}

#[test]
fn gpt2_agrees_with_the_tokenizers_library() {
    let (ours, theirs) = check_byte_level(&GPT2, "gpt-2", 1000);
    compare_vocabularies(&ours, &theirs);
    assert_eq!(theirs.eog_ids(), ours.eog_ids());
    assert_eq!((theirs.bos(), theirs.adds_bos()), (None, false));
}

#[test]
fn smollm_agrees_with_the_tokenizers_library() {
    check_byte_level(&GPT2, "smollm", 1000);
}

#[test]
fn llama3_agrees_with_the_tokenizers_library() {
    check_byte_level(&GPT2, "llama-bpe", 1000);
}

#[test]
fn gpt4o_agrees_with_the_tokenizers_library() {
    check_byte_level(&GPT2, "gpt-4o", 1000);
}

#[test]
fn qwen2_agrees_with_the_tokenizers_library() {
    check_byte_level(&read_vocab("qwen2"), "qwen2", 600);
}

#[test]
fn sentencepiece_agrees_with_the_tokenizers_library() {
    let bytes = read_vocab("phi-3");
    let gguf = Gguf::parse(&bytes).expect("fixture");
    // The library's file does not say that control tokens take the white space after them.
    let source = Source { strip_after_control: false, ..Source::from_gguf(&gguf).expect("fixture") };
    let ours = Tokenizer::from_source(&source).expect("fixture");
    let theirs = from_json(&sentence_piece_json(&source));
    compare(&ours, &theirs, 1000, "phi-3");
    compare_vocabularies(&ours, &theirs);
    assert_eq!((theirs.bos(), theirs.adds_bos(), theirs.adds_eos()), (Some(1), true, false));
    let prompt = EncodeOptions::PROMPT;
    assert_eq!(theirs.encode("Hello", prompt), ours.encode("Hello", prompt));
    assert_eq!(theirs.eog_ids(), ours.eog_ids());
}

/// Files that make the library panic or fail are errors here.
#[test]
fn crafted_tokenizer_json_is_refused() {
    let model = |vocab: Value, merges: Value| {
        json!({"decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
               "model": {"type": "BPE", "vocab": vocab, "merges": merges}})
    };
    let cases = [
        ("a merge longer than its parts", model(json!({"a": 0, "b": 1}), json!(["a bbbbbbbbbbbbbbbb"]))),
        ("a merge into nothing", model(json!({"a": 0, "b": 1}), json!(["a b"]))),
        ("no space in a merge", model(json!({"a": 0}), json!(["aa"]))),
        ("an enormous id", model(json!({"a": 0, "b": 4294967295u32}), json!([]))),
        ("no decoder", json!({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}})),
        (
            "another decoder",
            json!({"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
                                   "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}),
        ),
        ("no model", json!({"decoder": {"type": "ByteLevel"}})),
        ("no object", json!([1, 2])),
        ("a long token", model(json!({"a".repeat(17 << 10): 0}), json!([]))),
    ];
    for (what, json) in cases {
        let error = Tokenizer::from_hf_json(json.to_string().as_bytes()).expect_err(what);
        assert!(matches!(&error, Error::HfJson(_)), "{what}: {error}");
        assert!(error.to_string().starts_with("tokenizer.json: "), "{what}: {error}");
    }
    for bytes in [&b""[..], b"{", b"\xff\xfe", b"null"] {
        assert!(Tokenizer::from_hf_json(bytes).is_err());
    }
}

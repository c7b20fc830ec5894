//! Vocabularies and files changed at random: each is refused or works.

use oxwarp::gguf::Gguf;
use oxwarp::tokenizer::{ChatTemplate, EncodeOptions, Source, Tokenizer};
use proptest::prelude::*;

use crate::tokenizer::fixture;

/// One change of a vocabulary.
#[derive(Clone, Debug)]
enum Change {
    Token(usize, String),
    Type(usize, i64),
    Score(usize, f32),
    Merge(usize, String),
    SwapTokens(usize, usize),
    Truncate(usize),
    Id(u8, u64),
    Model(bool),
    Pre(u8),
}

fn change() -> impl Strategy<Value = Change> {
    let spelling = prop_oneof![
        "\\PC{0,6}",
        "[aebĠ▁<>|x0-9A-F]{0,8}",
        Just("<0x41>".to_owned()),
        Just("<|im_end|>".to_owned()),
        any::<char>().prop_map(String::from),
    ];
    let merge = prop_oneof!["[aeinrtĠ]{1,2} [aeinrtĠ]{1,2}", "[a-c ]{0,5}"];
    let index = 0..400usize;
    prop_oneof![
        4 => (index.clone(), spelling).prop_map(|(at, text)| Change::Token(at, text)),
        3 => (index.clone(), -1..8i64).prop_map(|(at, ty)| Change::Type(at, ty)),
        2 => (index.clone(), any::<f32>()).prop_map(|(at, score)| Change::Score(at, score)),
        2 => (index.clone(), merge).prop_map(|(at, merge)| Change::Merge(at, merge)),
        2 => (index.clone(), index.clone()).prop_map(|(a, b)| Change::SwapTokens(a, b)),
        1 => (0..330usize).prop_map(Change::Truncate),
        1 => (any::<u8>(), prop_oneof![0..400u64, Just(u64::from(u32::MAX)), any::<u64>()]).prop_map(|(which, id)| Change::Id(which, id)),
        1 => any::<bool>().prop_map(Change::Model),
        1 => any::<u8>().prop_map(Change::Pre),
    ]
}

fn apply<'a>(source: &mut Source<'a>, change: &'a Change) {
    fn set<T>(items: &mut [T], at: usize, item: T) {
        let len = items.len().max(1);
        if let Some(place) = items.get_mut(at % len) {
            *place = item;
        }
    }
    match change {
        Change::Token(at, text) => set(&mut source.tokens, *at, text),
        Change::Type(at, ty) => set(source.token_types.as_deref_mut().unwrap_or_default(), *at, *ty),
        Change::Score(at, score) => set(source.scores.as_deref_mut().unwrap_or_default(), *at, *score),
        Change::Merge(at, merge) => set(source.merges.as_deref_mut().unwrap_or_default(), *at, merge),
        Change::SwapTokens(a, b) => {
            let n = source.tokens.len().max(1);
            if !source.tokens.is_empty() {
                source.tokens.swap(a % n, b % n);
            }
        }
        Change::Truncate(n) => {
            source.tokens.truncate(*n);
            source.token_types.iter_mut().for_each(|types| types.truncate(*n));
            source.scores.iter_mut().for_each(|scores| scores.truncate(*n));
        }
        Change::Id(which, id) => {
            let ids =
                [&mut source.bos, &mut source.eos, &mut source.eot, &mut source.unknown, &mut source.padding];
            *ids.into_iter().nth(usize::from(*which) % 5).expect("one of five") = Some(*id);
        }
        Change::Model(bpe) => source.model = if *bpe { "gpt2" } else { "llama" },
        Change::Pre(which) => {
            source.pre = Some(["gpt-2", "smollm", "llama-bpe", "gpt-4o", "tekken"][usize::from(*which) % 5])
        }
    }
}

/// Whatever can be done with a tokenizer; nothing may panic, and ids stay inside.
fn use_it(tokenizer: &Tokenizer, text: &str) {
    for (add_special, parse_special) in [(false, false), (true, true), (false, true)] {
        let Ok(ids) = tokenizer.encode(text, EncodeOptions { add_special, parse_special }) else { continue };
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
        let decoded = tokenizer.decode(&ids).expect("ids of its own");
        let mut decoder = tokenizer.stream_decoder();
        let mut streamed: String =
            ids.iter().map(|&id| decoder.push(id).expect("its own").to_owned()).collect();
        streamed += decoder.finish();
        assert_eq!(streamed, decoded);
        tokenizer.decode_prompt(&ids).expect("ids of its own");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_vocabularies_are_refused_or_work(
        changes in proptest::collection::vec(change(), 1..6),
        text in "(\\PC|[ aeinrt\n<|>0-9]){0,40}",
        use_bpe in any::<bool>(),
    ) {
        static FILES: std::sync::LazyLock<[Vec<u8>; 2]> = std::sync::LazyLock::new(|| {
            ["models/rnd-llama.F32.gguf", "models/rnd-qwen2.F32.gguf"]
                .map(|path| std::fs::read(fixture(path)).expect("fixture"))
        });
        let gguf = Gguf::parse(&FILES[usize::from(use_bpe)]).expect("fixture");
        let mut source = Source::from_gguf(&gguf).expect("fixture");
        changes.iter().for_each(|change| apply(&mut source, change));
        if let Ok(tokenizer) = Tokenizer::from_source(&source) {
            use_it(&tokenizer, &text);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_bytes_of_a_file_are_refused_or_work(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
    ) {
        static HEAD: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
            let bytes = std::fs::read(fixture("models/rnd-qwen2.F32.gguf")).expect("fixture");
            let n_head = Gguf::parse(&bytes).expect("fixture").data_begin();
            let mut head = bytes[..n_head].to_vec();
            // No tensors: metadata alone is enough for a tokenizer.
            head[8..16].fill(0);
            head
        });
        let mut bytes = HEAD.clone();
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        let Ok(gguf) = Gguf::parse(&bytes) else { return Ok(()) };
        if let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) {
            use_it(&tokenizer, "Hello <|im_end|> wörld 12");
        }
        if let Ok(Some(template)) = ChatTemplate::from_gguf(&gguf) {
            let _ = template.render(&[], &Default::default());
        }
    }
}

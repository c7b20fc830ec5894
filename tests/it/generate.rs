//! The generation loop on real models: what it yields, where it stops, and what it leaves behind.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use oxwarp::device::DeviceChoice;
use oxwarp::generate::{self, GenerateOptions, Generation, StopReason, Token};
use oxwarp::sampler::SamplerOptions;
use oxwarp::tokenizer::EncodeOptions;
use oxwarp::{Error, LoadOptions, Model};
use serde_json::Value;

const STORIES: &str = "models/stories260K.Q8_0.gguf";
const PROMPT: &str = "Once upon a time";
/// `PROMPT` has five tokens, the one that begins a text included.
const N_PROMPT: usize = 5;

fn fixture(name: &str) -> String {
    format!("{}/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn load(name: &str, n_ctx: usize) -> Model {
    Model::load(
        fixture(name),
        LoadOptions { n_ctx: Some(n_ctx), device: DeviceChoice::Cpu, ..Default::default() },
    )
    .unwrap()
}

fn greedy(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { sampler: SamplerOptions::greedy(), max_tokens: Some(max_tokens), ..Default::default() }
}

fn seeded(seed: u64) -> GenerateOptions {
    let sampler = SamplerOptions { seed: Some(seed), temperature: 1.0, ..Default::default() };
    GenerateOptions { sampler, max_tokens: Some(40), ..Default::default() }
}

/// All tokens, their texts joined, and why they ended.
fn collect(mut generation: Generation<'_>) -> (Vec<u32>, String, StopReason) {
    let tokens: Vec<Token> = generation.by_ref().map(Result::unwrap).collect();
    assert!(generation.next().is_none(), "the end is an end");
    let ids = tokens.iter().map(|token| token.id).collect();
    let text = tokens.into_iter().map(|token| token.text).collect();
    (ids, text, generation.stop_reason().expect("it has ended").clone())
}

/// As `collect`, by way of `for_each_token`.
fn collect_pushed(mut generation: Generation<'_>) -> (Vec<u32>, String, StopReason) {
    let (mut ids, mut text) = (Vec::new(), String::new());
    let push = |token: Token| {
        ids.push(token.id);
        text += &token.text;
        ControlFlow::Continue(())
    };
    generation.for_each_token(push).unwrap();
    (ids, text, generation.stop_reason().expect("it has ended").clone())
}

/// The golden greedy tokens and text of every story model.
fn golden_stories() -> Vec<(String, Vec<u32>, String)> {
    let json = std::fs::read(fixture("golden/models.json")).unwrap();
    let golden: Value = serde_json::from_slice(&json).unwrap();
    let models = golden["models"].as_array().unwrap().iter();
    let stories = models.filter(|model| model["file"].as_str().unwrap().contains("stories260K"));
    let goldens: Vec<_> = stories
        .map(|model| {
            let greedy = &model["greedy"];
            assert_eq!(greedy["prompt"], PROMPT);
            let ids = greedy["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32);
            let file = model["file"].as_str().unwrap().to_owned();
            (file, ids.collect(), greedy["text"].as_str().unwrap().to_owned())
        })
        .collect();
    assert_eq!(goldens.len(), 4);
    goldens
}

fn golden_of(file: &str) -> (Vec<u32>, String) {
    let golden = golden_stories().into_iter().find(|golden| golden.0 == file);
    golden.map(|(_, ids, text)| (ids, text)).unwrap()
}

#[test]
fn golden_tokens_pulled_and_pushed() {
    for (file, ids, text) in golden_stories() {
        let mut model = load(&file, 64);
        let expected = (ids, text, StopReason::MaxTokens);
        assert_eq!(collect(model.generate(PROMPT, greedy(32)).unwrap()), expected, "{file}");
        assert_eq!(collect_pushed(model.generate(PROMPT, greedy(32)).unwrap()), expected, "{file}");
    }
}

#[test]
fn limits() {
    let (golden, _) = golden_of(STORIES);
    let mut model = load(STORIES, 12);
    let mut run = |max_tokens| {
        let options = GenerateOptions { max_tokens, ..greedy(0) };
        let pulled = collect(model.generate(PROMPT, options.clone()).unwrap());
        assert_eq!(collect_pushed(model.generate(PROMPT, options).unwrap()), pulled);
        (pulled.0, pulled.2)
    };
    assert_eq!(run(Some(0)), (vec![], StopReason::MaxTokens));
    assert_eq!(run(Some(1)), (golden[..1].to_vec(), StopReason::MaxTokens));
    assert_eq!(run(Some(5)), (golden[..5].to_vec(), StopReason::MaxTokens));
    // 7 more tokens fit into the context; the last one chosen does not have to.
    let all_that_fit = golden[..12 - N_PROMPT + 1].to_vec();
    assert_eq!(run(Some(8)), (all_that_fit.clone(), StopReason::MaxTokens));
    assert_eq!(run(Some(9)), (all_that_fit.clone(), StopReason::ContextFull));
    assert_eq!(run(None), (all_that_fit, StopReason::ContextFull));
}

#[test]
fn prompts_that_fill_the_context() {
    let mut exact = load(STORIES, N_PROMPT);
    let (ids, _, reason) = collect(exact.generate(PROMPT, greedy(10)).unwrap());
    assert_eq!((ids.len(), reason), (1, StopReason::ContextFull));

    let mut short = load(STORIES, N_PROMPT - 1);
    let refusal = short.generate(PROMPT, greedy(10)).err().expect("5 tokens do not fit 4");
    assert!(matches!(refusal, Error::Generate(generate::Error::PromptTooLong { n_prompt: 5, n_ctx: 4 })));
    assert_eq!(refusal.to_string(), "the prompt has 5 tokens, the context holds 4");
    assert!(short.generate("Once", greedy(10)).is_ok(), "a refusal does no harm");
}

/// Stop strings that begin and end inside of tokens, and span several.
#[test]
fn stop_strings_across_tokens() {
    let (golden, text) = golden_of(STORIES);
    assert!(text.starts_with(", there was a little girl named Lily. She loved to play outside in the park."));
    let mut model = load(STORIES, 64);
    let mut run = |stop: &[&str]| {
        let stop = stop.iter().map(|stop| stop.to_string()).collect();
        let options = GenerateOptions { stop, ..greedy(32) };
        let (ids, text, reason) = collect(model.generate(PROMPT, options.clone()).unwrap());
        assert!(golden.starts_with(&ids), "stop strings do not change what is generated");
        let pushed = collect_pushed(model.generate(PROMPT, options).unwrap());
        assert_eq!(pushed, (ids, text.clone(), reason.clone()));
        (text, reason)
    };
    let stopped = |text: &str, stop: &str| (text.to_owned(), StopReason::StopString(stop.to_owned()));
    assert_eq!(run(&["named Lily"]), stopped(", there was a little girl ", "named Lily"));
    assert_eq!(run(&["ily. S"]), stopped(", there was a little girl named L", "ily. S"));
    assert_eq!(run(&[","]), stopped("", ","));
    assert_eq!(run(&["XYZ", "girl", "little girl"]), stopped(", there was a ", "little girl"));
    // Almost, and at the very end: what was held back comes out.
    assert_eq!(run(&["named Lilz"]), (text.clone(), StopReason::MaxTokens));
    assert_eq!(run(&["she saw a dog"]), (text, StopReason::MaxTokens));
}

/// Models of random weights speak in pieces of characters and in bytes that are none. Token by token, the text is what
/// all the bytes together are.
#[test]
fn texts_are_whole_characters() {
    let mut n_replaced = 0;
    for (file, seed) in (0..8).map(|seed| ("models/rnd-llama.Q8_0.gguf", seed)) {
        let mut model = load(file, 256);
        let options = GenerateOptions { max_tokens: Some(200), ..seeded(seed) };
        let (ids, text, _) = collect(model.generate("Hi", options).unwrap());
        let ids = ids.split(|&id| model.tokenizer().is_eog(id)).next().unwrap();
        let bytes = model.tokenizer().decode_bytes(ids).unwrap();
        assert_eq!(text, String::from_utf8_lossy(&bytes), "seed {seed}");
        n_replaced += text.matches('\u{fffd}').count();
    }
    assert!(n_replaced > 0, "no token was a piece of a character: choose another model");
}

/// The end-of-generation token is the last one and has no text; what was held back comes out with it.
#[test]
fn the_model_ends_its_text() {
    let mut model = load("models/rnd-llama.Q8_0.gguf", 256);
    let flat = SamplerOptions { temperature: 2.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..Default::default() };
    let with_seed = |seed| SamplerOptions { seed: Some(seed), ..flat.clone() };
    let runs = (0..64).map(|seed| {
        let options = GenerateOptions { sampler: with_seed(seed), ..Default::default() };
        (seed, collect(model.generate("Hi", options).unwrap()))
    });
    let mut ended = runs.filter(|(_, (_, text, reason))| {
        *reason == StopReason::EndOfGeneration && !text.is_empty() && !text.ends_with('\u{fffd}')
    });
    let (seed, (ids, text, reason)) = ended.next().expect("one of 64 runs ends before the context does");
    drop(ended);
    let tokenizer = model.tokenizer();
    let (last, before) = ids.split_last().unwrap();
    assert!(tokenizer.is_eog(*last) && !before.iter().any(|&id| tokenizer.is_eog(id)), "{ids:?}");
    assert_eq!(text, tokenizer.decode(before).unwrap());

    let stop = vec![format!("{}\u{2603}", text.chars().last().unwrap())];
    let options = GenerateOptions { sampler: with_seed(seed), stop, ..Default::default() };
    assert_eq!(collect(model.generate("Hi", options).unwrap()), (ids, text, reason));
}

/// The loop against the plainest one there is: all logits anew for each token, the penalty by its definition.
#[test]
fn the_penalty_sees_prompt_and_answer() {
    let mut model = load(STORIES, 64);
    let (penalty, window) = (2.5, 20);
    let mut tokens = model.tokenizer().encode(PROMPT, EncodeOptions::PROMPT).unwrap();
    for _ in 0..20 {
        let n_vocab = model.config().n_vocab;
        let mut logits = model.logits(&tokens).unwrap().split_off((tokens.len() - 1) * n_vocab);
        let mut recent = tokens[tokens.len().saturating_sub(window)..].to_vec();
        recent.sort_unstable();
        recent.dedup();
        for id in recent {
            let logit = &mut logits[id as usize];
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
        let best = (0..n_vocab).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        tokens.push(best as u32);
    }
    let sampler =
        SamplerOptions { repeat_penalty: penalty, repeat_last_n: window, ..SamplerOptions::greedy() };
    let options = GenerateOptions { sampler, ..greedy(20) };
    let (ids, ..) = collect(model.generate(PROMPT, options.clone()).unwrap());
    assert_eq!(ids, tokens[N_PROMPT..]);
    assert_ne!(ids, golden_of(STORIES).0[..20], "the penalty changed nothing: choose a larger one");
    assert_eq!(collect_pushed(model.generate(PROMPT, options).unwrap()).0, ids);
}

#[test]
fn seeds_repeat_the_text() {
    let mut model = load(STORIES, 64);
    let mut run = |seed| collect(model.generate(PROMPT, seeded(seed)).unwrap()).1;
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    let in_turn = collect(model.generate(PROMPT, seeded(1)).unwrap());
    assert_eq!(collect_pushed(model.generate(PROMPT, seeded(1)).unwrap()), in_turn);

    let unseeded =
        GenerateOptions { sampler: SamplerOptions { seed: None, ..seeded(0).sampler }, ..seeded(0) };
    let generation = model.generate(PROMPT, unseeded).unwrap();
    let seed = generation.seed();
    let (ids, ..) = collect(generation);
    assert_eq!(collect(model.generate(PROMPT, seeded(seed)).unwrap()).0, ids, "seed {seed}");
}

/// A prompt that goes on from what the cache holds costs only its end, and gives the same tokens as a fresh model.
#[test]
fn the_cache_is_reused_and_never_wrong() {
    let mut model = load(STORIES, 128);
    let prompts = [
        PROMPT,
        PROMPT,
        "Once upon a time, there was a little girl named Lily",
        "Once upon a dog",
        "The sun",
        "Once upon a time, there was a little girl named Lily. She",
    ];
    let mut cached = Vec::new();
    for prompt in prompts {
        let mut generation = model.generate(prompt, greedy(12)).unwrap();
        let ids: Vec<u32> = generation.by_ref().map(|token| token.unwrap().id).collect();
        let timings = generation.timings();
        assert_eq!((timings.n_generated, ids.len()), (12, 12));
        cached.push(timings.n_cached);
        let (fresh, ..) = collect(load(STORIES, 128).generate(prompt, greedy(12)).unwrap());
        assert_eq!(ids, fresh, "{prompt}");
    }
    // Nothing; all but the last token; the prompt and what was generated of the new one; the common beginnings.
    let n_third = model.tokenizer().encode(prompts[2], EncodeOptions::PROMPT).unwrap().len();
    assert_eq!(cached, [0, N_PROMPT - 1, n_third - 1, 4, 1, 1]);
}

#[test]
fn cancelling() {
    let cancel = Arc::new(AtomicBool::new(false));
    let options = GenerateOptions { cancel: Some(Arc::clone(&cancel)), ..greedy(30) };
    let (golden, text) = golden_of(STORIES);
    let mut model = load(STORIES, 300);

    let mut generation = model.generate(PROMPT, options.clone()).unwrap();
    for expected in &golden[..3] {
        assert_eq!(generation.next().unwrap().unwrap().id, *expected);
    }
    cancel.store(true, Ordering::Relaxed);
    assert_eq!(generation.next().unwrap().unwrap().id, golden[3], "the token that was to come, and no more");
    assert!(generation.next().is_none());
    assert_eq!(generation.stop_reason(), Some(&StopReason::Cancelled));
    drop(generation);

    // A prompt of several batches is given up between two of them.
    let long = vec![403; 200];
    let mut generation = model.generate_from_tokens(&long, options.clone()).unwrap();
    assert!(generation.next().is_none());
    assert_eq!(generation.stop_reason(), Some(&StopReason::Cancelled));
    drop(generation);

    // By the one who takes the tokens; what was held back for a stop string is not lost.
    cancel.store(false, Ordering::Relaxed);
    let mut n_seen = 0;
    let mut generation = model.generate(PROMPT, options.clone()).unwrap();
    let break_off = |_| {
        n_seen += 1;
        if n_seen == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    generation.for_each_token(break_off).unwrap();
    assert_eq!(generation.stop_reason(), Some(&StopReason::Cancelled));
    assert_eq!((n_seen, generation.timings().n_generated), (5, 5));
    drop(generation);

    // None of this harms the next one.
    assert_eq!(collect_pushed(model.generate(PROMPT, options).unwrap()).0, golden[..30]);
    assert_eq!(collect(model.generate(PROMPT, greedy(32)).unwrap()).1, text);
}

#[test]
fn refusals() {
    let mut model = load(STORIES, 64);
    let mut refusal = |options| model.generate(PROMPT, options).err().expect("a refusal").to_string();
    let stop = vec!["a".to_owned(), String::new()];
    assert_eq!(
        refusal(GenerateOptions { stop, ..greedy(1) }),
        "stop string 1 is empty; it would end every text before it begins"
    );
    let sampler = SamplerOptions { temperature: -1.0, ..Default::default() };
    assert_eq!(refusal(GenerateOptions { sampler, ..greedy(1) }), "temperature is -1; allowed: 0 to 2");
    let no_tokens = model.generate_from_tokens(&[], greedy(1)).err().unwrap();
    assert_eq!(no_tokens.to_string(), "the prompt has no tokens");
    let mut beyond = model.generate_from_tokens(&[1, 512], greedy(1)).unwrap();
    assert_eq!(
        beyond.next().unwrap().unwrap_err().to_string(),
        "token 1 is 512, but the vocabulary ends at 512"
    );
    assert!(beyond.next().is_none());
}

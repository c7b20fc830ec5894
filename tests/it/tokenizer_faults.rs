//! Vocabularies and texts that mean harm: each is refused with a reason or does no harm, and the process lives.

use std::time::{Duration, Instant};

use insta::assert_snapshot;
use oxwarp::gguf::Gguf;
use oxwarp::tokenizer::{EncodeOptions, Error, MAX_TEXT_BYTES, MAX_TOKEN_BYTES, Source, Tokenizer};

use crate::gguf::mutate::{ARRAY, BOOL, Raw, STRING, U32, array, entry, text};
use crate::tokenizer::{fixture, load, load_vocab, read_vocab};

/// Byte-level BPE of all bytes and two merges; token 258 is a control token.
fn bpe() -> Source<'static> {
    let mut tokens: Vec<&str> = BYTES.split(' ').collect();
    assert_eq!(tokens.len(), 256);
    tokens.extend(["ab", "Ġab", "<|end|>"]);
    let mut token_types = vec![1; tokens.len()];
    token_types[258] = 3;
    Source {
        model: "gpt2",
        pre: Some("gpt-2"),
        tokens,
        token_types: Some(token_types),
        merges: Some(vec!["a b", "Ġ ab"]),
        eos: Some(258),
        ..Source::default()
    }
}

/// The visible characters of the 256 bytes, in no order.
const BYTES: &str = "! \" # $ % & ' ( ) * + , - . / 0 1 2 3 4 5 6 7 8 9 : ; < = > ? @ A B C D E F G H I J K L M N O P Q R S T U V \
W X Y Z [ \\ ] ^ _ ` a b c d e f g h i j k l m n o p q r s t u v w x y z { | } ~ ¡ ¢ £ ¤ ¥ ¦ § ¨ © ª « ¬ ® ¯ ° ± ² ³ ´ µ ¶ · \
¸ ¹ º » ¼ ½ ¾ ¿ À Á Â Ã Ä Å Æ Ç È É Ê Ë Ì Í Î Ï Ð Ñ Ò Ó Ô Õ Ö × Ø Ù Ú Û Ü Ý Þ ß à á â ã ä å æ ç è é ê ë ì í î ï ð ñ ò ó ô õ ö \
÷ ø ù ú û ü ý þ ÿ Ā ā Ă ă Ą ą Ć ć Ĉ ĉ Ċ ċ Č č Ď ď Đ đ Ē ē Ĕ ĕ Ė ė Ę ę Ě ě Ĝ ĝ Ğ ğ Ġ ġ Ģ ģ Ĥ ĥ Ħ ħ Ĩ ĩ Ī ī Ĭ ĭ Į į İ ı Ĳ ĳ Ĵ ĵ \
Ķ ķ ĸ Ĺ ĺ Ļ ļ Ľ ľ Ŀ ŀ Ł ł Ń";

/// SentencePiece with a few pieces, four bytes and control tokens.
fn spm() -> Source<'static> {
    Source {
        model: "llama",
        tokens: vec![
            "<unk>", "<s>", "</s>", "<0x0A>", "<0xC3>", "<0xA9>", "<0xFF>", "▁", "a", "b", "ab", "▁ab",
        ],
        token_types: Some(vec![2, 3, 3, 6, 6, 6, 6, 1, 1, 1, 1, 1]),
        scores: Some(vec![0., 0., 0., 0., 0., 0., 0., -3., -4., -5., -2., -1.]),
        bos: Some(1),
        eos: Some(2),
        unknown: Some(0),
        ..Source::default()
    }
}

fn refusal(source: &Source<'_>) -> String {
    format!("{}\n", Tokenizer::from_source(source).expect_err("to be refused"))
}

fn encode(source: &Source<'_>, text: &str) -> Result<Vec<u32>, Error> {
    Tokenizer::from_source(source).expect("a good vocabulary").encode(text, EncodeOptions::TEXT)
}

#[test]
fn the_good_ones_are_good() {
    assert_eq!(encode(&bpe(), "ab ab").expect("encodes"), [256, 257]);
    assert_eq!(encode(&spm(), "ab\né").expect("encodes"), [11, 3, 4, 5]);
    assert_eq!(
        Tokenizer::from_source(&spm()).expect("good").encode("a", EncodeOptions::PROMPT).expect("encodes"),
        [1, 7, 8]
    );
}

#[test]
fn f1_no_tokens() {
    let none = |source: Source<'static>| {
        refusal(&Source { tokens: vec![], token_types: None, scores: None, ..source })
    };
    // A length of 2^40 fails in the parser; a missing key or another type fails in its typed access.
    let file = |entries: Vec<Vec<u8>>| {
        let bytes = Raw { entries, ..Raw::empty() }.bytes();
        match Gguf::parse(&bytes) {
            Ok(gguf) => format!("{}\n", Tokenizer::from_gguf(&gguf).expect_err("to be refused")),
            Err(error) => format!("{error}\n"),
        }
    };
    let model = || entry("tokenizer.ggml.model", STRING, text("llama"));
    let tokens = |payload: Vec<u8>| entry("tokenizer.ggml.tokens", ARRAY, payload);
    assert_snapshot!([
        none(bpe()),
        none(spm()),
        file(vec![]),
        file(vec![model()]),
        file(vec![model(), tokens(array(STRING, 1 << 40, []))]),
        file(vec![model(), tokens(array(U32, 1, [0; 4]))]),
        file(vec![model(), entry("tokenizer.ggml.tokens", BOOL, [1])]),
    ].concat(), @r"
    tokenizer.ggml.tokens has 0 entries, allowed are 1 to 4294967294
    tokenizer.ggml.tokens has 0 entries, allowed are 1 to 4294967294
    metadata key `tokenizer.ggml.model`: missing; needed: a string
    metadata key `tokenizer.ggml.tokens`: missing; needed: an array of strings
    metadata entry 1 (`tokenizer.ggml.tokens`), byte 106: 1099511627776 array elements claimed, allowed: at most 0 (0 bytes are left)
    metadata key `tokenizer.ggml.tokens`: found array of u32 with 1 elements, allowed: array of string
    metadata key `tokenizer.ggml.tokens`: found bool true, allowed: array of string
    ");
}

#[test]
fn f2_scores_and_types_that_do_not_fit() {
    let file = |key: &str, payload: Vec<u8>| {
        let mut raw = Raw::with_entry(key, ARRAY, payload);
        raw.entries.push(entry("tokenizer.ggml.model", STRING, text("llama")));
        let bytes = raw.bytes();
        let gguf = Gguf::parse(&bytes).expect("a well-formed file");
        format!("{}\n", Tokenizer::from_gguf(&gguf).expect_err("to be refused"))
    };
    let typed = |at: usize, ty: i64| {
        let mut types = spm().token_types.expect("present");
        types[at] = ty;
        refusal(&Source { token_types: Some(types), ..spm() })
    };
    let scored = |score: f32| {
        let mut scores = spm().scores.expect("present");
        scores[8] = score;
        Source { scores: Some(scores), ..spm() }
    };
    assert_snapshot!([
        refusal(&Source { scores: Some(vec![0.; 11]), ..spm() }),
        refusal(&Source { scores: None, ..spm() }),
        refusal(&Source { token_types: Some(vec![1; 13]), ..spm() }),
        typed(8, 0),
        typed(9, 7),
        typed(9, -1),
        refusal(&scored(f32::NAN)),
        file("tokenizer.ggml.scores", array(5, 2, [0; 8])),
        file("tokenizer.ggml.token_type", array(6, 2, [0; 8])),
    ].concat(), @r"
    tokenizer.ggml.scores has 11 entries for 12 tokens
    tokenizer.ggml.scores is missing, which SentencePiece needs
    tokenizer.ggml.token_type has 13 entries for 12 tokens
    tokenizer.ggml.token_type[8] is 0, allowed are 1 to 6
    tokenizer.ggml.token_type[9] is 7, allowed are 1 to 6
    tokenizer.ggml.token_type[9] is -1, allowed are 1 to 6
    tokenizer.ggml.scores[8] is not a number
    metadata key `tokenizer.ggml.scores`: found array of i32 with 2 elements, allowed: array of f32
    metadata key `tokenizer.ggml.token_type`: found array of f32 with 2 elements, allowed: array of integers
    ");
    assert!(encode(&scored(f32::NEG_INFINITY), "ab").is_ok());
}

#[test]
fn f3_merges_that_do_not_fit() {
    let with = |merge: &'static str| refusal(&Source { merges: Some(vec!["a b", merge]), ..bpe() });
    assert_snapshot!([
        refusal(&Source { merges: None, ..bpe() }),
        refusal(&Source { merges: Some(vec![]), ..bpe() }),
        with("ab"),
        with("a  b"),
        with(" ab"),
        with("a "),
        with(""),
        with("a b c"),
        with("ab foo"),
        with("foo bar"),
        with("b a"),
        with("Ġ \u{1b}[2J"),
    ].concat(), @r"
    tokenizer.ggml.merges is missing, which byte-level BPE needs
    tokenizer.ggml.merges is missing, which byte-level BPE needs
    tokenizer.ggml.merges[1] is `ab`, expected two parts with one space between them
    tokenizer.ggml.merges[1] is `a  b`, expected two parts with one space between them
    tokenizer.ggml.merges[1] is ` ab`, expected two parts with one space between them
    tokenizer.ggml.merges[1] is `a `, expected two parts with one space between them
    tokenizer.ggml.merges[1] is ``, expected two parts with one space between them
    tokenizer.ggml.merges[1] is `a b c`, expected two parts with one space between them
    tokenizer.ggml.merges[1] is `ab foo`, but `foo` is not in the vocabulary
    tokenizer.ggml.merges[1] is `foo bar`, but `foo` is not in the vocabulary
    tokenizer.ggml.merges[1] is `b a`, but `ba` is not in the vocabulary
    tokenizer.ggml.merges[1] is `Ġ \u{1b}[2J`, but `\u{1b}[2J` is not in the vocabulary
    ");
    // The same merge twice is one; a vocabulary of single characters may have one that does nothing.
    assert_eq!(
        encode(&Source { merges: Some(vec!["a b", "Ġ ab", "a b"]), ..bpe() }, " ab").expect("good"),
        [257]
    );
    let letters =
        Source { tokens: vec!["A", "B"], token_types: None, merges: Some(vec!["Ġ Ġ"]), eos: None, ..bpe() };
    assert_eq!(encode(&letters, "ABA").expect("good"), [0, 1, 0]);
    assert_snapshot!(encode(&letters, "AB C").expect_err("no token"), @r"the vocabulary has no token for byte 0x20 at offset 2 of the text and no unknown token");
}

#[test]
fn f4_special_ids_outside_of_the_vocabulary() {
    let n = spm().tokens.len() as u64;
    assert_snapshot!([
        refusal(&Source { bos: Some(n), ..spm() }),
        refusal(&Source { eos: Some(u64::MAX), ..spm() }),
        refusal(&Source { eot: Some(1 << 32), ..spm() }),
        refusal(&Source { eom: Some(n + 1), ..spm() }),
        refusal(&Source { unknown: Some(99), ..spm() }),
        refusal(&Source { padding: Some(99), ..spm() }),
        refusal(&Source { bos: None, add_bos: Some(true), ..spm() }),
        refusal(&Source { eos: None, add_eos: Some(true), ..bpe() }),
    ].concat(), @r"
    tokenizer.ggml.bos_token_id is 12, but the vocabulary has 12 tokens
    tokenizer.ggml.eos_token_id is 18446744073709551615, but the vocabulary has 12 tokens
    tokenizer.ggml.eot_token_id is 4294967296, but the vocabulary has 12 tokens
    tokenizer.ggml.eom_token_id is 13, but the vocabulary has 12 tokens
    tokenizer.ggml.unknown_token_id is 99, but the vocabulary has 12 tokens
    tokenizer.ggml.padding_token_id is 99, but the vocabulary has 12 tokens
    tokenizer.ggml.add_bos_token is true, but tokenizer.ggml.bos_token_id is missing
    tokenizer.ggml.add_eos_token is true, but tokenizer.ggml.eos_token_id is missing
    ");
    // 2^32 - 1 is how some programs write "none".
    let none = Source { bos: Some(u32::MAX.into()), ..spm() };
    let tokenizer = Tokenizer::from_source(&none).expect("good");
    assert_eq!((tokenizer.bos(), tokenizer.adds_bos()), (None, false));
    assert_eq!(tokenizer.encode("a", EncodeOptions::PROMPT).expect("encodes"), [7, 8]);
}

#[test]
fn f5_byte_tokens() {
    let renamed = |name: &'static str| {
        let mut source = spm();
        source.tokens[3] = name;
        refusal(&source)
    };
    assert_snapshot!(
        ["<0x-1>", "<0xZZ>", "<0x>", "<0x100>", "0x0A", "", "\n"].map(renamed).concat(),
        @r"
        tokenizer.ggml.tokens[3] is `<0x-1>` and of type BYTE, expected <0x00> to <0xFF>
        tokenizer.ggml.tokens[3] is `<0xZZ>` and of type BYTE, expected <0x00> to <0xFF>
        tokenizer.ggml.tokens[3] is `<0x>` and of type BYTE, expected <0x00> to <0xFF>
        tokenizer.ggml.tokens[3] is `<0x100>` and of type BYTE, expected <0x00> to <0xFF>
        tokenizer.ggml.tokens[3] is `0x0A` and of type BYTE, expected <0x00> to <0xFF>
        tokenizer.ggml.tokens[3] is `` and of type BYTE, expected <0x00> to <0xFF>
        tokenizer.ggml.tokens[3] is `\n` and of type BYTE, expected <0x00> to <0xFF>
        "
    );
    // A byte without a token is the unknown token, and without that one an error that names it.
    assert_eq!(encode(&spm(), "a\u{7f}").expect("encodes"), [7, 8, 0]);
    assert_snapshot!(encode(&Source { unknown: None, ..spm() }, "a日").expect_err("no token"), @r"the vocabulary has no token for byte 0xe6 at offset 1 of the text and no unknown token");
    // Without types, the spelling tells.
    let untyped = Source { token_types: None, ..spm() };
    assert_eq!(encode(&untyped, "ab\né").expect("encodes"), [11, 3, 4, 5]);
    assert_eq!(encode(&untyped, "<0x0A>").expect("encodes"), [7, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn f6_duplicate_empty_and_long_tokens() {
    let mut source = spm();
    source.tokens.extend(["ab", "", "", "a"]);
    source.token_types.as_mut().expect("present").extend([1, 1, 3, 1]);
    source.scores.as_mut().expect("present").extend([9., 9., 9., 9.]);
    assert_eq!(encode(&source, "b ab").expect("encodes"), [7, 9, 11], "the first of two counts");
    let mut source = bpe();
    source.tokens.extend(["ab", "", "<|end|>"]);
    source.token_types.as_mut().expect("present").extend([1, 3, 3]);
    assert_eq!(encode(&source, "ab").expect("encodes"), [256]);
    let tokenizer = Tokenizer::from_source(&source).expect("good");
    assert_eq!(tokenizer.encode("<|end|>", EncodeOptions::CHAT).expect("encodes"), [258]);

    let long = "x".repeat(MAX_TOKEN_BYTES + 1);
    let mut source = bpe();
    source.tokens[258] = &long[1..];
    assert!(Tokenizer::from_source(&source).is_ok());
    source.tokens[258] = &long;
    assert_snapshot!(refusal(&source), @r"tokenizer.ggml.tokens[258] has 16385 bytes, allowed are 16384");
}

#[test]
fn f7_unknown_models_and_pre_tokenizers() {
    assert_snapshot!([
        refusal(&Source { pre: Some("llama-4-next"), ..bpe() }),
        refusal(&Source { pre: Some("default"), ..bpe() }),
        refusal(&Source { pre: None, ..bpe() }),
        refusal(&Source { model: "bert", ..bpe() }),
        refusal(&Source { model: "\u{1b}[31mgpt2", ..bpe() }),
    ].concat(), @r"
    tokenizer.ggml.pre is `llama-4-next`, an unknown pre-tokenizer; known are: gpt-2, phi-2, jina-es, jina-de, jina-v2-es, jina-v2-de, gigachat, a.x-4.0, mellum, modern-bert, mpt, olmo, jais, trillion, granite-docling, exaone4, smollm, starcoder, refact, command-r, codeshell, exaone, minerva-7b, llama-bpe, llama3, llama-v3, falcon3, falcon-h1, pixtral, midm-2.0, lfm2, jina-v5-nano, dbrx, smaug-bpe, glm4, chatglm-bpe, qwen2, deepseek-r1-qwen, kormo, f2llmv2, megrez, stablelm2, hunyuan, grok-2, gpt-4o, llama4, kanana2, talkie, minimax-m2, tekken
    tokenizer.ggml.pre is `default`, an unknown pre-tokenizer; known are: gpt-2, phi-2, jina-es, jina-de, jina-v2-es, jina-v2-de, gigachat, a.x-4.0, mellum, modern-bert, mpt, olmo, jais, trillion, granite-docling, exaone4, smollm, starcoder, refact, command-r, codeshell, exaone, minerva-7b, llama-bpe, llama3, llama-v3, falcon3, falcon-h1, pixtral, midm-2.0, lfm2, jina-v5-nano, dbrx, smaug-bpe, glm4, chatglm-bpe, qwen2, deepseek-r1-qwen, kormo, f2llmv2, megrez, stablelm2, hunyuan, grok-2, gpt-4o, llama4, kanana2, talkie, minimax-m2, tekken
    tokenizer.ggml.pre is missing; without it nobody knows how the text is split before merging
    tokenizer.ggml.model is `bert`, known are: gpt2 (byte-level BPE), llama (SentencePiece)
    tokenizer.ggml.model is `\u{1b}[31mgpt2`, known are: gpt2 (byte-level BPE), llama (SentencePiece)
    ");
}

/// A quadratic step would take minutes, a recursive one would overflow the small stack.
#[test]
fn f8_a_million_equal_characters() {
    let texts = [
        "a",
        " ",
        "\n",
        "^",
        "日",
        "é",
        "1",
        "'",
        "aA",
        "日A",
        "\u{301}",
        " \n",
        "a ",
        "ſ",
        "<|im_",
        "🙂\u{200d}",
    ];
    let bytes = read_vocab("gpt-2");
    let gguf = Gguf::parse(&bytes).expect("fixture");
    let mut tokenizers = vec![("phi-3", load_vocab("phi-3"))];
    for pre in ["gpt-2", "smollm", "llama-bpe", "gpt-4o"] {
        let source = Source { pre: Some(pre), ..Source::from_gguf(&gguf).expect("fixture") };
        tokenizers.push((pre, Tokenizer::from_source(&source).expect("fixture")));
    }
    let work = move || {
        for (turn, (name, tokenizer)) in tokenizers.iter().enumerate() {
            for (index, part) in texts.into_iter().enumerate() {
                // Each text is very long for one of the tokenizers.
                let n = if index % tokenizers.len() == turn { 1_000_000 } else { 10_000 };
                let text = part.repeat(n);
                let begin = Instant::now();
                let ids = tokenizer.encode(&text, EncodeOptions::CHAT).expect("all bytes are tokens");
                assert_eq!(tokenizer.decode_prompt(&ids).as_deref(), Ok(&*text), "{name}: {part:?}");
                let time = begin.elapsed();
                assert!(time < Duration::from_secs(40), "{name}: {n} times {part:?} took {time:?}");
            }
        }
    };
    std::thread::Builder::new()
        .stack_size(128 << 10)
        .spawn(work)
        .expect("a thread")
        .join()
        .expect("no panic");
}

#[test]
fn f9_a_text_of_a_gigabyte_is_refused_before_it_is_read() {
    // Zeros that nobody writes take no memory.
    let text = String::from_utf8(vec![0; MAX_TEXT_BYTES + 1]).expect("ASCII");
    let tokenizer = Tokenizer::from_source(&bpe()).expect("good");
    let error = tokenizer.encode(&text, EncodeOptions::TEXT).expect_err("too long");
    assert_eq!(error, Error::TextTooLong { found: MAX_TEXT_BYTES + 1, allowed: MAX_TEXT_BYTES });
}

#[test]
fn f10_control_tokens_are_text_by_default() {
    let tokenizer = load_vocab("qwen2");
    let end = tokenizer.special_token("<|im_end|>").expect("a token");
    for options in [EncodeOptions::PROMPT, EncodeOptions::TEXT] {
        let ids = tokenizer.encode("a<|im_end|>b", options).expect("encodes");
        assert!(!ids.contains(&end) && ids.len() > 3, "{ids:?}");
    }
    assert_eq!(tokenizer.encode("a<|im_end|>b", EncodeOptions::CHAT).expect("encodes"), [64, end, 65]);
    // SentencePiece cannot merge its way to one either.
    let tokenizer = load_vocab("phi-3");
    let ids = tokenizer.encode("<s><|end|><unk>", EncodeOptions::TEXT).expect("encodes");
    assert!(ids.iter().all(|&id| !tokenizer.is_eog(id) && id > 2), "{ids:?}");
}

#[test]
fn f11_an_answer_cut_inside_of_a_character() {
    let tokenizer = Tokenizer::from_source(&bpe()).expect("good");
    let ids = tokenizer.encode("é🙂", EncodeOptions::TEXT).expect("encodes");
    assert_eq!(ids.len(), 6, "a token a byte");
    for cut in 0..=ids.len() {
        let mut decoder = tokenizer.stream_decoder();
        let mut text = String::new();
        for &id in &ids[..cut] {
            let new = decoder.push(id).expect("an id");
            assert!(!new.contains('\u{fffd}'));
            text += new;
        }
        text += decoder.finish();
        let expected = ["", "\u{fffd}", "é", "é\u{fffd}", "é\u{fffd}", "é\u{fffd}", "é🙂"][cut];
        assert_eq!(text, expected);
        assert_eq!(tokenizer.decode(&ids[..cut]).as_deref(), Ok(expected));
    }
}

#[test]
fn f12_ids_outside_of_the_vocabulary() {
    let tokenizer = Tokenizer::from_source(&spm()).expect("good");
    let error = Error::TokenId { id: 12, vocab_size: 12 };
    assert_eq!(tokenizer.decode(&[1, 12]), Err(error.clone()));
    assert_eq!(tokenizer.token_bytes(12), Err(error.clone()));
    let mut decoder = tokenizer.stream_decoder();
    assert_eq!(decoder.push(4), Ok(""));
    assert_eq!(decoder.push(12), Err(error));
    assert_eq!(decoder.push(5), Ok("é"), "the bad id changed nothing");
    assert!(tokenizer.decode(&[u32::MAX]).is_err());
    assert!(!tokenizer.is_eog(u32::MAX));
}

/// The set of end tokens that llama.cpp has for these files.
#[test]
fn end_of_generation_is_a_set() {
    let texts = |tokenizer: &Tokenizer| {
        let mut texts: Vec<String> =
            tokenizer.eog_ids().iter().map(|&id| tokenizer.decode(&[id]).expect("an id")).collect();
        texts.sort();
        texts
    };
    assert_eq!(texts(&load_vocab("phi-3")), ["</s>", "<|endoftext|>", "<|end|>"].map(String::from));
    assert_eq!(texts(&load_vocab("qwen2")), ["<|endoftext|>", "<|im_end|>"].map(String::from));
    assert_eq!(
        texts(&load(&fixture("models/rnd-qwen2.F32.gguf"))),
        ["<|endoftext|>", "<|im_end|>"].map(String::from)
    );
    assert_eq!(texts(&load_vocab("gpt-2")), ["<|endoftext|>"].map(String::from));
    let with = |names: &[&'static str], types: i64| {
        let mut source = bpe();
        source.tokens.extend(names);
        source.token_types.as_mut().expect("present").extend(vec![types; names.len()]);
        texts(&Tokenizer::from_source(&Source { eos: None, ..source }).expect("good"))
    };
    // In the harmony format a message's end is not the answer's.
    assert_eq!(
        with(&["<|return|>", "<|call|>", "<|endoftext|>"], 3),
        ["<|call|>", "<|endoftext|>", "<|return|>"].map(String::from)
    );
    assert_eq!(with(&["<|return|>"], 3), ["<|end|>", "<|return|>"].map(String::from));
    // A piece of text that happens to look like one is text.
    assert_eq!(with(&["</s>"], 1), ["<|end|>"].map(String::from));
    assert_eq!(with(&["<|eot_id|>"], 4), ["<|end|>", "<|eot_id|>"].map(String::from));
}

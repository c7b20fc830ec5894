//! A byte-level vocabulary of any size that the tokenizer accepts and every text can be written with.

use std::collections::BTreeMap;

use crate::gguf::write::Head;

use super::shapes::Shape;

/// Kinds of tokens in `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;

/// The character that stands for a byte in a byte-level vocabulary: itself if it is printable and no space, else one from
/// U+0100 on.
fn byte_char(byte: u8) -> char {
    let is_printable = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    if is_printable(byte) {
        return char::from(byte);
    }
    let n_before = (0..byte).filter(|&other| !is_printable(other)).count() as u32;
    char::from_u32(256 + n_before).expect("at most 67 bytes are not printable")
}

/// The character that stands for a space.
fn space() -> char {
    byte_char(b' ')
}

/// Pairs that merge: a space with each small letter, then all pairs of small letters.
fn merges() -> impl Iterator<Item = (char, char)> {
    let letters = 'a'..='z';
    let pairs = letters.clone().flat_map(|first| ('a'..='z').map(move |second| (first, second)));
    letters.map(|letter| (space(), letter)).chain(pairs)
}

/// Words that can be spoken, longer than any merge: a space and three syllables.
fn words() -> impl Iterator<Item = String> {
    let syllable = |i: usize| {
        let consonants = b"bdfghjklmnprstvwyzcx";
        [char::from(consonants[i / 5 % 20]), char::from(b"aeiou"[i % 5])]
    };
    (0..1_000_000).map(move |i| {
        // An odd number far from 1 without a common divisor with 10^6, so that neighbours do not begin alike.
        let i = i * 382_831 % 1_000_000;
        let syllables = [i / 10_000, i / 100 % 100, i % 100].map(syllable);
        std::iter::once(space()).chain(syllables.into_iter().flatten()).collect()
    })
}

/// The texts of all tokens, and their kinds.
fn tokens(shape: &Shape) -> (Vec<String>, Vec<i32>) {
    let bytes = (0..=255).map(|byte| byte_char(byte).to_string());
    let merged = merges().map(|(left, right)| [left, right].iter().collect());
    let mut normal = bytes.chain(merged).chain(words());
    let special: BTreeMap<u32, &str> = shape.special_tokens.iter().copied().collect();
    let token = |id: u32| match special.get(&id) {
        Some(text) => ((*text).to_owned(), CONTROL),
        None => (normal.next().expect("a million words are enough for any vocabulary"), NORMAL),
    };
    (0..shape.n_vocab as u32).map(token).unzip()
}

/// Adds the keys of a tokenizer with `shape.n_vocab` tokens.
pub(super) fn write(head: &mut Head, shape: &Shape) {
    let (texts, kinds) = tokens(shape);
    head.str("tokenizer.ggml.model", "gpt2")
        .str("tokenizer.ggml.pre", shape.pre_tokenizer)
        .str_array("tokenizer.ggml.tokens", texts)
        .i32_array("tokenizer.ggml.token_type", kinds)
        .str_array("tokenizer.ggml.merges", merges().map(|(left, right)| format!("{left} {right}")))
        .u32("tokenizer.ggml.bos_token_id", shape.bos)
        .u32("tokenizer.ggml.eos_token_id", shape.eos)
        .bool("tokenizer.ggml.add_bos_token", shape.adds_bos);
}

//! From a file's metadata to a tokenizer: every check, then the tables.

use super::bpe::{self, Bpe};
use super::error::{Error, quoted};
use super::source::{self, Source};
use super::special::SpecialTokens;
use super::split::PreTokenizer;
use super::spm::{self, Spm};
use super::vocab::{TokenKind, Vocab};
use super::{Encoder, MAX_TOKEN_BYTES, Tokenizer};

/// Ids and ranks are u32, and the largest is kept for "none".
const MAX_ENTRIES: usize = u32::MAX as usize - 1;

/// Texts of tokens that end a generation in the published models, whether or not the metadata names them.
const END_TEXTS: [&str; 17] = [
    "<|im_end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|eom|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "</s>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<|EOT|>",
    "<EOT>",
    "_<EOT>",
    "<｜end▁of▁sentence｜>",
];

/// Checks `source` and builds its tokenizer.
pub(super) fn from_source(source: &Source<'_>) -> Result<Tokenizer, Error> {
    check_sizes(source)?;
    let ids = SpecialIds::read(source)?;
    match source.model {
        "gpt2" => byte_level(source, ids),
        "llama" => sentence_piece(source, ids),
        other => Err(Error::UnknownModel { found: quoted(other) }),
    }
}

fn byte_level(source: &Source<'_>, ids: SpecialIds) -> Result<Tokenizer, Error> {
    let pre = source.pre.ok_or(Error::Missing {
        key: "tokenizer.ggml.pre",
        hint: "; without it nobody knows how the text is split before merging",
    })?;
    let pre = PreTokenizer::named(pre)?;
    let no_merges = Error::Missing { key: source::MERGES, hint: ", which byte-level BPE needs" };
    let merges = source.merges.as_deref().filter(|merges| !merges.is_empty()).ok_or(no_merges)?;
    let vocab = read_vocab(source, &ids, bpe::token_bytes)?;
    let bpe = Bpe::new(pre, &source.tokens, &vocab, merges)?;
    finish(source, ids, vocab, Encoder::Bpe(bpe), pre.add_bos)
}

fn sentence_piece(source: &Source<'_>, ids: SpecialIds) -> Result<Tokenizer, Error> {
    let no_scores = Error::Missing { key: source::SCORES, hint: ", which SentencePiece needs" };
    let scores = source.scores.as_deref().ok_or(no_scores)?;
    let vocab = read_vocab(source, &ids, spm::token_bytes)?;
    let add_space_prefix = source.add_space_prefix.unwrap_or(true);
    let spm = Spm::new(&source.tokens, &vocab, scores, ids.unknown, add_space_prefix)?;
    finish(source, ids, vocab, Encoder::Spm(spm), true)
}

fn finish(
    source: &Source<'_>,
    ids: SpecialIds,
    vocab: Vocab,
    encoder: Encoder,
    add_bos_by_default: bool,
) -> Result<Tokenizer, Error> {
    let special = SpecialTokens::new(&vocab, source.strip_after_control);
    let end_of_generation = end_of_generation(&special, [ids.eos, ids.eot, ids.eom]);
    let asked_for = |key, add: Option<bool>, id_key, id: Option<u32>| match (add, id) {
        (Some(true), None) => Err(Error::NothingToAdd { key, missing: id_key }),
        _ => Ok(add),
    };
    let add_bos = asked_for(source::ADD_BOS, source.add_bos, source::BOS, ids.bos)?;
    let add_eos = asked_for(source::ADD_EOS, source.add_eos, source::EOS, ids.eos)?;
    Ok(Tokenizer {
        encoder,
        vocab,
        special,
        bos: ids.bos,
        eos: ids.eos,
        add_bos: add_bos.unwrap_or(add_bos_by_default),
        add_eos: add_eos.unwrap_or(false),
        end_of_generation,
    })
}

/// The ids of the well-known end tokens and of those that the metadata `named`, sorted.
pub(super) fn end_of_generation(special: &SpecialTokens, named: [Option<u32>; 3]) -> Vec<u32> {
    let in_harmony = ["<|return|>", "<|call|>"].iter().all(|text| special.find(text).is_some());
    let well_known = END_TEXTS
        .iter()
        // In the harmony format `<|end|>` ends a message, and the answer goes on with the next one.
        .filter(|&&text| !(in_harmony && text == "<|end|>"))
        .filter_map(|text| special.find(text));
    let mut ids: Vec<u32> = named.into_iter().flatten().chain(well_known).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Sizes and lengths: the arrays describe the same tokens, ids can name them.
fn check_sizes(source: &Source<'_>) -> Result<(), Error> {
    let n_tokens = source.tokens.len();
    let n_merges = source.merges.as_ref().map_or(0, Vec::len);
    for (key, found, least) in [(source::TOKENS, n_tokens, 1), (source::MERGES, n_merges, 0)] {
        if !(least..=MAX_ENTRIES).contains(&found) {
            return Err(Error::VocabularySize { key, found, allowed: MAX_ENTRIES });
        }
    }
    let lengths = [
        (source::TOKEN_TYPE, source.token_types.as_ref().map(Vec::len)),
        (source::SCORES, source.scores.as_ref().map(Vec::len)),
    ];
    for (key, found) in lengths {
        if let Some(found) = found.filter(|&found| found != n_tokens) {
            return Err(Error::LengthMismatch { key, found, expected: n_tokens });
        }
    }
    let too_long = source.tokens.iter().position(|token| token.len() > MAX_TOKEN_BYTES);
    match too_long {
        Some(id) => Err(Error::TokenTooLong { id, found: source.tokens[id].len() }),
        None => Ok(()),
    }
}

/// Special tokens' ids, each inside of the vocabulary.
struct SpecialIds {
    bos: Option<u32>,
    eos: Option<u32>,
    eot: Option<u32>,
    eom: Option<u32>,
    unknown: Option<u32>,
}

impl SpecialIds {
    fn read(source: &Source<'_>) -> Result<SpecialIds, Error> {
        /// What llama.cpp writes for "no such token".
        const NO_TOKEN: u64 = u32::MAX as u64;
        let vocab_size = source.tokens.len();
        let check = |key, id: Option<u64>| match id {
            None | Some(NO_TOKEN) => Ok(None),
            Some(found) => match u32::try_from(found) {
                Ok(id) if (id as usize) < vocab_size => Ok(Some(id)),
                _ => Err(Error::SpecialId { key, found, vocab_size }),
            },
        };
        check(source::PADDING, source.padding)?;
        Ok(SpecialIds {
            bos: check(source::BOS, source.bos)?,
            eos: check(source::EOS, source.eos)?,
            eot: check(source::EOT, source.eot)?,
            eom: check(source::EOM, source.eom)?,
            unknown: check(source::UNKNOWN, source.unknown)?,
        })
    }

    fn contains(&self, id: usize) -> bool {
        let ids = [self.bos, self.eos, self.eot, self.eom];
        ids.iter().flatten().any(|&special| special as usize == id)
    }
}

/// The tokens' bytes and kinds.  A file without types has control tokens where the metadata names them, and bytes where
/// the spelling does.
fn read_vocab(
    source: &Source<'_>,
    ids: &SpecialIds,
    bytes: fn(&str, TokenKind) -> Vec<u8>,
) -> Result<Vocab, Error> {
    let mut vocab = Vocab::with_capacity(source.tokens.len());
    for (id, &text) in source.tokens.iter().enumerate() {
        let kind = match &source.token_types {
            Some(types) => {
                let found = types[id];
                TokenKind::from_ggml(found).ok_or(Error::TokenType { id, found })?
            }
            None if ids.unknown.is_some_and(|unknown| unknown as usize == id) => TokenKind::Unknown,
            None if ids.contains(id) => TokenKind::Control,
            None if source.model == "llama" && spm::parse_byte(text).is_some() => TokenKind::Byte,
            None => TokenKind::Normal,
        };
        vocab.push(&bytes(text, kind), kind);
    }
    Ok(vocab)
}

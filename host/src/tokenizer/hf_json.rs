//! `tokenizer.json` through the `tokenizers` library, which panics on some crafted files: every call is guarded.

use std::fmt::{self, Display};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;

use super::build::end_of_generation;
use super::error::Error;
use super::special::SpecialTokens;
use super::vocab::{TokenKind, Vocab};
use super::{EncodeOptions, Encoder, MAX_TOKEN_BYTES, Tokenizer, bpe, spm};

/// The library's tokenizer.
pub(super) struct HfJson {
    /// Under a lock because whether special tokens are parsed is a setting of the tokenizer, not of a call.
    inner: Mutex<tokenizers::Tokenizer>,
    spelling: Spelling,
}

/// How tokens are spelled, which the file's decoder tells.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Spelling {
    /// Each byte as a visible character.
    ByteLevel,
    /// U+2581 for a space, `<0x00>` for a byte; whether decoding drops the first space.
    SentencePiece { space_prefix: bool },
}

impl Clone for HfJson {
    fn clone(&self) -> HfJson {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        HfJson { inner: Mutex::new(inner.clone()), spelling: self.spelling }
    }
}

impl fmt::Debug for HfJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HfJson").field("spelling", &self.spelling).finish_non_exhaustive()
    }
}

impl HfJson {
    /// See [`Tokenizer::encode`].
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, Error> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.set_encode_special_tokens(!options.parse_special);
        let encoding = guarded("encoding", || inner.encode_fast(text, options.add_special))?;
        Ok(encoding.get_ids().to_vec())
    }

    pub fn adds_space_prefix(&self) -> bool {
        self.spelling == Spelling::SentencePiece { space_prefix: true }
    }
}

/// See [`Tokenizer::from_hf_json`].
pub(super) fn load(json: &[u8]) -> Result<Tokenizer, Error> {
    let spelling = read_spelling(json)?;
    let inner = guarded("loading", || tokenizers::Tokenizer::from_bytes(json))?;
    let vocab = read_vocab(&inner, spelling)?;
    let special = SpecialTokens::new(&vocab, false);
    let hf_json = HfJson { inner: Mutex::new(inner), spelling };
    let added = hf_json.encode("", EncodeOptions { add_special: true, parse_special: false })?;
    let end_of_generation = end_of_generation(&special, [None; 3]);
    let is_end = |id: &u32| end_of_generation.binary_search(id).is_ok();
    let bos = added.first().copied().filter(|id| !is_end(id) || added.len() > 1);
    let eos = added.last().copied().filter(is_end);
    Ok(Tokenizer {
        encoder: Encoder::HfJson(hf_json),
        vocab,
        special,
        bos,
        eos: eos.or_else(|| end_of_generation.first().copied()),
        add_bos: bos.is_some(),
        add_eos: eos.is_some(),
        end_of_generation,
    })
}

/// The part of the file that this program reads by itself.
#[derive(Deserialize)]
struct Head {
    decoder: Option<Decoder>,
}

#[derive(Deserialize)]
struct Decoder {
    #[serde(rename = "type")]
    ty: String,
    #[serde(default)]
    decoders: Vec<Decoder>,
    add_prefix_space: Option<bool>,
    prepend_scheme: Option<String>,
}

impl Decoder {
    fn find(&self, ty: &str) -> Option<&Decoder> {
        if self.ty == ty { Some(self) } else { self.decoders.iter().find_map(|inner| inner.find(ty)) }
    }
}

fn read_spelling(json: &[u8]) -> Result<Spelling, Error> {
    let head: Head = serde_json::from_slice(json).map_err(failed)?;
    let Some(decoder) = head.decoder else { return Err(failed("no decoder")) };
    if decoder.find("ByteLevel").is_some() {
        return Ok(Spelling::ByteLevel);
    }
    if let Some(metaspace) = decoder.find("Metaspace") {
        let by_scheme = metaspace.prepend_scheme.as_deref().map(|scheme| scheme != "never");
        let space_prefix = by_scheme.or(metaspace.add_prefix_space).unwrap_or(true);
        return Ok(Spelling::SentencePiece { space_prefix });
    }
    if decoder.find("ByteFallback").is_some() {
        return Ok(Spelling::SentencePiece { space_prefix: decoder.find("Strip").is_some() });
    }
    Err(failed(format_args!(
        "decoder {:.40?}, expected ByteLevel, Metaspace or one with ByteFallback",
        decoder.ty
    )))
}

fn read_vocab(inner: &tokenizers::Tokenizer, spelling: Spelling) -> Result<Vocab, Error> {
    let texts = inner.get_vocab(true);
    let added = inner.get_added_tokens_decoder();
    let mut by_id: Vec<(u32, String)> = texts.into_iter().map(|(text, id)| (id, text)).collect();
    by_id.sort();
    let n_ids = by_id.last().map_or(0, |(id, _)| *id as usize + 1);
    // Ids may have gaps, but a file of a few bytes must not ask for gigabytes.
    if n_ids > 2 * by_id.len() + (1 << 16) {
        return Err(failed(format_args!("{} tokens with ids up to {}", by_id.len(), n_ids - 1)));
    }
    let mut vocab = Vocab::with_capacity(n_ids);
    for (id, text) in by_id {
        if text.len() > MAX_TOKEN_BYTES {
            return Err(failed(format_args!(
                "token {id} has {} bytes, allowed are {MAX_TOKEN_BYTES}",
                text.len()
            )));
        }
        while vocab.len() < id as usize {
            vocab.push(b"", TokenKind::Unused);
        }
        if vocab.len() > id as usize {
            continue; // a second spelling of this id
        }
        let is_byte = matches!(spelling, Spelling::SentencePiece { .. }) && spm::parse_byte(&text).is_some();
        let kind = match added.get(&id) {
            Some(token) if token.special => TokenKind::Control,
            Some(_) => TokenKind::UserDefined,
            None if is_byte => TokenKind::Byte,
            None => TokenKind::Normal,
        };
        let bytes = match spelling {
            Spelling::ByteLevel => bpe::token_bytes(&text, kind),
            Spelling::SentencePiece { .. } => spm::token_bytes(&text, kind),
        };
        vocab.push(&bytes, kind);
    }
    Ok(vocab)
}

/// Runs the library's `call`; its error and its panic are both an error.
fn guarded<T, E: Display>(what: &str, call: impl FnOnce() -> Result<T, E>) -> Result<T, Error> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(failed),
        Err(_) => Err(failed(format_args!("{what} failed inside of the tokenizers library"))),
    }
}

fn failed(reason: impl Display) -> Error {
    Error::HfJson(reason.to_string())
}

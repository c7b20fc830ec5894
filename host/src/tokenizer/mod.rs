//! Text to token ids and back, from a GGUF file alone or from a `tokenizer.json`; chat templates.
//!
//! Three encoders behind one type: byte-level BPE and SentencePiece, built from a GGUF's metadata, and the `tokenizers`
//! library for `tokenizer.json`.  A vocabulary is untrusted input: whatever it contains, loading it and using it returns
//! an error at worst, in time near-linear in the text.
//!
//! ```
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/models/stories260K.F32.gguf");
//! use oxwarp::gguf::{Gguf, MappedFile};
//! use oxwarp::tokenizer::{EncodeOptions, Tokenizer};
//!
//! let file = MappedFile::open(path)?;
//! let tokenizer = Tokenizer::from_gguf(&Gguf::parse(file.bytes())?)?;
//! let ids = tokenizer.encode("Once upon a time", EncodeOptions::PROMPT)?;
//! assert_eq!(ids, [1, 403, 407, 261, 378]); // BOS, then ` Once`, ` upon`, ` a`, ` time`
//! assert_eq!(tokenizer.decode(&ids)?, "<s> Once upon a time");
//! assert_eq!(tokenizer.decode_prompt(&ids)?, "Once upon a time");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bpe;
mod build;
mod chat;
mod error;
mod hf_json;
mod merge;
mod source;
mod special;
mod split;
mod spm;
mod stream;
pub mod template;
mod unicode;
mod vocab;

pub use chat::ChatPrompt;
pub use error::Error;
pub use source::Source;
pub use stream::{StreamDecoder, Utf8Stream};
pub use template::{ChatOptions, ChatTemplate, Message, TemplateError};
pub use vocab::TokenKind;

use bpe::Bpe;
use hf_json::HfJson;
use merge::Merger;
use special::{Fragment, SpecialTokens};
use spm::Spm;
use vocab::Vocab;

use crate::gguf::Gguf;

/// Bytes of the longest text that a token may have.
pub const MAX_TOKEN_BYTES: usize = 16 << 10;

/// Bytes of the longest text that is encoded: far beyond any context, and places in it fit 32 bits.
pub const MAX_TEXT_BYTES: usize = 1 << 30;

/// Turns text into token ids and back.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    encoder: Encoder,
    vocab: Vocab,
    special: SpecialTokens,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    /// Sorted.
    end_of_generation: Vec<u32>,
}

#[derive(Clone, Debug)]
enum Encoder {
    Bpe(Bpe),
    Spm(Spm),
    HfJson(HfJson),
}

/// How a text is to be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Put BOS before the text and EOS after it, where the model wants them.
    pub add_special: bool,
    /// Where the text of a control token stands, as `<|im_end|>`, take it for the token.  Only for text that the program
    /// made itself, such as a rendered chat template: a user could end the turn with it.
    pub parse_special: bool,
}

impl EncodeOptions {
    /// A user's text as the beginning of a completion.
    pub const PROMPT: EncodeOptions = EncodeOptions { add_special: true, parse_special: false };
    /// A rendered chat template, which writes BOS itself where it wants one.
    pub const CHAT: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };
    /// A user's text by itself.
    pub const TEXT: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
}

impl Tokenizer {
    /// The tokenizer that a GGUF file describes.
    ///
    /// # Errors
    /// Whatever is missing from the metadata, of a wrong type or in contradiction to the rest, by name.
    pub fn from_gguf(gguf: &Gguf<'_>) -> Result<Tokenizer, Error> {
        Tokenizer::from_source(&Source::from_gguf(gguf)?)
    }

    /// The tokenizer that `source` describes.
    ///
    /// # Errors
    /// As [`Tokenizer::from_gguf`].
    pub fn from_source(source: &Source<'_>) -> Result<Tokenizer, Error> {
        build::from_source(source)
    }

    /// The tokenizer of a `tokenizer.json` in Hugging Face's format.
    ///
    /// The file does not say which tokens begin and end a text; they are taken from what it adds to an empty text and from
    /// the well-known names of end-of-generation tokens.
    ///
    /// # Errors
    /// [`Error::HfJson`] if the `tokenizers` library refuses the file, or its decoder is neither byte-level nor
    /// SentencePiece's.
    pub fn from_hf_json(json: &[u8]) -> Result<Tokenizer, Error> {
        hf_json::load(json)
    }

    /// The token ids of `text`.
    ///
    /// # Errors
    /// [`Error::TextTooLong`]; [`Error::NoTokenFor`] where the vocabulary cannot express the text.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, Error> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(Error::TextTooLong { found: text.len(), allowed: MAX_TEXT_BYTES });
        }
        if let Encoder::HfJson(hf_json) = &self.encoder {
            return hf_json.encode(text, options);
        }
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        ids.extend(self.bos.filter(|_| options.add_special && self.add_bos));
        self.encode_fragments(&self.special.split(text, options.parse_special), text, &mut ids)?;
        ids.extend(self.eos.filter(|_| options.add_special && self.add_eos));
        Ok(ids)
    }

    /// Appends the ids of `fragments` of `text`.
    fn encode_fragments(
        &self,
        fragments: &[Fragment<'_>],
        text: &str,
        ids: &mut Vec<u32>,
    ) -> Result<(), Error> {
        let mut merger = Merger::default();
        let mut after_special = true;
        for &fragment in fragments {
            match fragment {
                Fragment::Token(id) => ids.push(id),
                Fragment::Text(part) => {
                    // Only errors name this place; a part that was copied has none.
                    let offset = part.as_ptr().addr().wrapping_sub(text.as_ptr().addr());
                    let offset = if offset < text.len() { offset } else { 0 };
                    match &self.encoder {
                        Encoder::Bpe(bpe) => bpe.encode(part, offset, &mut merger, ids)?,
                        Encoder::Spm(spm) => spm.encode(part, offset, after_special, &mut merger, ids)?,
                        Encoder::HfJson(hf_json) => ids.extend(hf_json.encode(part, EncodeOptions::TEXT)?),
                    }
                }
            }
            after_special = matches!(fragment, Fragment::Token(_));
        }
        Ok(())
    }

    /// The text of `ids`: the tokens' bytes joined, control tokens included, with U+FFFD for what is no UTF-8.
    ///
    /// # Errors
    /// [`Error::TokenId`] for an id outside of the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String, Error> {
        Ok(String::from_utf8_lossy(&self.decode_bytes(ids)?).into_owned())
    }

    /// The tokens' bytes, joined.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn decode_bytes(&self, ids: &[u32]) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        for &id in ids {
            bytes.extend_from_slice(self.token_bytes(id)?);
        }
        Ok(bytes)
    }

    /// The text that was encoded to `ids`: as [`Tokenizer::decode`], but without the BOS, the EOS and the space before the
    /// text that [`Tokenizer::encode`] adds.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn decode_prompt(&self, ids: &[u32]) -> Result<String, Error> {
        let mut ids = ids;
        if let Some(bos) = self.bos {
            ids = ids.strip_prefix(&[bos]).unwrap_or(ids);
        }
        if let Some(eos) = self.eos {
            ids = ids.strip_suffix(&[eos]).unwrap_or(ids);
        }
        let text = self.decode(ids)?;
        let first_is_text = ids.first().is_some_and(|&id| self.kind(id).is_ok_and(|kind| !kind.is_atomic()));
        match text.strip_prefix(' ') {
            Some(stripped) if first_is_text && self.adds_space_prefix() => Ok(stripped.to_owned()),
            _ => Ok(text),
        }
    }

    /// Turns generated ids into text one by one, never half a character.
    pub fn stream_decoder(&self) -> StreamDecoder<'_> {
        StreamDecoder::new(self)
    }

    /// The bytes that token `id` stands for; a control token's are its text.
    ///
    /// # Errors
    /// [`Error::TokenId`] for an id outside of the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Result<&[u8], Error> {
        self.vocab.bytes(id).ok_or(Error::TokenId { id, vocab_size: self.vocab.len() })
    }

    /// What token `id` is for.
    ///
    /// # Errors
    /// [`Error::TokenId`] for an id outside of the vocabulary.
    pub fn kind(&self, id: u32) -> Result<TokenKind, Error> {
        self.vocab.kind(id).ok_or(Error::TokenId { id, vocab_size: self.vocab.len() })
    }

    /// The control or user-defined token whose text this is, e.g. `<|im_end|>`.
    pub fn special_token(&self, text: &str) -> Option<u32> {
        self.special.find(text)
    }

    /// Whether generation ends with token `id`: end of text, of a turn or of a message.
    pub fn is_eog(&self, id: u32) -> bool {
        self.end_of_generation.binary_search(&id).is_ok()
    }

    /// The ids that [`Tokenizer::is_eog`] accepts, sorted.
    pub fn eog_ids(&self) -> &[u32] {
        &self.end_of_generation
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether [`EncodeOptions::add_special`] puts BOS before a text.
    pub fn adds_bos(&self) -> bool {
        self.add_bos && self.bos.is_some()
    }

    /// Whether [`EncodeOptions::add_special`] puts EOS after a text.
    pub fn adds_eos(&self) -> bool {
        self.add_eos && self.eos.is_some()
    }

    /// Number of tokens; every id is below.  A model may have more logits than that, for padding.
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    fn adds_space_prefix(&self) -> bool {
        match &self.encoder {
            Encoder::Bpe(_) => false,
            Encoder::Spm(spm) => spm.add_space_prefix,
            Encoder::HfJson(hf_json) => hf_json.adds_space_prefix(),
        }
    }
}

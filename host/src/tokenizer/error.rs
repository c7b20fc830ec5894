//! What can be wrong with a tokenizer's data or with a request to it.

use super::{MAX_TOKEN_BYTES, TemplateError};
use crate::gguf;

/// A refusal: which metadata key or which token, what was found, what is allowed.
///
/// Texts from the file are shown escaped and cut short, so that a hostile one cannot act on a terminal.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A key without which there is no tokenizer.
    #[error("{key} is missing{hint}")]
    Missing { key: &'static str, hint: &'static str },

    /// A key whose value is of another type than the format says.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),

    /// No prompt could be made of the messages.
    #[error(transparent)]
    Template(#[from] TemplateError),

    /// A vocabulary of no tokens or of more than ids can name.
    #[error("{key} has {found} entries, allowed are 1 to {allowed}")]
    VocabularySize { key: &'static str, found: usize, allowed: usize },

    /// Two arrays that must describe the same tokens.
    #[error("{key} has {found} entries for {expected} tokens")]
    LengthMismatch { key: &'static str, found: usize, expected: usize },

    /// A tokenizer model that this program does not implement.
    #[error("tokenizer.ggml.model is {found}, known are: gpt2 (byte-level BPE), llama (SentencePiece)")]
    UnknownModel { found: String },

    /// A pre-tokenizer that this program does not implement.
    #[error("tokenizer.ggml.pre is {found}, an unknown pre-tokenizer; known are: {known}")]
    UnknownPreTokenizer { found: String, known: String },

    /// A special token's id outside of the vocabulary.
    #[error("{key} is {found}, but the vocabulary has {vocab_size} tokens")]
    SpecialId { key: &'static str, found: u64, vocab_size: usize },

    /// `add_bos_token` or `add_eos_token` is on, and the file does not say which token that is.
    #[error("{key} is true, but {missing} is missing")]
    NothingToAdd { key: &'static str, missing: &'static str },

    /// A token's text is longer than any sane one.
    #[error("tokenizer.ggml.tokens[{id}] has {found} bytes, allowed are {MAX_TOKEN_BYTES}")]
    TokenTooLong { id: usize, found: usize },

    /// A number in `tokenizer.ggml.token_type` that stands for nothing.
    #[error("tokenizer.ggml.token_type[{id}] is {found}, allowed are 1 to 6")]
    TokenType { id: usize, found: i64 },

    /// A score that cannot be ordered.
    #[error("tokenizer.ggml.scores[{id}] is not a number")]
    Score { id: usize },

    /// A token of type BYTE that does not name a byte.
    #[error("tokenizer.ggml.tokens[{id}] is {found} and of type BYTE, expected <0x00> to <0xFF>")]
    ByteToken { id: usize, found: String },

    /// A merge that is not two parts with one space between them.
    #[error("tokenizer.ggml.merges[{index}] is {found}, expected two parts with one space between them")]
    MergeSyntax { index: usize, found: String },

    /// A merge of, or into, something that is no token.
    #[error("tokenizer.ggml.merges[{index}] is {found}, but {part} is not in the vocabulary")]
    MergeUnknown { index: usize, found: String, part: String },

    /// A text with something that the vocabulary cannot express.
    #[error(
        "the vocabulary has no token for byte {byte:#04x} at offset {offset} of the text and no unknown token"
    )]
    NoTokenFor { byte: u8, offset: usize },

    /// A text too long to be a prompt.
    #[error("the text has {found} bytes, allowed are {allowed}")]
    TextTooLong { found: usize, allowed: usize },

    /// A token id outside of the vocabulary.
    #[error("token id {id} is outside of the vocabulary of {vocab_size} tokens")]
    TokenId { id: u32, vocab_size: usize },

    /// The `tokenizers` library refused a tokenizer.json or failed on it.
    #[error("tokenizer.json: {0}")]
    HfJson(String),
}

/// `text` in quotes, made fit for a terminal.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN_CHARS: usize = 60;
    format!("`{}`", gguf::printable(text, SHOWN_CHARS))
}

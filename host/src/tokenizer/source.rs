//! What a GGUF file says about its tokenizer, as plain values.

use super::Error;
use crate::gguf::Gguf;

/// The `tokenizer.ggml.*` metadata, borrowed from the file and not yet checked beyond types.
///
/// [`Tokenizer::from_source`](super::Tokenizer::from_source) checks it and builds the tokenizer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Source<'a> {
    /// `tokenizer.ggml.model`: `gpt2` is byte-level BPE, `llama` is SentencePiece.
    pub model: &'a str,
    /// `tokenizer.ggml.pre`: how byte-level BPE splits a text.
    pub pre: Option<&'a str>,
    /// The tokens' spellings, by id.
    pub tokens: Vec<&'a str>,
    /// What each token is for: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub token_types: Option<Vec<i64>>,
    /// SentencePiece: which token is merged first.
    pub scores: Option<Vec<f32>>,
    /// Byte-level BPE: `"left right"`, the first is merged first.
    pub merges: Option<Vec<&'a str>>,
    /// Special tokens; 2³²−1 stands for none.
    pub bos: Option<u64>,
    pub eos: Option<u64>,
    /// End of a turn.
    pub eot: Option<u64>,
    /// End of a message.
    pub eom: Option<u64>,
    pub unknown: Option<u64>,
    pub padding: Option<u64>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    /// SentencePiece: whether a space is put before the text.
    pub add_space_prefix: Option<bool>,
    /// Whether white space after a control token belongs to it.
    pub strip_after_control: bool,
}

impl<'a> Source<'a> {
    /// Reads the metadata of `gguf`.
    ///
    /// # Errors
    /// [`Error::Gguf`] if model or tokens are missing, or a value has another type than the format says.
    pub fn from_gguf(gguf: &Gguf<'a>) -> Result<Source<'a>, Error> {
        let model = gguf.str("tokenizer.ggml.model")?;
        Ok(Source {
            model,
            pre: gguf.opt_str("tokenizer.ggml.pre")?,
            tokens: gguf.str_array(TOKENS)?.iter().collect(),
            token_types: gguf.opt_int_array(TOKEN_TYPE)?.map(|types| types.iter().collect()),
            scores: gguf.opt_f32_array(SCORES)?.map(|scores| scores.iter().collect()),
            merges: gguf.opt_str_array(MERGES)?.map(|merges| merges.iter().collect()),
            bos: gguf.opt_u64(BOS)?,
            eos: gguf.opt_u64(EOS)?,
            eot: gguf.opt_u64(EOT)?,
            eom: gguf.opt_u64(EOM)?,
            unknown: gguf.opt_u64(UNKNOWN)?,
            padding: gguf.opt_u64(PADDING)?,
            add_bos: gguf.opt_bool(ADD_BOS)?,
            add_eos: gguf.opt_bool(ADD_EOS)?,
            add_space_prefix: gguf.opt_bool("tokenizer.ggml.add_space_prefix")?,
            strip_after_control: strips_after_control(gguf, model)?,
        })
    }
}

/// GGUF files do not say that a control token takes the white space after it; the one published family whose tokens do
/// so is known by its architecture.
fn strips_after_control(gguf: &Gguf<'_>, model: &str) -> Result<bool, Error> {
    Ok(model == "llama" && gguf.opt_str("general.architecture")? == Some("phi3"))
}

pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(super) const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
pub(super) const SCORES: &str = "tokenizer.ggml.scores";
pub(super) const MERGES: &str = "tokenizer.ggml.merges";
pub(super) const BOS: &str = "tokenizer.ggml.bos_token_id";
pub(super) const EOS: &str = "tokenizer.ggml.eos_token_id";
pub(super) const EOT: &str = "tokenizer.ggml.eot_token_id";
pub(super) const EOM: &str = "tokenizer.ggml.eom_token_id";
pub(super) const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
pub(super) const PADDING: &str = "tokenizer.ggml.padding_token_id";
pub(super) const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
pub(super) const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";

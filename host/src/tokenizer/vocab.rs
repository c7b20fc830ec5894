//! The tokens: their bytes and kinds.

/// What a token is for, as `tokenizer.ggml.token_type` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A piece of text.
    Normal,
    /// Stands for what the vocabulary cannot express.
    Unknown,
    /// Structure, never text: BOS, EOS, turn markers.  Recognised in text only where the caller asks for it.
    Control,
    /// A piece of text that is recognised before everything else.
    UserDefined,
    /// A place without a meaning.
    Unused,
    /// One byte.
    Byte,
}

impl TokenKind {
    pub(super) fn from_ggml(number: i64) -> Option<TokenKind> {
        use TokenKind::*;
        let kinds = [Normal, Unknown, Control, UserDefined, Unused, Byte];
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        kinds.get(index).copied()
    }

    /// Whether its text is to be found in a text as a whole, before the text is split: always, or on request.
    pub(super) fn is_atomic(self) -> bool {
        matches!(self, TokenKind::Control | TokenKind::UserDefined | TokenKind::Unknown)
    }

    /// Whether it is recognised in a text only on request.
    pub(super) fn is_hidden(self) -> bool {
        matches!(self, TokenKind::Control | TokenKind::Unknown)
    }
}

/// Bytes and kind of each token, by id.
#[derive(Clone, Debug, Default)]
pub(super) struct Vocab {
    /// The tokens' bytes, one after the other.
    bytes: Vec<u8>,
    /// Where each token's bytes end.
    ends: Vec<usize>,
    kinds: Vec<TokenKind>,
}

impl Vocab {
    pub fn with_capacity(n_tokens: usize) -> Vocab {
        Vocab { bytes: Vec::new(), ends: Vec::with_capacity(n_tokens), kinds: Vec::with_capacity(n_tokens) }
    }

    /// Appends the token of the next id.
    pub fn push(&mut self, bytes: &[u8], kind: TokenKind) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len());
        self.kinds.push(kind);
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes that the token stands for.
    pub fn bytes(&self, id: u32) -> Option<&[u8]> {
        let index = usize::try_from(id).ok()?;
        let end = *self.ends.get(index)?;
        let begin = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.bytes[begin..end])
    }

    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(usize::try_from(id).ok()?).copied()
    }

    /// Ids, bytes and kinds, in the order of ids.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &[u8], TokenKind)> {
        let ids = 0..self.len() as u32;
        ids.filter_map(|id| Some((id, self.bytes(id)?, self.kind(id)?)))
    }
}

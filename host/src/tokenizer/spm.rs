//! SentencePiece's byte-pair encoding: the text's characters are merged, the token of the highest score first; what is no
//! token is spelled in bytes.
//!
//! SentencePiece writes a space as U+2581; here both are a space, in the tokens and in the text.

use std::collections::HashMap;

use super::error::{Error, quoted};
use super::merge::{Merged, Merger, NONE};
use super::vocab::{TokenKind, Vocab};

/// SentencePiece's sign for a space.
const VISIBLE_SPACE: char = '\u{2581}';

/// The encoder's tables.
#[derive(Clone, Debug)]
pub(super) struct Spm {
    /// Tokens that a text can be merged into, by their bytes: neither bytes nor control tokens.
    pieces: HashMap<Box<[u8]>, Merged>,
    /// Bytes of the longest of them.
    longest_piece: usize,
    /// The token of each byte.
    byte_tokens: [Option<u32>; 256],
    /// Stands for what cannot be expressed.
    unknown: Option<u32>,
    /// Whether a space is put before the text, and before a text after a special token.
    pub add_space_prefix: bool,
}

impl Spm {
    /// `scores`: one for each token, higher is better.  Of tokens with the same bytes the first counts.
    pub fn new(
        texts: &[&str],
        vocab: &Vocab,
        scores: &[f32],
        unknown: Option<u32>,
        add_space_prefix: bool,
    ) -> Result<Spm, Error> {
        let ranks = ranks(scores)?;
        let mut byte_tokens = [None; 256];
        let mut pieces = HashMap::with_capacity(vocab.len());
        let mut longest_piece = 0;
        for (((id, bytes, kind), &rank), &text) in vocab.iter().zip(&ranks).zip(texts) {
            match kind {
                TokenKind::Byte => {
                    let byte = parse_byte(text)
                        .ok_or_else(|| Error::ByteToken { id: id as usize, found: quoted(text) })?;
                    byte_tokens[usize::from(byte)].get_or_insert(id);
                }
                TokenKind::Control | TokenKind::Unknown => {}
                TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused => {
                    longest_piece = longest_piece.max(bytes.len());
                    pieces.entry(bytes.into()).or_insert(Merged { rank, id });
                }
            }
        }
        Ok(Spm { pieces, longest_piece, byte_tokens, unknown, add_space_prefix })
    }

    /// Appends the tokens of `text`, in which no special token is looked for.  `offset` is its place in the whole text.
    /// A byte without a token becomes the unknown token; without that one it is an error.
    pub fn encode(
        &self,
        text: &str,
        offset: usize,
        after_special: bool,
        merger: &mut Merger,
        ids: &mut Vec<u32>,
    ) -> Result<(), Error> {
        let prefix = if after_special && self.add_space_prefix { " " } else { "" };
        let text = format!("{prefix}{}", with_plain_spaces(text));
        merger.clear();
        for (at, c) in text.char_indices() {
            let end = at + c.len_utf8();
            let id = self.piece(&text[at..end]).map_or(NONE, |piece| piece.id);
            merger.push(id, at, end);
        }
        merger.run(|left, right| {
            let (begin, end) = (left.begin as usize, right.end as usize);
            // Longer texts are no tokens; to hash them would cost more than linear time.
            if end - begin > self.longest_piece { None } else { self.piece(&text[begin..end]) }
        });
        for symbol in merger.symbols() {
            if symbol.id != NONE {
                ids.push(symbol.id);
                continue;
            }
            let spelled = &text.as_bytes()[symbol.begin as usize..symbol.end as usize];
            let tokens = spelled.iter().map(|&byte| self.byte_tokens[usize::from(byte)].ok_or(byte));
            match (tokens.collect::<Result<Vec<u32>, u8>>(), self.unknown) {
                (Ok(tokens), _) => ids.extend(tokens),
                (Err(_), Some(unknown)) => ids.push(unknown),
                (Err(byte), None) => {
                    let at = (symbol.begin as usize).saturating_sub(prefix.len());
                    return Err(Error::NoTokenFor { byte, offset: offset + at });
                }
            }
        }
        Ok(())
    }

    fn piece(&self, text: &str) -> Option<Merged> {
        self.pieces.get(text.as_bytes()).copied()
    }
}

/// Ranks by score, the highest score first; equal scores have one rank.
fn ranks(scores: &[f32]) -> Result<Vec<u32>, Error> {
    if let Some(id) = scores.iter().position(|score| score.is_nan()) {
        return Err(Error::Score { id });
    }
    let mut best_first: Vec<usize> = (0..scores.len()).collect();
    best_first.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let mut ranks = vec![0; scores.len()];
    for neighbours in best_first.windows(2) {
        let (better, worse) = (neighbours[0], neighbours[1]);
        ranks[worse] = ranks[better] + u32::from(scores[worse] != scores[better]);
    }
    Ok(ranks)
}

/// The byte that `<0x00>` to `<0xFF>` names.
pub(super) fn parse_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_hex = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_hex.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// The bytes that a token of this spelling stands for.
pub(super) fn token_bytes(text: &str, kind: TokenKind) -> Vec<u8> {
    match (kind, parse_byte(text)) {
        (TokenKind::Byte, Some(byte)) => vec![byte],
        (TokenKind::Control | TokenKind::Unknown, _) => text.as_bytes().to_vec(),
        _ => with_plain_spaces(text).into_bytes(),
    }
}

fn with_plain_spaces(text: &str) -> String {
    text.replace(VISIBLE_SPACE, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_tokens_are_two_hexadecimal_digits() {
        assert_eq!(["<0x00>", "<0xfF>", "<0x7a>"].map(parse_byte), [Some(0), Some(255), Some(0x7a)]);
        for bad in ["<0x-1>", "<0xZZ>", "<0x+1>", "<0x1>", "<0x001>", "<0x00", "0x00>", "", "<0x>", "<0xé>"]
        {
            assert_eq!(parse_byte(bad), None, "{bad}");
        }
    }

    #[test]
    fn equal_scores_share_a_rank() {
        assert_eq!(ranks(&[-1.0, 0.0, -1.0, -5.0]), Ok(vec![1, 0, 1, 2]));
        assert_eq!(ranks(&[0.0, -0.0]), Ok(vec![0, 0]));
        assert_eq!(ranks(&[f32::NEG_INFINITY, f32::INFINITY]), Ok(vec![1, 0]));
        assert_eq!(ranks(&[0.0, f32::NAN]), Err(Error::Score { id: 1 }));
        assert_eq!(ranks(&[]), Ok(vec![]));
    }
}

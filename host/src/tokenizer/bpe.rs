//! Byte-level byte-pair encoding, as GPT-2 introduced it: a text is split into pieces, a piece into bytes, and the
//! neighbours that stand first in the list of merges are joined first.

use std::collections::HashMap;

use super::error::{Error, quoted};
use super::merge::{Merged, Merger};
use super::split::PreTokenizer;
use super::vocab::{TokenKind, Vocab};

/// The encoder's tables.
#[derive(Clone, Debug)]
pub(super) struct Bpe {
    pre: PreTokenizer,
    /// The token of each byte.
    byte_tokens: [Option<u32>; 256],
    /// What two tokens become.  The rank is the merge's place in the file.
    merges: HashMap<(u32, u32), Merged>,
    /// Tokens by their bytes, where the pre-tokenizer looks for whole pieces.
    whole_pieces: HashMap<Box<[u8]>, u32>,
}

impl Bpe {
    /// `texts`: the tokens as the file spells them, each byte as a visible character; `merges`: `"left right"` in the
    /// same spelling.  Of tokens with one spelling the first counts, and of equal merges too.
    pub fn new(pre: PreTokenizer, texts: &[&str], vocab: &Vocab, merges: &[&str]) -> Result<Bpe, Error> {
        let mut ids = HashMap::with_capacity(texts.len());
        for (id, &text) in (0..).zip(texts) {
            ids.entry(text).or_insert(id);
        }
        let mut bpe = Bpe {
            pre,
            byte_tokens: std::array::from_fn(|byte| {
                let mut buffer = [0; 4];
                ids.get(&*byte_char(byte as u8).encode_utf8(&mut buffer)).copied()
            }),
            merges: HashMap::with_capacity(merges.len()),
            whole_pieces: HashMap::new(),
        };
        bpe.read_merges(&ids, merges)?;
        if pre.ignore_merges {
            for (id, bytes, kind) in vocab.iter() {
                if !kind.is_hidden() {
                    bpe.whole_pieces.entry(bytes.into()).or_insert(id);
                }
            }
        }
        Ok(bpe)
    }

    fn read_merges(&mut self, ids: &HashMap<&str, u32>, merges: &[&str]) -> Result<(), Error> {
        for (index, &merge) in merges.iter().enumerate() {
            let syntax = || Error::MergeSyntax { index, found: quoted(merge) };
            let (left, right) = merge.split_once(' ').ok_or_else(syntax)?;
            if left.is_empty() || right.is_empty() || right.contains(' ') {
                return Err(syntax());
            }
            let joined = format!("{left}{right}");
            let [left, right, id] =
                match [left, right, &joined].map(|part| ids.get(part).copied().ok_or(part)) {
                    [Ok(left), Ok(right), Ok(id)] => [left, right, id],
                    // A vocabulary of single characters has nothing to merge, but some readers insist on one merge.
                    [Err(_), Err(_), Err(_)] if merges.len() == 1 => return Ok(()),
                    parts => {
                        let part = parts.iter().find_map(|part| part.err()).map_or_else(String::new, quoted);
                        return Err(Error::MergeUnknown { index, found: quoted(merge), part });
                    }
                };
            let rank = u32::try_from(index).expect("the caller limits the number of merges");
            self.merges.entry((left, right)).or_insert(Merged { rank, id });
        }
        Ok(())
    }

    /// Appends the tokens of `text`, in which no special token is looked for.  `offset` is its place in the whole text.
    pub fn encode(
        &self,
        text: &str,
        offset: usize,
        merger: &mut Merger,
        ids: &mut Vec<u32>,
    ) -> Result<(), Error> {
        let mut piece_offset = offset;
        for piece in self.pre.split(text) {
            if let Some(&id) = self.whole_pieces.get(piece.as_bytes()) {
                ids.push(id);
            } else {
                merger.clear();
                for (at, byte) in piece.bytes().enumerate() {
                    let id = self.byte_tokens[usize::from(byte)];
                    let id = id.ok_or(Error::NoTokenFor { byte, offset: piece_offset + at })?;
                    merger.push(id, at, at + 1);
                }
                merger.run(|left, right| self.merges.get(&(left.id, right.id)).copied());
                ids.extend(merger.symbols().map(|symbol| symbol.id));
            }
            piece_offset += piece.len();
        }
        Ok(())
    }
}

/// The visible character that stands for `byte` in the spelling of tokens: the byte's own where Latin-1 has a visible
/// one, else the next free one from U+0100 on.
pub(super) fn byte_char(byte: u8) -> char {
    let code = match byte {
        0..=0x20 => 0x100 + u32::from(byte),
        0x7f..=0xa0 => 0x121 + u32::from(byte - 0x7f),
        0xad => 0x143,
        visible => u32::from(visible),
    };
    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The inverse of [`byte_char`].
pub(super) fn char_byte(c: char) -> Option<u8> {
    let code = u32::from(c);
    let byte = match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// The bytes that a token of this spelling stands for.  One that is not in the alphabet of visible bytes stands for itself.
pub(super) fn token_bytes(text: &str, kind: TokenKind) -> Vec<u8> {
    let spelled = match kind {
        TokenKind::Normal | TokenKind::Byte | TokenKind::Unused => text.chars().map(char_byte).collect(),
        TokenKind::Control | TokenKind::UserDefined | TokenKind::Unknown => None,
    };
    spelled.unwrap_or_else(|| text.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_of_bytes_is_one_to_one() {
        for byte in 0..=255 {
            assert_eq!(char_byte(byte_char(byte)), Some(byte));
        }
        assert_eq!((byte_char(b' '), byte_char(b'\n'), byte_char(0xad)), ('Ġ', 'Ċ', 'Ń'));
        assert_eq!([char_byte(' '), char_byte('\u{ad}'), char_byte('ń')], [None; 3]);
    }
}

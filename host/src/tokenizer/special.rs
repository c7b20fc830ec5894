//! Tokens that are found in a text as a whole, before it is split and merged: turn markers and the like.

use super::vocab::{TokenKind, Vocab};

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fragment<'t> {
    /// Bytes to encode, never empty.
    Text(&'t str),
    Token(u32),
}

/// Finds control and user-defined tokens in a text: the leftmost, and of those the longest.
#[derive(Clone, Debug)]
pub(super) struct SpecialTokens {
    /// Sorted by their bytes, so that the tokens with a common beginning are neighbours.
    sorted: Vec<Special>,
    /// Whether any begins with this byte.
    first_bytes: [bool; 256],
    /// Whether white space after a control token belongs to it.
    strip_after: bool,
}

#[derive(Clone, Debug)]
struct Special {
    bytes: Box<[u8]>,
    id: u32,
    kind: TokenKind,
}

impl SpecialTokens {
    /// The special tokens of `vocab`.  Of tokens with the same bytes the first counts.
    pub fn new(vocab: &Vocab, strip_after: bool) -> SpecialTokens {
        let mut sorted: Vec<Special> = vocab
            .iter()
            .filter(|&(_, bytes, kind)| kind.is_atomic() && !bytes.is_empty())
            // A match must begin and end at a character's border.
            .filter(|(_, bytes, _)| std::str::from_utf8(bytes).is_ok())
            .map(|(id, bytes, kind)| Special { bytes: bytes.into(), id, kind })
            .collect();
        sorted.sort_by(|a, b| a.bytes.cmp(&b.bytes));
        sorted.dedup_by(|later, first| later.bytes == first.bytes);
        let mut first_bytes = [false; 256];
        for special in &sorted {
            first_bytes[usize::from(special.bytes[0])] = true;
        }
        SpecialTokens { sorted, first_bytes, strip_after }
    }

    /// The special token of exactly this text.
    pub fn find(&self, text: &str) -> Option<u32> {
        let at = self.sorted.binary_search_by(|special| (*special.bytes).cmp(text.as_bytes())).ok()?;
        Some(self.sorted[at].id)
    }

    /// Cuts `text` at its special tokens: at user-defined ones always, at control tokens if `parse_special`.
    pub fn split<'t>(&self, text: &'t str, parse_special: bool) -> Vec<Fragment<'t>> {
        let mut fragments = Vec::new();
        let (mut begin, mut at) = (0, 0);
        while at < text.len() {
            let Some(special) = self.longest_at(&text.as_bytes()[at..], parse_special) else {
                at += 1;
                continue;
            };
            if begin < at {
                fragments.push(Fragment::Text(&text[begin..at]));
            }
            fragments.push(Fragment::Token(special.id));
            at += special.bytes.len();
            if self.strip_after && special.kind == TokenKind::Control {
                at = text.len() - text[at..].trim_start().len();
            }
            begin = at;
        }
        if begin < text.len() {
            fragments.push(Fragment::Text(&text[begin..]));
        }
        fragments
    }

    /// The longest special token at the beginning of `tail`.
    fn longest_at(&self, tail: &[u8], parse_special: bool) -> Option<&Special> {
        if !self.first_bytes[usize::from(*tail.first()?)] {
            return None;
        }
        let mut longest = None;
        let mut candidates = &self.sorted[..];
        for (depth, &byte) in tail.iter().enumerate() {
            // Those of `depth` bytes come first and are no candidates any more.
            let next = |special: &Special| special.bytes.get(depth).copied();
            let first = candidates.partition_point(|special| next(special) < Some(byte));
            let last = candidates.partition_point(|special| next(special) <= Some(byte));
            candidates = &candidates[first..last];
            let Some(shortest) = candidates.first() else { break };
            if shortest.bytes.len() == depth + 1 && (parse_special || !shortest.kind.is_hidden()) {
                longest = Some(shortest);
            }
        }
        longest
    }

    /// Whether the text of a control token stands anywhere in `text`.
    pub fn has_control(&self, text: &str) -> bool {
        (0..text.len()).any(|at| {
            self.longest_at(&text.as_bytes()[at..], true).is_some_and(|token| token.kind.is_hidden())
        })
    }

    /// `text` with `mark` put after the first character of each control token's text, which is then no token any more.
    pub fn disarm(&self, text: &str, mark: char) -> String {
        let mut disarmed = String::with_capacity(text.len());
        let mut skip_to = 0;
        for (at, c) in text.char_indices() {
            disarmed.push(c);
            if at < skip_to {
                continue;
            }
            match self.longest_at(&text.as_bytes()[at..], true) {
                Some(special) if special.kind.is_hidden() => disarmed.push(mark),
                Some(special) => skip_to = at + special.bytes.len(),
                None => {}
            }
        }
        disarmed
    }
}

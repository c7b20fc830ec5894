//! Character classes of the pre-tokenizers, from the Unicode tables of `regex-syntax`.

use std::sync::LazyLock;

use regex_syntax::hir::{Class as HirClass, HirKind};

/// What the pre-tokenizers tell apart.  The classes are disjoint and cover all characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// `\p{Lu}` and `\p{Lt}`.
    Upper,
    /// `\p{Ll}`.
    Lower,
    /// `\p{Lm}` and `\p{Lo}`: letters without case, e.g. CJK.
    Uncased,
    /// `\p{M}`: combining marks.
    Mark,
    /// `\p{N}`.
    Number,
    /// `[\r\n]`.
    Newline,
    /// The rest of `\s`.
    Space,
    /// Everything else: punctuation, symbols, controls, unassigned.
    Other,
}

impl Class {
    /// The class of `c`.
    pub fn of(c: char) -> Class {
        match c {
            'a'..='z' => Class::Lower,
            'A'..='Z' => Class::Upper,
            '0'..='9' => Class::Number,
            '\r' | '\n' => Class::Newline,
            '\t' | '\x0b' | '\x0c' | ' ' => Class::Space,
            '\0'..='\x7f' => Class::Other,
            _ => lookup(c),
        }
    }

    /// `\p{L}`.
    pub fn is_letter(self) -> bool {
        matches!(self, Class::Upper | Class::Lower | Class::Uncased)
    }

    /// `\s`.
    pub fn is_space(self) -> bool {
        matches!(self, Class::Space | Class::Newline)
    }

    /// `[^\s\p{L}\p{N}]`.
    pub fn is_symbol(self) -> bool {
        matches!(self, Class::Other | Class::Mark)
    }
}

/// Characters `first..=last` are of class `class`.
struct Range {
    first: char,
    last: char,
    class: Class,
}

/// Sorted and disjoint; a character in none of them is [`Class::Other`].
static RANGES: LazyLock<Vec<Range>> = LazyLock::new(|| {
    let patterns = [
        (r"[\p{Lu}\p{Lt}]", Class::Upper),
        (r"\p{Ll}", Class::Lower),
        (r"[\p{Lm}\p{Lo}]", Class::Uncased),
        (r"\p{M}", Class::Mark),
        (r"\p{N}", Class::Number),
        (r"[\r\n]", Class::Newline),
        (r"[\s&&[^\r\n]]", Class::Space),
    ];
    let mut ranges: Vec<Range> = patterns
        .into_iter()
        .flat_map(|(pattern, class)| {
            members(pattern).into_iter().map(move |(first, last)| Range { first, last, class })
        })
        .collect();
    ranges.sort_by_key(|range| range.first);
    ranges
});

/// The ranges of characters that a regex of one character class matches.
fn members(pattern: &str) -> Vec<(char, char)> {
    let hir = regex_syntax::parse(pattern).expect("a constant pattern");
    match hir.kind() {
        HirKind::Class(HirClass::Unicode(class)) => {
            class.ranges().iter().map(|range| (range.start(), range.end())).collect()
        }
        other => unreachable!("{pattern} is a class of characters, not {other:?}"),
    }
}

fn lookup(c: char) -> Class {
    let ranges = &*RANGES;
    let after = ranges.partition_point(|range| range.first <= c);
    match after.checked_sub(1).map(|at| &ranges[at]) {
        Some(range) if c <= range.last => range.class,
        _ => Class::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_agree_with_a_regex_engine_on_every_character() {
        let groups = [
            (r"^[\p{Lu}\p{Lt}]$", Class::Upper),
            (r"^\p{Ll}$", Class::Lower),
            (r"^[\p{Lm}\p{Lo}]$", Class::Uncased),
            (r"^\p{M}$", Class::Mark),
            (r"^\p{N}$", Class::Number),
            (r"^[\r\n]$", Class::Newline),
            (r"^\s$", Class::Space),
        ]
        .map(|(pattern, class)| (fancy_regex::Regex::new(pattern).expect("valid"), class));
        let mut buffer = [0; 4];
        for c in '\0'..=char::MAX {
            let text: &str = c.encode_utf8(&mut buffer);
            let expected = groups
                .iter()
                .find(|(regex, _)| regex.is_match(text).expect("no back-tracking"))
                .map_or(Class::Other, |&(_, class)| class);
            assert_eq!(Class::of(c), expected, "U+{:04X}", u32::from(c));
        }
    }
}

//! Pre-tokenizers: the regular expressions that cut a text into pieces before byte-pair merging, written by hand.
//!
//! A regex engine with look-ahead needs back-tracking and a limit on it; these scanners look at each character a bounded
//! number of times and use no stack, whatever the text.  The expressions stand beside the scanners, and the tests compare
//! the two on random text.

use super::error::{Error, quoted};
use super::unicode::Class;

/// What `tokenizer.ggml.pre` selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PreTokenizer {
    rules: Rules,
    /// A piece that is a token as a whole is that token, whatever the merges say.
    pub ignore_merges: bool,
    /// Whether a text begins with BOS when the file does not say.
    pub add_bos: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rules {
    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    Gpt2,
    /// First every `\p{N}` is cut out by itself, then what lies between is split as by [`Rules::Gpt2`].
    Gpt2Digits,
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,MAX_DIGITS}| ?[^\s\p{L}\p{N}]+[\r\n]*|`
    /// `\s*[\r\n]+|\s+(?!\S)|\s+`
    Cl100k { max_digits: usize },
    /// With `UPPER` = `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`, `LOWER` = `[\p{Ll}\p{Lm}\p{Lo}\p{M}]` and `SUFFIX` =
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)?` or nothing:
    /// `[^\r\n\p{L}\p{N}]?UPPER*LOWER+SUFFIX|[^\r\n\p{L}\p{N}]?UPPER+LOWER*SUFFIX|\p{N}{1,MAX_DIGITS}|`
    /// ` ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    O200k { max_digits: usize, contractions: bool },
}

const GPT2: PreTokenizer = PreTokenizer { rules: Rules::Gpt2, ignore_merges: false, add_bos: false };
const GPT2_DIGITS: PreTokenizer = PreTokenizer { rules: Rules::Gpt2Digits, ..GPT2 };
const CL100K: PreTokenizer = PreTokenizer { rules: Rules::Cl100k { max_digits: 3 }, ..GPT2 };
const LLAMA3: PreTokenizer = PreTokenizer { ignore_merges: true, add_bos: true, ..CL100K };
const QWEN2: PreTokenizer = PreTokenizer { rules: Rules::Cl100k { max_digits: 1 }, ..GPT2 };
const GPT4O: PreTokenizer =
    PreTokenizer { rules: Rules::O200k { max_digits: 3, contractions: true }, ..GPT2 };
const TEKKEN: PreTokenizer = PreTokenizer {
    rules: Rules::O200k { max_digits: 1, contractions: false },
    ignore_merges: true,
    add_bos: true,
};

/// Names that files use, by the rules they mean.
const KNOWN: [(PreTokenizer, &str); 7] = [
    (
        GPT2,
        "gpt-2 phi-2 jina-es jina-de jina-v2-es jina-v2-de gigachat a.x-4.0 mellum modern-bert mpt olmo jais trillion \
         granite-docling exaone4",
    ),
    (GPT2_DIGITS, "smollm starcoder refact command-r codeshell exaone minerva-7b"),
    (LLAMA3, "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano"),
    (CL100K, "dbrx smaug-bpe glm4 chatglm-bpe"),
    (QWEN2, "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan grok-2"),
    (GPT4O, "gpt-4o llama4 kanana2 talkie minimax-m2"),
    (TEKKEN, "tekken"),
];

impl PreTokenizer {
    /// The pre-tokenizer that files call `name`.
    pub fn named(name: &str) -> Result<PreTokenizer, Error> {
        let known = KNOWN.iter().find(|(_, names)| names.split(' ').any(|known| known == name));
        known.map(|&(pre, _)| pre).ok_or_else(|| Error::UnknownPreTokenizer {
            found: quoted(name),
            known: PreTokenizer::known_names(),
        })
    }

    /// Every name that [`PreTokenizer::named`] knows.
    pub fn known_names() -> String {
        KNOWN.map(|(_, names)| names.replace(' ', ", ")).join(", ")
    }

    /// The pieces of `text`, in order; together they are the text.
    pub fn split<'t>(&self, text: &'t str) -> Pieces<'t> {
        Pieces { rules: self.rules, text, begin: 0, segment_end: 0 }
    }
}

/// Iterator over the pieces of a text; none is empty.
pub(super) struct Pieces<'t> {
    rules: Rules,
    text: &'t str,
    begin: usize,
    /// [`Rules::Gpt2Digits`]: where the segment without numbers ends that `begin` lies in.
    segment_end: usize,
}

impl<'t> Iterator for Pieces<'t> {
    type Item = &'t str;

    fn next(&mut self) -> Option<&'t str> {
        let (text, begin) = (self.text, self.begin);
        let class = class_at(text, begin)?;
        self.begin = match self.rules {
            Rules::Gpt2 => gpt2(text, begin),
            Rules::Gpt2Digits if class == Class::Number => skip(text, begin),
            Rules::Gpt2Digits => {
                if begin >= self.segment_end {
                    self.segment_end = run(text, begin, |class| class != Class::Number);
                }
                gpt2(&text[..self.segment_end], begin)
            }
            Rules::Cl100k { max_digits } => cl100k(text, begin, max_digits),
            Rules::O200k { max_digits, contractions } => o200k(text, begin, max_digits, contractions),
        };
        Some(&text[begin..self.begin])
    }
}

/// End of the piece that begins at `begin`, which is inside of `text`.
fn gpt2(text: &str, begin: usize) -> usize {
    if let Some(end) = contraction(text, begin, Case::Sensitive) {
        return end;
    }
    let word = after_space(text, begin);
    match class_at(text, word) {
        Some(class) if class.is_letter() => run(text, word, Class::is_letter),
        Some(Class::Number) => run(text, word, |class| class == Class::Number),
        Some(class) if class.is_symbol() => run(text, word, Class::is_symbol),
        _ => blanks(text, begin),
    }
}

/// See [`gpt2`].
fn cl100k(text: &str, begin: usize, max_digits: usize) -> usize {
    if let Some(end) = contraction(text, begin, Case::Insensitive) {
        return end;
    }
    let word = after_prefix(text, begin).unwrap_or(begin);
    if class_at(text, word).is_some_and(Class::is_letter) {
        return run(text, word, Class::is_letter);
    }
    number(text, begin, max_digits)
        .or_else(|| symbols(text, begin, |c| matches!(c, '\r' | '\n')))
        .unwrap_or_else(|| newlines(text, begin))
}

/// See [`gpt2`].
fn o200k(text: &str, begin: usize, max_digits: usize, contractions: bool) -> usize {
    let starts = [after_prefix(text, begin), Some(begin)];
    let word = starts.iter().flatten().find_map(|&word| lower_word(text, word));
    let word = word.or_else(|| starts.iter().flatten().find_map(|&word| upper_word(text, word)));
    if let Some(end) = word {
        let suffix = if contractions { contraction(text, end, Case::Insensitive) } else { None };
        return suffix.unwrap_or(end);
    }
    number(text, begin, max_digits)
        .or_else(|| symbols(text, begin, |c| matches!(c, '\r' | '\n' | '/')))
        .unwrap_or_else(|| newlines(text, begin))
}

/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
fn is_upper(class: Class) -> bool {
    matches!(class, Class::Upper | Class::Uncased | Class::Mark)
}

/// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
fn is_lower(class: Class) -> bool {
    matches!(class, Class::Lower | Class::Uncased | Class::Mark)
}

/// `UPPER*LOWER+` at `begin`.
fn lower_word(text: &str, begin: usize) -> Option<usize> {
    let upper_end = run(text, begin, is_upper);
    if class_at(text, upper_end) == Some(Class::Lower) {
        return Some(run(text, upper_end, is_lower));
    }
    // The greedy UPPER* has to give back: LOWER+ begins, and ends, with the last character that is of both kinds.
    let (at, c) = text[begin..upper_end].char_indices().rev().find(|&(_, c)| Class::of(c) != Class::Upper)?;
    Some(begin + at + c.len_utf8())
}

/// `UPPER+LOWER*` at `begin`.
fn upper_word(text: &str, begin: usize) -> Option<usize> {
    let upper_end = run(text, begin, is_upper);
    (upper_end > begin).then(|| run(text, upper_end, is_lower))
}

#[derive(Clone, Copy, PartialEq)]
enum Case {
    Sensitive,
    Insensitive,
}

/// `'s|'t|'re|'ve|'m|'ll|'d` at `begin`.
fn contraction(text: &str, begin: usize, case: Case) -> Option<usize> {
    let tail = text[begin..].strip_prefix('\'')?;
    let mut letters = tail.chars().map(|c| match c {
        // The long s folds to s.
        'A'..='Z' | 'ſ' if case == Case::Insensitive => {
            c.to_uppercase().next().unwrap_or(c).to_ascii_lowercase()
        }
        _ => c,
    });
    let n_letters = match (letters.next()?, letters.next()) {
        ('s' | 't' | 'm' | 'd', _) => 1,
        ('r' | 'v', Some('e')) | ('l', Some('l')) => 2,
        _ => return None,
    };
    let matched: usize = tail.chars().take(n_letters).map(char::len_utf8).sum();
    Some(begin + 1 + matched)
}

/// `\p{N}{1,max_digits}` at `begin`.
fn number(text: &str, begin: usize, max_digits: usize) -> Option<usize> {
    let digits = text[begin..].chars().take(max_digits).take_while(|&c| Class::of(c) == Class::Number);
    let n_bytes: usize = digits.map(char::len_utf8).sum();
    (n_bytes > 0).then_some(begin + n_bytes)
}

/// ` ?[^\s\p{L}\p{N}]+TAIL*` at `begin`.
fn symbols(text: &str, begin: usize, tail: impl Fn(char) -> bool) -> Option<usize> {
    let first = after_space(text, begin);
    let end = run(text, first, Class::is_symbol);
    let rest = &text[end..];
    (end > first).then(|| text.len() - rest.trim_start_matches(tail).len())
}

/// `\s*[\r\n]+|\s+(?!\S)|\s+` at `begin`, where `\s` is.
fn newlines(text: &str, begin: usize) -> usize {
    let end = run(text, begin, Class::is_space);
    match text[begin..end].rfind(['\r', '\n']) {
        Some(last) => begin + last + 1,
        None => blanks(text, begin),
    }
}

/// `\s+(?!\S)|\s+` at `begin`, where `\s` is: a blank before a word is left to the word.
fn blanks(text: &str, begin: usize) -> usize {
    let end = run(text, begin, Class::is_space);
    let last = text[begin..end].char_indices().next_back().map_or(0, |(at, _)| at);
    if end < text.len() && last > 0 { begin + last } else { end }
}

/// ` ?` at `begin`.
fn after_space(text: &str, begin: usize) -> usize {
    begin + usize::from(text[begin..].starts_with(' '))
}

/// `[^\r\n\p{L}\p{N}]` at `begin`.
fn after_prefix(text: &str, begin: usize) -> Option<usize> {
    let class = class_at(text, begin)?;
    (class.is_symbol() || class == Class::Space).then(|| skip(text, begin))
}

/// End of the longest run from `begin` of characters whose class `belongs`.
fn run(text: &str, begin: usize, belongs: impl Fn(Class) -> bool) -> usize {
    let tail = &text[begin..];
    text.len() - tail.trim_start_matches(|c| belongs(Class::of(c))).len()
}

fn class_at(text: &str, at: usize) -> Option<Class> {
    text[at..].chars().next().map(Class::of)
}

/// The place after the character at `at`.
fn skip(text: &str, at: usize) -> usize {
    at + text[at..].chars().next().map_or(0, char::len_utf8)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    const GPT2_REGEX: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

    /// The published regular expression of a name; the splits are its matches.
    fn regex(name: &str) -> fancy_regex::Regex {
        let contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
        let cl100k = |digits: &str| {
            format!(
                r"{contractions}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            )
        };
        let o200k = |suffix: &str, digits: &str| {
            let prefix = r"[^\r\n\p{L}\p{N}]?";
            let (upper, lower) = (r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]");
            format!(
                r"{prefix}{upper}*{lower}+{suffix}|{prefix}{upper}+{lower}*{suffix}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            )
        };
        let pattern = match name {
            "gpt-2" => GPT2_REGEX.to_owned(),
            "llama-bpe" => cl100k(r"\p{N}{1,3}"),
            "qwen2" => cl100k(r"\p{N}"),
            "gpt-4o" => o200k(&format!("{contractions}?"), r"\p{N}{1,3}"),
            "tekken" => o200k("", r"\p{N}"),
            other => panic!("{other} is no single expression"),
        };
        fancy_regex::Regex::new(&pattern).expect("valid")
    }

    fn split_by_regex<'t>(regex: &fancy_regex::Regex, text: &'t str) -> Vec<&'t str> {
        regex.find_iter(text).map(|found| found.expect("within limits").as_str()).collect()
    }

    fn split<'t>(name: &str, text: &'t str) -> Vec<&'t str> {
        PreTokenizer::named(name).expect("known").split(text).collect()
    }

    /// Texts of few characters, so that classes alternate and rare rules meet.
    fn text() -> impl Strategy<Value = String> {
        let characters = vec![
            'a',
            'b',
            's',
            't',
            'r',
            'e',
            'v',
            'm',
            'l',
            'd',
            'S',
            'L',
            'E',
            'A',
            'Z',
            'ſ',
            'ß',
            'É',
            'ǅ',
            'ʰ',
            '日',
            'ا',
            'ก',
            '\u{301}',
            '\u{0e31}',
            '\'',
            '\'',
            '0',
            '7',
            '٣',
            '½',
            'Ⅷ',
            ' ',
            ' ',
            ' ',
            '\t',
            '\n',
            '\n',
            '\r',
            '\u{a0}',
            '\u{85}',
            '\u{3000}',
            '\u{2028}',
            '.',
            '!',
            '/',
            '-',
            '_',
            '🙂',
            '\u{200d}',
            '\u{feff}',
            '\0',
            '\u{10ffff}',
        ];
        let chosen = proptest::collection::vec(proptest::sample::select(characters), 0..40);
        prop_oneof![
            4 => chosen.prop_map(String::from_iter),
            1 => proptest::collection::vec(any::<char>(), 0..20).prop_map(String::from_iter),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn pieces_are_those_of_the_published_expressions(text in text()) {
            static REGEXES: LazyLock<[(&str, fancy_regex::Regex); 5]> =
                LazyLock::new(|| ["gpt-2", "llama-bpe", "qwen2", "gpt-4o", "tekken"].map(|name| (name, regex(name))));
            for (name, regex) in &*REGEXES {
                prop_assert_eq!(split(name, &text), split_by_regex(regex, &text), "{}", name);
            }
        }

        #[test]
        fn smollm_cuts_numbers_out_first(text in text()) {
            static GPT2: LazyLock<fancy_regex::Regex> = LazyLock::new(|| regex("gpt-2"));
            let segments = text.split_inclusive(char::is_numeric).flat_map(|segment| {
                let number = segment.chars().next_back().filter(|c| c.is_numeric()).map_or(0, char::len_utf8);
                let (before, number) = segment.split_at(segment.len() - number);
                split_by_regex(&GPT2, before).into_iter().chain((!number.is_empty()).then_some(number))
            });
            prop_assert_eq!(split("smollm", &text), segments.collect::<Vec<_>>());
        }
    }

    #[test]
    fn words_of_o200k() {
        let cases: [(&str, &[&str]); 8] = [
            ("HTTPServer isn't", &["HTTPServer", " isn't"]),
            ("camelCase XMLHttp", &["camel", "Case", " XMLHttp"]),
            // A combining mark belongs to the word, and may begin one.
            ("cafe\u{301}s", &["cafe\u{301}s"]),
            ("\u{301}a", &["\u{301}a"]),
            // Letters without case belong to both sides.
            ("日本語ABC", &["日本語", "ABC"]),
            ("ABC日本", &["ABC日本"]),
            ("a/b//\n c", &["a", "/b", "//\n", " c"]),
            ("12345 ", &["123", "45", " "]),
        ];
        for (text, pieces) in cases {
            assert_eq!(split("gpt-4o", text), pieces, "{text:?}");
        }
    }

    /// The vocabulary of these vectors is not at hand, but tokens never reach over the border of two pieces: there are at
    /// least as many as pieces, and a piece that is a text of its own has the same tokens wherever it occurs.
    #[test]
    fn pieces_of_the_o200k_vectors_fit_their_tokens() {
        let folder =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/tokenizers/gpt-oss-o200k_harmony");
        let read =
            |extension: &str| std::fs::read_to_string(format!("{folder}.{extension}")).expect("fixture");
        let (texts, ids) = (read("inp"), read("out"));
        let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
        let ids: Vec<Vec<&str>> = ids.split('\n').map(|line| line.split_whitespace().collect()).collect();
        let whole: Vec<(&str, &Vec<&str>)> = texts
            .iter()
            .zip(&ids)
            .filter(|(text, _)| split("gpt-4o", text).len() == 1)
            .map(|(text, ids)| (*text, ids))
            .collect();
        let mut n_found = 0;
        for (text, ids) in texts.iter().zip(&ids) {
            let pieces = split("gpt-4o", text);
            assert_eq!(pieces.concat(), **text);
            assert_eq!(pieces, split_by_regex(&regex("gpt-4o"), text));
            assert!(pieces.len() <= ids.len(), "{text:?}: {pieces:?} are {} tokens", ids.len());
            for piece in &pieces {
                let Some((_, expected)) = whole.iter().find(|(text, _)| text == piece) else { continue };
                assert!(
                    ids.windows(expected.len()).any(|window| window == &expected[..]),
                    "{piece:?} in {text:?}"
                );
                n_found += 1;
            }
        }
        assert!(n_found >= 20, "{n_found}");
    }

    #[test]
    fn every_known_name_has_rules() {
        for name in PreTokenizer::known_names().split(", ") {
            assert!(PreTokenizer::named(name).is_ok(), "{name}");
        }
        let error = PreTokenizer::named("llama-bp").expect_err("unknown");
        assert!(
            error.to_string().contains("`llama-bp`, an unknown pre-tokenizer; known are: gpt-2, "),
            "{error}"
        );
        assert!(PreTokenizer::named("").is_err());
        assert!(PreTokenizer::named("gpt-2 phi-2").is_err());
    }
}

//! A file of the project, and for Rust what of it is code, strings and comments.

/// A text file.
pub struct Source {
    /// Relative to the workspace root, with `/`.
    pub path: String,
    pub text: String,
    /// The text with comments and the contents of strings and characters blanked, line by line. Rust files only.
    pub code: Vec<String>,
    /// The text with only comments blanked. Rust files only.
    pub code_and_strings: Vec<String>,
    /// The comments alone. Rust files only.
    pub comments: Vec<String>,
    /// First line (from 0) of the test module at the file's end, or the number of lines.
    tests_start: usize,
}

/// What a character of Rust source belongs to.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Code,
    Text,
    Comment,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Source {
        let kinds = if path.ends_with(".rs") { kinds(text) } else { Vec::new() };
        let only = |kept: &[Kind]| -> Vec<String> {
            let keep = |(character, kind): (char, &Kind)| {
                if kept.contains(kind) || character == '\n' { character } else { ' ' }
            };
            text.chars().zip(&kinds).map(keep).collect::<String>().lines().map(str::to_string).collect()
        };
        let code = only(&[Kind::Code]);
        let tests_start = tests_start(&code);
        Source {
            path: path.to_string(),
            text: text.to_string(),
            code_and_strings: only(&[Kind::Code, Kind::Text]),
            comments: only(&[Kind::Comment]),
            code,
            tests_start,
        }
    }

    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether the path lies in one of the folders, or is one of the files.
    pub fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| {
            if place.ends_with('/') { self.path.starts_with(place) } else { self.path == *place }
        })
    }

    /// Whether a line (from 0) belongs to the test module at the file's end.
    pub fn is_test(&self, line: usize) -> bool {
        line >= self.tests_start
    }
}

/// The line of `#[cfg(test)]` before `mod … {`.
fn tests_start(code: &[String]) -> usize {
    let opens_module = |line: &str| line.trim_start().starts_with("mod ") && line.contains('{');
    let found = code.windows(2).position(|pair| pair[0].trim() == "#[cfg(test)]" && opens_module(&pair[1]));
    found.unwrap_or(code.len())
}

/// One kind for each character of the text.
fn kinds(text: &str) -> Vec<Kind> {
    let characters: Vec<char> = text.chars().collect();
    let mut kinds = Vec::with_capacity(characters.len());
    while kinds.len() < characters.len() {
        let rest = &characters[kinds.len()..];
        let after_word = !kinds.is_empty() && is_word(characters[kinds.len() - 1]);
        let (kind, length) = token(rest, after_word);
        kinds.extend(std::iter::repeat_n(kind, length.clamp(1, rest.len())));
    }
    kinds
}

/// Kind and length of what the text starts with; `after_word`: whether a letter or digit stands before it.
fn token(rest: &[char], after_word: bool) -> (Kind, usize) {
    let starts = |word: &str| word.chars().enumerate().all(|(i, c)| rest.get(i) == Some(&c));
    if starts("//") {
        return (Kind::Comment, rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()));
    }
    if starts("/*") {
        return (Kind::Comment, block_comment(rest));
    }
    if !after_word {
        let prefix = rest.iter().take_while(|c| ['b', 'c', 'r'].contains(c)).count();
        let raw = prefix > 0 && rest[prefix - 1] == 'r';
        let hashes = rest[prefix..].iter().take_while(|c| **c == '#').count();
        if raw && rest.get(prefix + hashes) == Some(&'"') {
            return (Kind::Text, raw_string(rest, prefix + hashes + 1, hashes));
        }
    }
    match rest[0] {
        '"' => (Kind::Text, quoted(rest, '"')),
        // A character has its closing quote after one (perhaps escaped) character; a lifetime has none.
        '\'' if rest.get(1) == Some(&'\\') || rest.get(2) == Some(&'\'') => (Kind::Text, quoted(rest, '\'')),
        _ => (Kind::Code, 1),
    }
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn raw_string(rest: &[char], start: usize, hashes: usize) -> usize {
    let ends = |at: &usize| {
        rest[*at] == '"' && rest[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    };
    (start..rest.len()).find(ends).map_or(rest.len(), |at| at + 1 + hashes)
}

fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Whether `word` stands in the line with no letter or digit beside it (which only matters where it ends in one).
pub fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(is_word);
        let after = line[at + word.len()..].chars().next().is_some_and(is_word);
        !(before && word.starts_with(is_word) || after && word.ends_with(is_word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_strings_and_comments_are_told_apart() {
        let text = "let a = \"x // y\"; // one\nlet b = '\"'; /* two /* three */ */ f::<'a>(r#\"z\"\n\"#);\n";
        let source = Source::new("a.rs", text);
        assert_eq!(
            source.code,
            ["let a =         ;       ", "let b =    ;                       f::<'a>(     ", "  );"]
        );
        assert_eq!(source.comments[0].trim(), "// one");
        assert_eq!(source.comments[1].trim(), "/* two /* three */ */");
        assert_eq!(source.code_and_strings[0].trim_end(), "let a = \"x // y\";");
    }

    #[test]
    fn the_test_module_is_known() {
        let source = Source::new("a.rs", "fn f() {}\n\n#[cfg(test)]\nmod tests {\n}\n");
        assert!(!source.is_test(0) && source.is_test(3));
    }

    #[test]
    fn words() {
        assert!(has_word("core::arch::asm!(", "asm!") && !has_word("my_asm!(", "asm!"));
        assert!(has_word("use std::fs;", "std::fs") && !has_word("std::fsck", "std::fs"));
    }
}

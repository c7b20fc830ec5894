//! Stop strings: texts that end a generation and are not part of it.

/// Looks for stop strings in a text that comes in pieces.
///
/// What may be the beginning of a stop string is held back until it is known not to be. The text that comes out, and
/// where it ends, depend on the whole text alone and not on how it was cut: the stop string that is complete first
/// counts, and of those that are complete at the same character the longest.
///
/// ```
/// use oxwarp::generate::StopStrings;
/// let mut stops = StopStrings::new(vec!["\nUser:".to_owned()]);
/// assert_eq!(stops.push("Hello.\nUs"), ("Hello.".to_owned(), None));
/// assert_eq!(stops.push("eful"), ("\nUseful".to_owned(), None));
/// assert_eq!(stops.push("?\nUser: and"), ("?".to_owned(), Some("\nUser:")));
/// ```
#[derive(Clone, Debug)]
pub struct StopStrings {
    strings: Vec<String>,
    /// The end of the text so far that is a beginning of some string.
    held: String,
}

impl StopStrings {
    /// # Panics
    /// An empty string, which would end every text before it begins.
    pub fn new(strings: Vec<String>) -> StopStrings {
        assert!(strings.iter().all(|string| !string.is_empty()), "an empty stop string among {strings:?}");
        StopStrings { strings, held: String::new() }
    }

    /// Takes the next piece. Returns the text that is now known to be before any stop string, and the stop string if one
    /// is complete; the rest of the piece is then dropped.
    pub fn push(&mut self, piece: &str) -> (String, Option<&str>) {
        for character in piece.chars() {
            self.held.push(character);
            let found =
                self.strings.iter().filter(|string| self.held.ends_with(*string)).max_by_key(|s| s.len());
            if let Some(found) = found {
                let mut text = std::mem::take(&mut self.held);
                text.truncate(text.len() - found.len());
                return (text, Some(found));
            }
        }
        let n_kept = self.strings.iter().map(|string| overlap(&self.held, string)).max().unwrap_or(0);
        let kept = self.held.split_off(self.held.len() - n_kept);
        (std::mem::replace(&mut self.held, kept), None)
    }

    /// The end of the text: what was held back.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes of the longest end of `text` that is a beginning of `string`, and not all of it.
fn overlap(text: &str, string: &str) -> usize {
    let beginnings = string.char_indices().map(|(n_bytes, _)| n_bytes);
    beginnings.rev().find(|&n_bytes| text.ends_with(&string[..n_bytes])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition: the first character at which any string is complete, and the longest of those.
    fn expected(strings: &[String], text: &str) -> (String, Option<String>) {
        let ends = text.char_indices().map(|(at, character)| at + character.len_utf8());
        for before in ends.map(|end| &text[..end]) {
            let complete = strings.iter().filter(|string| before.ends_with(string.as_str()));
            if let Some(found) = complete.max_by_key(|string| string.len()) {
                return (before[..before.len() - found.len()].to_owned(), Some(found.clone()));
            }
        }
        (text.to_owned(), None)
    }

    fn in_pieces(strings: &[String], pieces: &[&str]) -> (String, Option<String>) {
        let mut stops = StopStrings::new(strings.to_vec());
        let mut text = String::new();
        for piece in pieces {
            let (more, found) = stops.push(piece);
            text += &more;
            if let Some(found) = found {
                let found = found.to_owned();
                assert_eq!(stops.finish(), "", "nothing is held back after a stop");
                return (text, Some(found));
            }
        }
        text += &stops.finish();
        (text, None)
    }

    fn check(strings: &[&str], pieces: &[&str], text: &str, found: Option<&str>) {
        let strings: Vec<String> = strings.iter().map(|&string| string.to_owned()).collect();
        let expected_here = (text.to_owned(), found.map(str::to_owned));
        assert_eq!(expected(&strings, &pieces.concat()), expected_here, "the definition");
        assert_eq!(in_pieces(&strings, pieces), expected_here, "{strings:?} in {pieces:?}");
    }

    #[test]
    fn by_hand() {
        check(&[], &["any", " text"], "any text", None);
        check(&["STOP"], &["a STOP b"], "a ", Some("STOP"));
        check(&["STOP"], &["a S", "T", "OP b"], "a ", Some("STOP"));
        check(&["STOP"], &["a STO", "RM"], "a STORM", None);
        check(&["STOP"], &["SSTSTOSTOP"], "SSTSTO", Some("STOP"));
        check(&["STOP"], &["STO"], "STO", None);
        check(&["aab"], &["aa", "ab"], "a", Some("aab"));
        check(&["bcd", "c"], &["a", "b", "c", "d"], "ab", Some("c"));
        check(&["c", "bc"], &["ab", "cd"], "a", Some("bc"));
        check(&["é🙂"], &["é", "é", "🙂"], "é", Some("é🙂"));
    }

    #[test]
    fn only_possible_beginnings_are_held_back() {
        let mut stops = StopStrings::new(vec!["xyz".to_owned(), "yy".to_owned()]);
        assert_eq!(stops.push("abc"), ("abc".to_owned(), None));
        assert_eq!(stops.push("abxy"), ("ab".to_owned(), None));
        assert_eq!(stops.push("x"), ("xy".to_owned(), None));
        assert_eq!(stops.finish(), "x");
    }

    #[test]
    #[should_panic(expected = "an empty stop string")]
    fn empty_strings_are_refused() {
        StopStrings::new(vec!["a".to_owned(), String::new()]);
    }

    proptest! {
        /// Over an alphabet so small that strings overlap all the time, and with characters of two bytes.
        #[test]
        fn the_cut_does_not_matter(
            strings in prop::collection::vec("[abé]{1,4}", 0..4),
            pieces in prop::collection::vec("[abé]{0,3}", 0..12),
        ) {
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(in_pieces(&strings, &pieces), expected(&strings, &pieces.concat()));
        }
    }
}

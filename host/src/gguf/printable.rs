//! Text from a file, made fit for a terminal.

use std::fmt::{self, Display, Write};

/// Shows `text` with every character escaped that could move the cursor, hide text or start a control sequence, and cut
/// after `max_chars` characters (then the number of bytes left out is shown).
pub fn printable(text: &str, max_chars: usize) -> impl Display + '_ {
    Printable { text, max_chars }
}

struct Printable<'a> {
    text: &'a str,
    max_chars: usize,
}

/// Characters that change how the text around them is shown: directions, joins, invisible spaces, byte-order mark.
fn is_deceptive(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

impl Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n_shown, (at, c)) in self.text.char_indices().enumerate() {
            if n_shown == self.max_chars {
                return write!(f, "… ({} bytes more)", self.text.len() - at);
            }
            match c {
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                '\\' => f.write_str("\\\\")?,
                c if c.is_control() || is_deceptive(c) => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_sequences_are_escaped() {
        assert_eq!(
            printable("a\x1b[31m\n\u{9b}2J\u{202e}é\\", 99).to_string(),
            "a\\u{1b}[31m\\n\\u{9b}2J\\u{202e}é\\\\"
        );
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        assert_eq!(printable("ééééé", 3).to_string(), "ééé… (4 bytes more)");
        assert_eq!(printable("ééé", 3).to_string(), "ééé");
    }
}

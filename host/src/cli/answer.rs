//! The text of a generation on its way to standard output.

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;

use oxwarp::generate::Generation;

/// What has been generated.
pub struct Answer {
    pub ids: Vec<u32>,
    pub text: String,
    /// Whether text goes to standard output as it comes.
    streamed: bool,
    /// Whether what the model writes could act on a terminal.
    to_terminal: bool,
}

impl Answer {
    /// Nothing yet; text goes to standard output as it comes.
    pub fn streamed() -> Answer {
        Answer {
            ids: Vec::new(),
            text: String::new(),
            streamed: true,
            to_terminal: io::stdout().is_terminal(),
        }
    }

    /// Nothing yet; text is kept only.
    pub fn kept() -> Answer {
        Answer { streamed: false, ..Answer::streamed() }
    }

    /// Takes the whole generation.
    ///
    /// # Errors
    /// The generation's; standard output's, which stop it.
    pub fn take(&mut self, generation: &mut Generation<'_>) -> Result<(), Box<dyn Error>> {
        let mut written = Ok(());
        generation.for_each_token(|token| {
            self.ids.push(token.id);
            self.text += &token.text;
            written = self.write(&token.text);
            match written {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        })?;
        Ok(written?)
    }

    /// Ends the last line, if the text does not.
    pub fn end_line(&self) -> io::Result<()> {
        match self.text.ends_with('\n') {
            true => Ok(()),
            false => self.write("\n"),
        }
    }

    fn write(&self, text: &str) -> io::Result<()> {
        if !self.streamed || text.is_empty() {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        match self.to_terminal {
            true => stdout.write_all(disarmed(text).as_bytes())?,
            false => stdout.write_all(text.as_bytes())?,
        }
        stdout.flush()
    }
}

/// `text` without control characters but line breaks and tabs: a model's words may not move the cursor or retitle the
/// window.
fn disarmed(text: &str) -> String {
    let allowed = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    text.chars().map(|c| if allowed(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_get_no_control_characters() {
        assert_eq!(
            disarmed("a\tb\n\u{1b}[2J\r\u{7}\u{9b}é🙂"),
            "a\tb\n\u{fffd}[2J\u{fffd}\u{fffd}\u{fffd}é🙂"
        );
    }
}

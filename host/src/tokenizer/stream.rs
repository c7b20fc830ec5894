//! Text from tokens as they come: a token may end in the middle of a character.

use super::{Error, Tokenizer};

/// Turns bytes into text, never half a character.
///
/// Bytes that can only be the beginning of a character are held back until it is complete; bytes that can be no part of
/// one come out as U+FFFD.  All outputs together are [`String::from_utf8_lossy`] of all the bytes.
#[derive(Clone, Debug, Default)]
pub struct Utf8Stream {
    /// The beginning of a character: at most three bytes between two calls.
    held: Vec<u8>,
    text: String,
}

impl Utf8Stream {
    /// Takes more bytes and returns the text that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> &str {
        self.held.extend_from_slice(bytes);
        self.text.clear();
        let mut n_read = 0;
        for chunk in self.held.utf8_chunks() {
            self.text.push_str(chunk.valid());
            n_read += chunk.valid().len();
            let invalid = chunk.invalid();
            // Only at the very end may bytes be incomplete instead of wrong.
            let is_last = n_read + invalid.len() == self.held.len();
            if is_last && is_incomplete(invalid) {
                break;
            }
            if !invalid.is_empty() {
                self.text.push(char::REPLACEMENT_CHARACTER);
            }
            n_read += invalid.len();
        }
        self.held.drain(..n_read);
        &self.text
    }

    /// The end: what was held back comes out as U+FFFD.  The stream is then as new.
    pub fn finish(&mut self) -> &str {
        self.text.clear();
        if !self.held.is_empty() {
            self.held.clear();
            self.text.push(char::REPLACEMENT_CHARACTER);
        }
        &self.text
    }

    /// Number of bytes held back.
    pub fn n_held(&self) -> usize {
        self.held.len()
    }
}

/// Whether more bytes could make a character of these.
fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// Turns token ids into text as they are generated, never half a character.
///
/// ```no_run
/// # fn example(tokenizer: &oxwarp::tokenizer::Tokenizer, generated: &[u32]) -> Result<(), oxwarp::tokenizer::Error> {
/// let mut decoder = tokenizer.stream_decoder();
/// for &id in generated {
///     print!("{}", decoder.push(id)?);
/// }
/// print!("{}", decoder.finish());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct StreamDecoder<'t> {
    tokenizer: &'t Tokenizer,
    stream: Utf8Stream,
}

impl<'t> StreamDecoder<'t> {
    /// A decoder that has seen nothing yet.
    pub fn new(tokenizer: &'t Tokenizer) -> StreamDecoder<'t> {
        StreamDecoder { tokenizer, stream: Utf8Stream::default() }
    }

    /// Takes the next token and returns the characters that it completes; control tokens appear as their texts.
    ///
    /// # Errors
    /// [`Error::TokenId`] for an id outside of the vocabulary; the decoder is then unchanged.
    pub fn push(&mut self, id: u32) -> Result<&str, Error> {
        Ok(self.stream.push(self.tokenizer.token_bytes(id)?))
    }

    /// The end of the text: an incomplete character comes out as U+FFFD.
    pub fn finish(&mut self) -> &str {
        self.stream.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every way of cutting `bytes` into three parts gives what the whole gives at once.
    fn check_all_cuts(bytes: &[u8]) {
        let expected = String::from_utf8_lossy(bytes);
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let mut stream = Utf8Stream::default();
                let mut text = String::new();
                for part in [&bytes[..first], &bytes[first..second], &bytes[second..]] {
                    text += stream.push(part);
                    assert!(stream.n_held() <= 3, "{bytes:x?} cut at {first} and {second}");
                }
                text += stream.finish();
                assert_eq!(text, expected, "{bytes:x?} cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn characters_of_every_length_may_be_cut_anywhere() {
        for text in
            ["aé日🙂b", "مرحبا", "👨\u{200d}👩\u{200d}👧", "\u{feff}x", "e\u{301}é", "\0\u{202e}x", ""]
        {
            check_all_cuts(text.as_bytes());
        }
    }

    #[test]
    fn wrong_bytes_come_out_as_replacement_characters() {
        let cases: [&[u8]; 14] = [
            b"\xc3",             // truncated, two bytes
            b"\xe6\x97",         // truncated, three bytes
            b"\xf0\x9f\x99",     // truncated, four bytes
            b"a\xc3\x28b",       // no continuation
            b"\xc0\x80",         // overlong
            b"\xe0\x80\x80",     // overlong
            b"\xf0\x80\x80\x80", // overlong
            b"\xed\xa0\x80",     // surrogate
            b"\xf4\x90\x80\x80", // above U+10FFFF
            b"\xff\xfe",         // no UTF-8 bytes
            b"\x80\x80a",        // continuations alone
            b"\xf0\x9f\xf0\x9f\x99\x82",
            b"\xe6\x97\xe6\x97\xa5",
            b"\xc3\xc3\xa9\xe6",
        ];
        for case in cases {
            check_all_cuts(case);
        }
    }

    #[test]
    fn an_unfinished_character_is_held_back() {
        let mut stream = Utf8Stream::default();
        assert_eq!(stream.push(b"ab\xf0\x9f"), "ab");
        assert_eq!(stream.push(b"\x99"), "");
        assert_eq!(stream.push(b"\x82"), "🙂");
        assert_eq!(stream.push(b"\xf0\x9f"), "");
        assert_eq!(stream.finish(), "\u{fffd}");
        assert_eq!(stream.finish(), "");
    }
}

//! From messages to token ids, such that what a user writes stays text.

use super::special::Fragment;
use super::template::{ChatOptions, ChatTemplate, Message};
use super::{EncodeOptions, Error, Tokenizer};

/// A conversation as the model gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatPrompt {
    /// What the template made of the messages.
    pub text: String,
    /// Its token ids.
    pub ids: Vec<u32>,
}

/// Characters that stand for nothing and never will: the first that occurs nowhere serves as a mark.
const NONCHARACTERS: std::ops::RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';

impl Tokenizer {
    /// Renders `template` and encodes the result; control tokens are those that the template writes.
    ///
    /// A user who writes `<|im_end|>` has not ended the turn: in the contents of all messages but the assistant's own,
    /// a control token's text is encoded as text.  Nothing is added around the prompt, since templates write BOS themselves.
    ///
    /// # Errors
    /// [`Error::Template`] if the template makes no prompt of the messages; otherwise as [`Tokenizer::encode`].
    pub fn encode_chat(
        &self,
        template: &ChatTemplate,
        messages: &[Message],
        options: &ChatOptions,
    ) -> Result<ChatPrompt, Error> {
        let Some(mark) = self.mark_for(messages) else {
            let text = template.render(messages, options)?;
            let ids = self.encode(&text, EncodeOptions::CHAT)?;
            return Ok(ChatPrompt { text, ids });
        };
        let disarmed: Vec<Message> = messages
            .iter()
            .map(|message| match message.role() {
                Some("assistant") => message.clone(),
                _ => message.map_content(|content| self.special.disarm(content, mark)),
            })
            .collect();
        let marked = template.render(&disarmed, options)?;
        let ids = self.encode_marked(&marked, mark)?;
        Ok(ChatPrompt { text: marked.replace(mark, ""), ids })
    }

    /// The ids of `marked` without its marks, where a control token's text is text if a mark interrupts it.
    fn encode_marked(&self, marked: &str, mark: char) -> Result<Vec<u32>, Error> {
        let fragments = self.special.split(marked, true);
        let unmarked: Vec<String> = fragments
            .iter()
            .map(|fragment| match fragment {
                Fragment::Text(part) => part.replace(mark, ""),
                Fragment::Token(_) => String::new(),
            })
            .collect();
        let fragments: Vec<Fragment<'_>> = fragments
            .iter()
            .zip(&unmarked)
            .map(|(fragment, unmarked)| match fragment {
                Fragment::Text(_) => Fragment::Text(unmarked),
                Fragment::Token(id) => Fragment::Token(*id),
            })
            .collect();
        let mut ids = Vec::with_capacity(marked.len() / 3);
        self.encode_fragments(&fragments, marked, &mut ids)?;
        Ok(ids)
    }

    /// A character that occurs in no message, if any message but the assistant's contains a control token's text.
    fn mark_for(&self, messages: &[Message]) -> Option<char> {
        let contents = messages.iter().filter(|message| message.role() != Some("assistant"));
        let mut texts: Vec<String> = Vec::new();
        for message in contents {
            message.each_content(&mut |text| texts.push(text.to_owned()));
        }
        let is_armed = texts.iter().any(|text| self.special.has_control(text));
        let mut marks = NONCHARACTERS.filter(|&mark| texts.iter().all(|text| !text.contains(mark)));
        // Where all of them occur, the text is garbage, and losing one of them is no loss.
        is_armed.then(|| marks.next().unwrap_or(*NONCHARACTERS.start()))
    }
}

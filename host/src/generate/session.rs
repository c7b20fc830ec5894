//! A model's memory of the tokens that it has seen.

use crate::backend::Memory;
use crate::model::{self, ModelConfig, Runner};
use crate::sampler::Sampler;

use super::Error;

/// A [`Runner`] and the tokens in its cache. A new prompt that begins as the last one did costs only its new end: the
/// turns of a conversation need no other bookkeeping.
pub struct Session {
    runner: Box<dyn Runner>,
    /// The tokens in the cache, in order: `runner.n_past()` of them.
    tokens: Vec<u32>,
}

impl Session {
    /// A session that has seen nothing.
    pub fn new(mut runner: Box<dyn Runner>) -> Session {
        runner.reset();
        Session { runner, tokens: Vec::new() }
    }

    pub fn config(&self) -> &ModelConfig {
        self.runner.config()
    }

    /// What it computes on: "cpu, 2 threads".
    pub fn device(&self) -> String {
        self.runner.device()
    }

    /// Tokens that the cache has room for.
    pub fn n_ctx(&self) -> usize {
        self.runner.n_ctx()
    }

    /// Tokens computed at once; between two such batches a generation can be cancelled.
    pub(super) fn n_batch(&self) -> usize {
        self.runner.n_batch()
    }

    /// The tokens in the cache.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub fn is_full(&self) -> bool {
        self.tokens.len() == self.n_ctx()
    }

    /// Bytes held, by purpose.
    pub fn memory(&self) -> Memory {
        self.runner.memory()
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.runner.reset();
        self.tokens.clear();
    }

    /// Forgets what does not agree with the beginning of `prompt`, and returns the length of what is left: less than the
    /// prompt's, since the logits after its last token have yet to be computed.
    ///
    /// # Errors
    /// A prompt of no tokens, or of more than the context holds; nothing is forgotten then.
    pub(super) fn rewind_to(&mut self, prompt: &[u32]) -> Result<usize, Error> {
        let (n_prompt, n_ctx) = (prompt.len(), self.n_ctx());
        let last = n_prompt.checked_sub(1).ok_or(Error::EmptyPrompt)?;
        if n_prompt > n_ctx {
            return Err(Error::PromptTooLong { n_prompt, n_ctx });
        }
        let n_equal = self.tokens.iter().zip(&prompt[..last]).take_while(|(old, new)| old == new).count();
        self.runner.truncate(n_equal);
        self.tokens.truncate(n_equal);
        Ok(n_equal)
    }

    /// Appends `tokens` and returns the logits after the last, `[n_vocab]`, with all tokens up to there.
    pub(super) fn append(&mut self, tokens: &[u32]) -> Result<(&[f32], &[u32]), model::Error> {
        let logits = self.runner.forward(tokens)?;
        self.tokens.extend_from_slice(tokens);
        Ok((logits, &self.tokens))
    }

    /// Whether the sampler's choice can stay on the device.
    pub(super) fn can_decode(&self, sampler: &Sampler) -> bool {
        sampler.is_plain_greedy() || self.runner.can_sample()
    }

    /// [`Runner::decode_greedy`] or [`Runner::decode_sampled`]; `each` gets the tokens in the cache too.
    pub(super) fn decode(
        &mut self,
        sampler: &Sampler,
        first: u32,
        limit: usize,
        each: &mut dyn FnMut(u32, &[u32]) -> bool,
    ) -> Result<(), model::Error> {
        let tokens = &mut self.tokens;
        let mut to_append = first;
        let previous = tokens.clone();
        let mut each = |chosen| {
            tokens.push(to_append);
            to_append = chosen;
            each(chosen, tokens)
        };
        let result = match sampler.is_plain_greedy() {
            true => self.runner.decode_greedy(first, limit, &mut each),
            false => self.runner.decode_sampled(sampler, &previous, first, limit, &mut each),
        };
        self.tokens.truncate(self.runner.n_past());
        result
    }

    /// Computes `tokens` from an empty cache and hands out the logits after each, `[n_vocab]`, with their position.
    ///
    /// # Errors
    /// As [`Runner::forward`]; the cache is empty then.
    pub fn logits_each(
        &mut self,
        tokens: &[u32],
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), model::Error> {
        self.reset();
        self.runner.forward_each(tokens, each)?;
        self.tokens.extend_from_slice(tokens);
        Ok(())
    }
}

//! From a prompt to the tokens that follow it, one at a time.

mod session;
mod stop;

use std::mem;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::model;
use crate::sampler::{self, Sampler, SamplerOptions};
use crate::tokenizer::{self, StreamDecoder, Tokenizer};

pub use session::Session;
pub use stop::StopStrings;

/// Why a generation cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the prompt has no tokens")]
    EmptyPrompt,
    #[error("the prompt has {n_prompt} tokens, the context holds {n_ctx}")]
    PromptTooLong { n_prompt: usize, n_ctx: usize },
    #[error("stop string {index} is empty; it would end every text before it begins")]
    EmptyStopString { index: usize },
    #[error(transparent)]
    Sampler(#[from] sampler::Error),
    #[error(transparent)]
    Tokenizer(#[from] tokenizer::Error),
    #[error(transparent)]
    Model(#[from] model::Error),
}

/// How to generate, and when to stop.
#[derive(Clone, Debug, Default)]
pub struct GenerateOptions {
    /// How each token is chosen.
    pub sampler: SamplerOptions,
    /// Tokens to generate at most; without a limit, until the model ends its text or the context is full.
    pub max_tokens: Option<usize>,
    /// Texts that end the generation and are not part of its text.
    pub stop: Vec<String>,
    /// Ends the generation as soon as it is true: after the token that is being computed, or between two batches of the
    /// prompt.
    pub cancel: Option<Arc<AtomicBool>>,
}

/// A generated token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub id: u32,
    /// The text that has become certain with this token: whole characters, and no beginning of a stop string. It may be
    /// empty, or more than this token's own; the texts of all tokens together are the generated text. The last token
    /// brings all that was held back. An end-of-generation token has no text of its own.
    pub text: String,
}

/// Why a generation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The model chose an end-of-generation token.
    EndOfGeneration,
    /// This stop string was complete.
    StopString(String),
    /// `max_tokens` were generated.
    MaxTokens,
    /// There is no room for another token.
    ContextFull,
    /// The `cancel` flag was set.
    Cancelled,
}

impl StopReason {
    /// One word: `end`, `stop`, `max_tokens`, `context_full` or `cancelled`.
    pub fn name(&self) -> &'static str {
        match self {
            StopReason::EndOfGeneration => "end",
            StopReason::StopString(_) => "stop",
            StopReason::MaxTokens => "max_tokens",
            StopReason::ContextFull => "context_full",
            StopReason::Cancelled => "cancelled",
        }
    }
}

/// What a generation has done so far, and how fast.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Those of them that were in the cache already and cost nothing.
    pub n_cached: usize,
    /// Tokens generated, the end-of-generation token included.
    pub n_generated: usize,
    /// From the start to the first token: the time that the prompt took, nearly.
    pub first_token: Duration,
    /// From the first token to the last one so far.
    pub after_first: Duration,
}

impl Timings {
    /// Prompt tokens computed each second; none before the first token.
    pub fn prompt_rate(&self) -> Option<f64> {
        rate(self.n_prompt - self.n_cached, self.first_token)
    }

    /// Tokens generated each second after the first one; none before the second.
    pub fn generated_rate(&self) -> Option<f64> {
        rate(self.n_generated.saturating_sub(1), self.after_first)
    }
}

fn rate(n_tokens: usize, time: Duration) -> Option<f64> {
    (n_tokens > 0 && !time.is_zero()).then(|| n_tokens as f64 / time.as_secs_f64())
}

/// A running generation: an iterator over its tokens. It computes when it is asked for a token and not ahead of that; to
/// drop it is to stop it.
pub struct Generation<'a> {
    session: &'a mut Session,
    sampler: Sampler,
    step: Step,
    output: Output<'a>,
}

/// What has to be computed for the next token.
enum Step {
    /// The end of the prompt that is not in the cache.
    Prompt(Vec<u32>),
    Token(u32),
    Nothing,
}

impl<'a> Generation<'a> {
    /// Prepares to continue `prompt`; nothing is computed yet.
    ///
    /// # Errors
    /// A prompt without tokens or longer than the context, an empty stop string, a sampler option out of its range.
    pub fn new(
        session: &'a mut Session,
        tokenizer: &'a Tokenizer,
        prompt: &[u32],
        options: GenerateOptions,
    ) -> Result<Generation<'a>, Error> {
        if let Some(index) = options.stop.iter().position(String::is_empty) {
            return Err(Error::EmptyStopString { index });
        }
        let sampler = Sampler::new(options.sampler)?;
        let n_cached = session.rewind_to(prompt)?;
        let mut output = Output {
            tokenizer,
            decoder: tokenizer.stream_decoder(),
            stops: StopStrings::new(options.stop),
            max_tokens: options.max_tokens.unwrap_or(usize::MAX),
            cancel: options.cancel.unwrap_or_default(),
            n_ctx: session.n_ctx(),
            stop_reason: None,
            timings: Timings { n_prompt: prompt.len(), n_cached, ..Timings::default() },
            start: Instant::now(),
        };
        if output.max_tokens == 0 {
            output.stop_reason = Some(StopReason::MaxTokens);
        }
        Ok(Generation { session, sampler, step: Step::Prompt(prompt[n_cached..].to_vec()), output })
    }

    /// The seed that repeats this generation.
    pub fn seed(&self) -> u64 {
        self.sampler.seed()
    }

    /// The chain of stages that chooses tokens.
    pub fn sampler(&self) -> &Sampler {
        &self.sampler
    }

    /// Why it ended; none while it runs, or when it ended in an error.
    pub fn stop_reason(&self) -> Option<&StopReason> {
        self.output.stop_reason.as_ref()
    }

    pub fn timings(&self) -> Timings {
        self.output.timings
    }

    /// Hands every token to `each` until the end, or until `each` breaks off. The choice stays on the device: faster than
    /// the iterator by the round trip, with the same tokens (but for draws that its roundings decide).
    ///
    /// # Errors
    /// As [`Iterator::next`], which is an end too.
    pub fn for_each_token(&mut self, mut each: impl FnMut(Token) -> ControlFlow<()>) -> Result<(), Error> {
        let on_device = self.session.can_decode(&self.sampler);
        while let Some(token) = self.next() {
            if each(token?).is_break() {
                self.output.stop_reason.get_or_insert(StopReason::Cancelled);
            } else if on_device && self.output.stop_reason.is_none() {
                self.rest_by_device(&mut each)?;
            }
        }
        Ok(())
    }

    /// All tokens after the first.
    fn rest_by_device(&mut self, each: &mut dyn FnMut(Token) -> ControlFlow<()>) -> Result<(), Error> {
        let Step::Token(first) = mem::replace(&mut self.step, Step::Nothing) else { return Ok(()) };
        let Generation { session, sampler, output, .. } = self;
        let limit = output.max_tokens - output.timings.n_generated;
        let limit = limit.min(session.n_ctx() - session.tokens().len());
        let mut result = Ok(());
        session.decode(sampler, first, limit, &mut |id, tokens| match output.accept(id, tokens.len()) {
            Ok(token) => {
                if each(token).is_break() {
                    output.stop_reason.get_or_insert(StopReason::Cancelled);
                }
                output.stop_reason.is_none()
            }
            Err(error) => {
                result = Err(error);
                false
            }
        })?;
        result
    }

    /// Computes what is to be computed and chooses a token; none if it was cancelled before there was any.
    fn choose(&mut self) -> Result<Option<u32>, Error> {
        let to_append = match mem::replace(&mut self.step, Step::Nothing) {
            Step::Prompt(rest) => rest,
            Step::Token(token) => vec![token],
            Step::Nothing => return Ok(None),
        };
        let n_batch = self.session.n_batch();
        let n_before_last = (to_append.len() - 1) / n_batch * n_batch;
        let (before, last) = to_append.split_at(n_before_last);
        for batch in before.chunks(n_batch) {
            if self.output.cancelled() {
                self.output.stop_reason = Some(StopReason::Cancelled);
                return Ok(None);
            }
            self.session.append(batch)?;
        }
        let (logits, tokens) = self.session.append(last)?;
        Ok(Some(self.sampler.sample(logits, tokens)?))
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<Token, Error>;

    /// The next token; none after the end, which is an error too.
    fn next(&mut self) -> Option<Result<Token, Error>> {
        if self.output.stop_reason.is_some() {
            return None;
        }
        let id = match self.choose() {
            Ok(id) => id?,
            Err(error) => return Some(Err(error)),
        };
        let token = self.output.accept(id, self.session.tokens().len());
        if token.is_ok() {
            self.step = Step::Token(id);
        }
        Some(token)
    }
}

/// The side of a generation that takes tokens in: makes text of them and finds the end.
struct Output<'a> {
    tokenizer: &'a Tokenizer,
    decoder: StreamDecoder<'a>,
    stops: StopStrings,
    max_tokens: usize,
    cancel: Arc<AtomicBool>,
    n_ctx: usize,
    stop_reason: Option<StopReason>,
    timings: Timings,
    start: Instant,
}

impl Output<'_> {
    fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// Takes the token chosen next, when `n_in_cache` tokens are before it.
    fn accept(&mut self, id: u32, n_in_cache: usize) -> Result<Token, Error> {
        self.count();
        let is_end = self.tokenizer.is_eog(id);
        let mut text = String::new();
        if !is_end {
            let (certain, stop) = self.stops.push(self.decoder.push(id)?);
            text = certain;
            self.stop_reason = stop.map(|stop| StopReason::StopString(stop.to_owned()));
        }
        if self.stop_reason.is_none() {
            self.stop_reason = match () {
                () if is_end => Some(StopReason::EndOfGeneration),
                () if self.timings.n_generated == self.max_tokens => Some(StopReason::MaxTokens),
                () if n_in_cache == self.n_ctx => Some(StopReason::ContextFull),
                () if self.cancelled() => Some(StopReason::Cancelled),
                () => None,
            };
            if self.stop_reason.is_some() {
                self.release_all(&mut text);
            }
        }
        Ok(Token { id, text })
    }

    fn count(&mut self) {
        let elapsed = self.start.elapsed();
        if self.timings.n_generated == 0 {
            self.timings.first_token = elapsed;
        }
        self.timings.after_first = elapsed - self.timings.first_token;
        self.timings.n_generated += 1;
    }

    /// Adds what was held back: an unfinished character, as U+FFFD, and an unfinished stop string.
    fn release_all(&mut self, text: &mut String) {
        let (certain, stop) = self.stops.push(self.decoder.finish());
        *text += &certain;
        match stop {
            Some(stop) => self.stop_reason = Some(StopReason::StopString(stop.to_owned())),
            None => *text += &self.stops.finish(),
        }
    }
}

//! A loaded model on one back end, ready to compute.

use std::sync::Arc;

use crate::backend::{self, Backend, Memory, Step, StepOps};
use crate::gguf::{Gguf, MappedFile};
use crate::kv_cache::KvCache;
use crate::sampler::Sampler;

use super::adapters::adapter;
use super::config::ModelConfig;
use super::error::Error;
use super::forward::{self, Activations, BackendWeights, HEAD_ROWS};
use super::tensors;

/// A model that computes logits for tokens and remembers them, whatever it runs on.
pub trait Runner: Send {
    fn config(&self) -> &ModelConfig;

    /// What it runs on, for messages: "cpu, 2 threads".
    fn device(&self) -> String;

    /// Positions that the cache has.
    fn n_ctx(&self) -> usize;

    /// Tokens of a prompt that are computed at once, at most.
    fn n_batch(&self) -> usize;

    /// Tokens remembered.
    fn n_past(&self) -> usize;

    /// Width of the logits.
    fn n_vocab(&self) -> usize {
        self.config().n_vocab
    }

    /// Appends `tokens` and returns the logits after the last, `[n_vocab]`.
    ///
    /// # Errors
    /// No tokens, an id beyond the vocabulary, no room in the context, or logits that are not numbers. Nothing is
    /// remembered then, and the next request is not affected.
    fn forward(&mut self, tokens: &[u32]) -> Result<&[f32], Error>;

    /// Appends `tokens` and hands out the logits after each, with the position of the token.
    ///
    /// # Errors
    /// As [`Runner::forward`].
    fn forward_each(&mut self, tokens: &[u32], each: &mut dyn FnMut(usize, &[f32])) -> Result<(), Error>;

    /// Appends `tokens` and returns the logits after each, `[n_tokens, n_vocab]`.
    ///
    /// # Errors
    /// As [`Runner::forward`].
    fn forward_all(&mut self, tokens: &[u32]) -> Result<Vec<f32>, Error> {
        let mut all = Vec::with_capacity(tokens.len() * self.n_vocab());
        self.forward_each(tokens, &mut |_, logits| all.extend_from_slice(logits))?;
        Ok(all)
    }

    /// Appends `first`, chooses the most probable next token, appends that, and so on, at most `limit` times. The choice
    /// stays on the device. `each` gets every token chosen and returns whether to go on. The last token chosen is not
    /// appended.
    ///
    /// # Errors
    /// As [`Runner::forward`]; tokens that `each` was given before are remembered.
    fn decode_greedy(
        &mut self,
        first: u32,
        limit: usize,
        each: &mut dyn FnMut(u32) -> bool,
    ) -> Result<(), Error>;

    /// Whether [`Runner::decode_sampled`] works: not for vocabularies beyond all that are known.
    fn can_sample(&self) -> bool;

    /// As [`Runner::decode_greedy`], each token chosen by the sampler's stages, with its next random number and those that
    /// follow. `previous` are the tokens remembered.
    ///
    /// # Errors
    /// As [`Runner::decode_greedy`].
    ///
    /// # Panics
    /// If as many tokens are not remembered, or not [`Runner::can_sample`].
    fn decode_sampled(
        &mut self,
        sampler: &Sampler,
        previous: &[u32],
        first: u32,
        limit: usize,
        each: &mut dyn FnMut(u32) -> bool,
    ) -> Result<(), Error>;

    /// Forgets all tokens from `n_past` on.
    ///
    /// # Panics
    /// When fewer are remembered.
    fn truncate(&mut self, n_past: usize);

    /// Forgets all tokens.
    fn reset(&mut self) {
        self.truncate(0);
    }

    /// Bytes held, by purpose.
    fn memory(&self) -> Memory;
}

/// How to set up an [`Engine`].
#[derive(Clone, Copy, Debug, Default)]
pub struct EngineOptions {
    /// Positions of the cache; by default what the model was trained for, but no more than `DEFAULT_MAX_CTX`.
    pub n_ctx: Option<usize>,
    /// Whether `n_ctx` may be more than the model was trained for.
    pub allow_longer_context: bool,
    /// Tokens of a prompt that are computed at once; by default what suits the device, or less where memory is short.
    pub n_batch: Option<usize>,
}

impl EngineOptions {
    /// Long enough for a conversation, short enough for any GPU's memory.
    pub const DEFAULT_MAX_CTX: usize = 8192;
    /// The default `n_batch` is not less.
    pub const DEFAULT_MIN_BATCH: usize = 512;
}

/// How far loading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadProgress {
    /// Bytes of tensors handed to the back end.
    pub bytes_done: u64,
    /// Bytes of all tensors.
    pub bytes_total: u64,
}

/// A model on back end `B`.
pub struct Engine<B: Backend> {
    b: B,
    config: ModelConfig,
    weights: BackendWeights<B>,
    activations: Activations<B::Buffer>,
    cache: KvCache<B::KvLayer>,
    n_batch: usize,
    logits: Vec<f32>, // [HEAD_ROWS, n_vocab], on the host
}

impl<B: Backend> Engine<B> {
    /// Loads the model of `gguf`, which was parsed from `file`. Everything is checked, and what will not fit refused,
    /// before the first weight is touched.
    ///
    /// # Errors
    /// See [`Error`]: metadata, tensors, the context's length, or the back end's memory.
    pub fn load(
        mut b: B,
        file: Arc<MappedFile>,
        gguf: &Gguf<'_>,
        options: EngineOptions,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self, Error> {
        let config = adapter(gguf)?.config(gguf)?;
        let n_ctx = context_length(&config, &options)?;
        let too_large = || Error::KvCacheSize { n_layers: config.n_layers, n_ctx };
        let kv_layer = b.kv_layer_bytes(config.kv_shape(n_ctx)).ok_or_else(too_large)?;
        let kv_cache = kv_layer.checked_mul(config.n_layers as u64).ok_or_else(too_large)?;
        let weights = tensors::census(gguf, &config, n_ctx, &b)?;
        let mut n_batch = options.n_batch.unwrap_or(b.best_batch()).clamp(1, n_ctx);
        let activations = loop {
            let buffers = Activations::<B::Buffer>::bytes(&config, n_batch).ok_or_else(too_large)?;
            let workspace = b.workspace_bytes(config.batch_shape(n_batch)).ok_or_else(too_large)?;
            let activations = buffers.checked_add(workspace).ok_or_else(too_large)?;
            match b.admit(&Memory { weights, kv_cache, activations }) {
                Ok(()) => break activations,
                Err(backend::Error::DoesNotFit { .. })
                    if options.n_batch.is_none() && n_batch > EngineOptions::DEFAULT_MIN_BATCH =>
                {
                    n_batch = EngineOptions::DEFAULT_MIN_BATCH.max(n_batch / 2);
                }
                Err(error) => return Err(error.into()),
            }
        };

        // What may not be had comes before what takes long.
        let cache = KvCache::new(&mut b, config.n_layers, config.kv_shape(n_ctx))?;
        let buffers = Activations::new(&mut b, &config, n_batch)?;
        b.reserve(config.batch_shape(n_batch))?;
        let found = b.memory().activations;
        assert!(found == activations, "{found} bytes of activations, predicted were {activations}");
        let weights = tensors::load(file, gguf, &config, n_ctx, &mut b, progress)?;
        let logits = vec![0.0; HEAD_ROWS * config.n_vocab];
        Ok(Engine { b, config, weights, activations: buffers, cache, n_batch, logits })
    }

    /// The back end, for what only it can say.
    pub fn backend(&self) -> &B {
        &self.b
    }

    fn check(&self, tokens: &[u32]) -> Result<(), Error> {
        let n_vocab = self.config.n_vocab;
        if tokens.is_empty() {
            return Err(Error::NoTokens);
        }
        if let Some(index) = tokens.iter().position(|&token| token as usize >= n_vocab) {
            return Err(Error::TokenOutOfRange { index, token: tokens[index], n_vocab });
        }
        let (n_tokens, n_past, n_ctx) = (tokens.len(), self.cache.n_past(), self.cache.n_ctx());
        match n_tokens <= n_ctx - n_past {
            true => Ok(()),
            false => Err(Error::ContextFull { n_tokens, n_past, n_ctx }),
        }
    }

    /// Runs `body`; if that fails, forgets what it appended.
    fn undo_on_error<T>(&mut self, body: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        let n_past = self.cache.n_past();
        let result = body(self);
        if result.is_err() {
            self.cache.truncate(n_past);
        }
        result
    }

    /// Appends at most `n_batch` tokens.
    fn append(&mut self, tokens: &[u32], ops: StepOps) -> Result<(), Error> {
        self.b.begin(tokens, self.cache.n_past())?;
        self.run_layers(tokens.len(), ops)
    }

    /// The layers, and what `ops` says of the head, for the tokens that the back end holds.
    fn run_layers(&mut self, n_tokens: usize, ops: StepOps) -> Result<(), Error> {
        let Engine { b, config, weights, activations: a, cache, .. } = self;
        let step = Step { ops, n_tokens, first_position: cache.n_past() };
        b.step(step, |b| {
            forward::layers(b, config, weights, a, cache.layers_mut(), n_tokens)?;
            if ops != StepOps::Layers {
                forward::head(b, config, weights, a, n_tokens - 1, 1)?;
            }
            if ops == StepOps::LastLogitsGreedy {
                b.choose_greedy(&a.logits, config.n_vocab)?;
            }
            if ops == StepOps::LastLogitsSampled {
                b.choose(&a.logits, config.n_vocab)?;
            }
            Ok(())
        })?;
        cache.advance(n_tokens);
        Ok(())
    }

    /// Steps that choose their successor's token, until `each` has enough.
    fn decode(
        &mut self,
        first: u32,
        limit: usize,
        ops: StepOps,
        each: &mut dyn FnMut(u32) -> bool,
    ) -> Result<(), Error> {
        let n_start = self.cache.n_past();
        let (n_past, n_ctx) = (n_start, self.cache.n_ctx());
        let n_steps = limit.min(n_ctx - n_start);
        let mut n_submitted = 0;
        self.b.begin(&[first], n_start)?;
        for n_chosen in 0..n_steps {
            while n_submitted < n_steps.min(n_chosen + 1 + B::STEPS_AHEAD) {
                self.run_layers(1, ops)?;
                n_submitted += 1;
            }
            let chosen = self.b.chosen()?;
            let go_on = chosen.is_some_and(&mut *each);
            if !go_on {
                for _ in n_chosen + 1..n_submitted {
                    self.b.chosen()?;
                }
                let n_kept = n_start + n_chosen + usize::from(chosen.is_some());
                self.cache.truncate(n_kept);
                let bad = Error::BadLogits { position: n_kept, what: "NaN, or none is finite".to_owned() };
                return chosen.map(|_| ()).ok_or(bad);
            }
        }
        match n_steps == limit {
            true => Ok(()),
            false => Err(Error::ContextFull { n_tokens: limit, n_past, n_ctx }),
        }
    }

    /// Logits of some rows of the last `append`, on the host.
    fn run_head(&mut self, first_row: usize, n_rows: usize) -> Result<(), Error> {
        let Engine { b, config, weights, activations: a, cache, .. } = self;
        let step =
            Step { ops: StepOps::Head { first_row }, n_tokens: n_rows, first_position: cache.n_past() };
        b.step(step, |b| forward::head(b, config, weights, a, first_row, n_rows))?;
        self.read_logits(n_rows)
    }

    fn read_logits(&mut self, n_rows: usize) -> Result<(), Error> {
        Ok(self.b.read(&mut self.logits[..n_rows * self.config.n_vocab], &self.activations.logits)?)
    }
}

impl<B: Backend> Runner for Engine<B> {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn device(&self) -> String {
        self.b.name()
    }

    fn n_ctx(&self) -> usize {
        self.cache.n_ctx()
    }

    fn n_batch(&self) -> usize {
        self.n_batch
    }

    fn n_past(&self) -> usize {
        self.cache.n_past()
    }

    fn forward(&mut self, tokens: &[u32]) -> Result<&[f32], Error> {
        self.check(tokens)?;
        self.undo_on_error(|engine| {
            let last_batch = tokens.chunks(engine.n_batch).len() - 1;
            for (batch_idx, batch) in tokens.chunks(engine.n_batch).enumerate() {
                let ops = if batch_idx == last_batch { StepOps::LastLogits } else { StepOps::Layers };
                engine.append(batch, ops)?;
            }
            engine.read_logits(1)?;
            check_logits(&engine.logits[..engine.config.n_vocab], engine.cache.n_past() - 1)
        })?;
        Ok(&self.logits[..self.config.n_vocab])
    }

    fn forward_each(&mut self, tokens: &[u32], each: &mut dyn FnMut(usize, &[f32])) -> Result<(), Error> {
        self.check(tokens)?;
        self.undo_on_error(|engine| {
            for batch in tokens.chunks(engine.n_batch) {
                let first_position = engine.cache.n_past();
                engine.append(batch, StepOps::Layers)?;
                for first_row in (0..batch.len()).step_by(HEAD_ROWS) {
                    let n_rows = HEAD_ROWS.min(batch.len() - first_row);
                    engine.run_head(first_row, n_rows)?;
                    let rows = engine.logits.chunks(engine.config.n_vocab).take(n_rows);
                    for (row, logits) in rows.enumerate() {
                        let position = first_position + first_row + row;
                        check_logits(logits, position)?;
                        each(position, logits);
                    }
                }
            }
            Ok(())
        })
    }

    fn decode_greedy(
        &mut self,
        first: u32,
        limit: usize,
        each: &mut dyn FnMut(u32) -> bool,
    ) -> Result<(), Error> {
        self.check(&[first])?;
        self.decode(first, limit, StepOps::LastLogitsGreedy, each)
    }

    fn can_sample(&self) -> bool {
        self.b.can_choose(self.config.n_vocab)
    }

    fn decode_sampled(
        &mut self,
        sampler: &Sampler,
        previous: &[u32],
        first: u32,
        limit: usize,
        each: &mut dyn FnMut(u32) -> bool,
    ) -> Result<(), Error> {
        self.check(&[first])?;
        let (n_past, n_ctx, n_vocab) = (self.cache.n_past(), self.cache.n_ctx(), self.config.n_vocab);
        assert!(previous.len() == n_past, "{} tokens of {n_past} in the cache", previous.len());
        assert!(self.can_sample(), "a choice among {n_vocab} tokens");
        let tokens = [previous, &[first]].concat();
        self.b.begin_choosing(sampler, &tokens, n_ctx, n_vocab)?;
        self.decode(first, limit, StepOps::LastLogitsSampled, each)
    }

    fn truncate(&mut self, n_past: usize) {
        self.cache.truncate(n_past);
    }

    fn memory(&self) -> Memory {
        self.b.memory()
    }
}

/// The length asked for, or the default; longer than trained only where that is allowed.
fn context_length(config: &ModelConfig, options: &EngineOptions) -> Result<usize, Error> {
    let trained = config.n_ctx_train;
    match options.n_ctx {
        None => Ok(trained.min(EngineOptions::DEFAULT_MAX_CTX)),
        Some(0) => Err(Error::NoContext(0)),
        Some(wanted) if wanted > trained && !options.allow_longer_context => {
            Err(Error::ContextTooLong { wanted, trained })
        }
        Some(wanted) => Ok(wanted),
    }
}

/// Logits can be chosen from when none is NaN or +infinity, and one at least is finite.
fn check_logits(logits: &[f32], position: usize) -> Result<(), Error> {
    let bad = |logit: &f32| logit.is_nan() || *logit == f32::INFINITY;
    let what = match logits.iter().position(bad) {
        Some(token) => format!("that of token {token} is {}", logits[token]),
        None if logits.iter().all(|logit| !logit.is_finite()) => "none is finite".to_owned(),
        None => return Ok(()),
    };
    Err(Error::BadLogits { position, what })
}

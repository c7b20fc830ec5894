//! A model file, loaded: text in, text out.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::Error;
use crate::backend::Memory;
use crate::device::{Device, DeviceChoice, DeviceOptions};
use crate::generate::{GenerateOptions, Generation, Session};
use crate::gguf::{Gguf, MappedFile};
use crate::model::{EngineOptions, LoadProgress, ModelConfig};
use crate::tokenizer::template::DateTime;
use crate::tokenizer::{
    ChatOptions, ChatPrompt, ChatTemplate, EncodeOptions, Message, TemplateError, Tokenizer,
};

/// How to load a model.
#[derive(Default)]
pub struct LoadOptions<'p> {
    /// Tokens that prompt and answer may have together; by default what the model was trained for, at most
    /// [`EngineOptions::DEFAULT_MAX_CTX`]. The cache for them is allocated at once.
    pub n_ctx: Option<usize>,
    /// Whether `n_ctx` may be more than the model was trained for.
    pub allow_longer_context: bool,
    /// Where to compute; by default on the first GPU, or on the CPU if there is none.
    pub device: DeviceChoice,
    /// How to use the CPU or the GPU, whichever it is.
    pub device_options: DeviceOptions,
    /// Told how far loading has come: at the beginning, after each tensor, and at the end.
    pub progress: Option<&'p mut dyn FnMut(LoadProgress)>,
}

/// A model, its tokenizer and its memory of the tokens that it has seen.
///
/// ```
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/models/stories260K.Q8_0.gguf");
/// use oxwarp::generate::GenerateOptions;
/// use oxwarp::sampler::SamplerOptions;
/// use oxwarp::{LoadOptions, Model};
///
/// let mut model = Model::load(path, LoadOptions::default())?;
/// let stop = vec![".".to_owned()];
/// let options = GenerateOptions { sampler: SamplerOptions::greedy(), stop, ..Default::default() };
/// let mut text = String::new();
/// for token in model.generate("Once upon a time", options)? {
///     text += &token?.text;
/// }
/// assert_eq!(text, ", there was a little girl named Lily");
/// # Ok::<(), oxwarp::Error>(())
/// ```
pub struct Model {
    path: Box<Path>,
    tokenizer: Tokenizer,
    /// A template that cannot be used is an error where it is needed: the model can still complete texts.
    template: Result<Option<ChatTemplate>, TemplateError>,
    notice: Option<String>,
    session: Session,
}

impl Model {
    /// Loads the GGUF file at `path`.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Gguf`], [`Error::Vocabulary`], [`Error::Device`] and [`Error::Model`].
    pub fn load(path: impl AsRef<Path>, options: LoadOptions<'_>) -> Result<Model, Error> {
        let path: Box<Path> = path.as_ref().into();
        let file = Arc::new(MappedFile::open(&path)?);
        let gguf = Gguf::parse(file.bytes()).map_err(|source| Error::Gguf { path: path.clone(), source })?;
        let tokenizer =
            Tokenizer::from_gguf(&gguf).map_err(|source| Error::Vocabulary { path: path.clone(), source })?;
        let template = ChatTemplate::from_gguf(&gguf);
        let device = Device::open(options.device, options.device_options)?;
        let (n_batch, notice) = (device.n_batch(), device.notice().map(str::to_owned));
        let engine_options = EngineOptions {
            n_ctx: options.n_ctx,
            allow_longer_context: options.allow_longer_context,
            n_batch,
        };
        let mut nothing = |_| ();
        let progress = options.progress.unwrap_or(&mut nothing);
        let runner = device
            .load(Arc::clone(&file), &gguf, engine_options, progress)
            .map_err(|source| Error::Model { path: path.clone(), source })?;
        Ok(Model { path, tokenizer, template, notice, session: Session::new(runner) })
    }

    /// Continues `prompt`. What the cache still holds of it from the last generation is not computed again.
    ///
    /// Text in the prompt that looks like a control token is plain text; [`Model::generate_from_tokens`] takes any token.
    ///
    /// # Errors
    /// A prompt longer than the context or without tokens, an option out of its range.
    pub fn generate(&mut self, prompt: &str, options: GenerateOptions) -> Result<Generation<'_>, Error> {
        let tokens = self.tokenizer.encode(prompt, EncodeOptions::PROMPT)?;
        self.generate_from_tokens(&tokens, options)
    }

    /// As [`Model::generate`], for a prompt that is encoded already.
    ///
    /// # Errors
    /// As [`Model::generate`].
    pub fn generate_from_tokens(
        &mut self,
        prompt: &[u32],
        options: GenerateOptions,
    ) -> Result<Generation<'_>, Error> {
        Ok(Generation::new(&mut self.session, &self.tokenizer, prompt, options)?)
    }

    /// Answers the last of `messages`. A conversation is continued with all its messages each time: what the cache still
    /// holds of them is not computed again.
    ///
    /// ```no_run
    /// use oxwarp::generate::GenerateOptions;
    /// use oxwarp::tokenizer::Message;
    /// use oxwarp::{LoadOptions, Model};
    ///
    /// let mut model = Model::load("SmolLM2-135M-Instruct.Q4_1.gguf", LoadOptions::default())?;
    /// let messages = [Message::new("user", "What is the capital of France?")];
    /// for token in model.chat(&messages, GenerateOptions::default())? {
    ///     print!("{}", token?.text);
    /// }
    /// # Ok::<(), oxwarp::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Model::chat_prompt`] and [`Model::generate`].
    pub fn chat(&mut self, messages: &[Message], options: GenerateOptions) -> Result<Generation<'_>, Error> {
        let prompt = self.chat_prompt(messages)?;
        self.generate_from_tokens(&prompt.ids, options)
    }

    /// What the file's chat template makes of `messages` and the beginning of an answer. Texts in the users' messages
    /// that look like control tokens are plain text.
    ///
    /// # Errors
    /// The file has no chat template or one that is broken; the template refuses the messages.
    pub fn chat_prompt(&self, messages: &[Message]) -> Result<ChatPrompt, Error> {
        let template = match &self.template {
            Ok(Some(template)) => template,
            Ok(None) => return Err(Error::NoChatTemplate { path: self.path.clone() }),
            Err(source) => {
                return Err(Error::ChatTemplate { path: self.path.clone(), source: source.clone() });
            }
        };
        let options = ChatOptions { add_generation_prompt: true, now: now(), ..Default::default() };
        Ok(self.tokenizer.encode_chat(template, messages, &options)?)
    }

    /// Whether the file has a chat template, usable or not.
    pub fn has_chat_template(&self) -> bool {
        !matches!(self.template, Ok(None))
    }

    /// The logits after each of `tokens`, `[n_tokens, n_vocab]`: row `i` says what may follow token `i`.
    ///
    /// ```
    /// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/models/stories260K.Q8_0.gguf");
    /// use oxwarp::{LoadOptions, Model};
    /// let mut model = Model::load(path, LoadOptions::default())?;
    /// let logits = model.logits(&[1, 403, 407])?;
    /// assert_eq!(logits.len(), 3 * model.config().n_vocab);
    /// # Ok::<(), oxwarp::Error>(())
    /// ```
    ///
    /// # Errors
    /// No tokens, more than the context holds, an id beyond the vocabulary.
    pub fn logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>, Error> {
        let mut all = Vec::with_capacity(tokens.len() * self.config().n_vocab);
        self.logits_each(tokens, |_, logits| all.extend_from_slice(logits))?;
        Ok(all)
    }

    /// As [`Model::logits`], row by row with the position, so that nothing has to hold them all.
    ///
    /// # Errors
    /// As [`Model::logits`]; some rows may have been handed out then.
    pub fn logits_each(&mut self, tokens: &[u32], mut each: impl FnMut(usize, &[f32])) -> Result<(), Error> {
        Ok(self.session.logits_each(tokens, &mut each)?)
    }

    /// The ids of a text by itself, without the tokens that begin a prompt.
    ///
    /// # Errors
    /// A text that the vocabulary cannot express.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>, Error> {
        Ok(self.tokenizer.encode(text, EncodeOptions::TEXT)?)
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The file that it was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn config(&self) -> &ModelConfig {
        self.session.config()
    }

    /// Why it computes on the CPU, where nobody has asked for the CPU; one line.
    pub fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }

    /// What it computes on, as "cpu, 2 threads of AVX2".
    pub fn device(&self) -> String {
        self.session.device()
    }

    /// Tokens that prompt and answer may have together.
    pub fn n_ctx(&self) -> usize {
        self.session.n_ctx()
    }

    /// Bytes held, by purpose.
    pub fn memory(&self) -> Memory {
        self.session.memory()
    }
}

/// The time of day in UTC, which some templates tell the model; none if the clock is set to before 1970.
fn now() -> Option<DateTime> {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(DateTime::from_unix(since_1970.as_secs().try_into().ok()?))
}

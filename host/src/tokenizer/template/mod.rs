//! Chat templates: the Jinja source in a model file that turns messages into a prompt, rendered as `transformers` does.
//!
//! A template is untrusted.  It sees the messages and a few variables, and no files, environment or host objects.  Its work is
//! bounded by fuel, its output and source by size.  The engine recurses over deeply nested source and values, so compiling
//! and rendering run on a thread of their own, whose stack is larger than what the other bounds can fill.

mod clock;
mod error;
mod json;
mod message;

use std::fmt;
use std::io::{self, Write};

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Value};

pub use clock::DateTime;
pub use error::TemplateError;
pub use message::Message;

use crate::gguf::Gguf;

/// Bytes of the longest template that is accepted; the longest published ones have some 30 KB.
pub const MAX_SOURCE_BYTES: usize = 256 << 10;

/// Bytes of the longest prompt that a template may write.
pub const MAX_OUTPUT_BYTES: usize = 64 << 20;

/// Instructions that a rendering may take; bytes that it copies count too, 64 for one instruction.
const FUEL: u64 = 5_000_000;

/// Reserved, not used: a sane template touches a few pages of it.  The deepest nesting that the bounds above let through is
/// maps in maps, 400 thousand levels; to print them takes 320 MB here, and 900 MB in wholly unoptimised code.
const STACK_BYTES: usize = if cfg!(debug_assertions) { 2 << 30 } else { 1 << 30 };

/// The name of a template in messages of the engine.
const NAME: &str = "chat_template";

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// Names and texts of the model's special tokens.
    variables: Vec<(String, String)>,
}

/// What a rendering depends on besides the messages.
#[derive(Clone, Debug, Default)]
pub struct ChatOptions {
    /// Ends the prompt with the beginning of the assistant's answer.
    pub add_generation_prompt: bool,
    /// Functions that the model may call, in the format of OpenAI's API.
    pub tools: Option<Vec<serde_json::Value>>,
    /// Further variables that the template reads, e.g. `reasoning_effort`.
    pub extra: serde_json::Map<String, serde_json::Value>,
    /// What `strftime_now` shows.  Without it there is no such function: some templates then leave the date out, others
    /// (gpt-oss) fail.
    pub now: Option<DateTime>,
}

/// Variables that [`ChatOptions::extra`] cannot replace.
const RESERVED: [&str; 3] = ["messages", "tools", "add_generation_prompt"];

impl ChatTemplate {
    /// Compiles `source`; `variables` are the special tokens' texts, as `bos_token`.
    ///
    /// # Errors
    /// [`TemplateError::TooLong`], or [`TemplateError::Invalid`] with the line.
    pub fn new(source: &str, variables: Vec<(String, String)>) -> Result<ChatTemplate, TemplateError> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(TemplateError::TooLong { found: source.len(), allowed: MAX_SOURCE_BYTES });
        }
        let environment = on_deep_stack(|| {
            let mut environment = environment();
            let compiled = environment.add_template_owned(NAME, source.to_owned());
            compiled.map(|()| environment).map_err(TemplateError::from_engine)
        })??;
        Ok(ChatTemplate { environment, variables })
    }

    /// The template of a model file, or `None` if it has none.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`].  Such a file can still complete texts.
    pub fn from_gguf(gguf: &Gguf<'_>) -> Result<Option<ChatTemplate>, TemplateError> {
        ChatTemplate::from_key(gguf, "tokenizer.chat_template")
    }

    /// One of the additional templates of a model file, e.g. `tool_use`.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`].
    pub fn named_from_gguf(gguf: &Gguf<'_>, name: &str) -> Result<Option<ChatTemplate>, TemplateError> {
        ChatTemplate::from_key(gguf, &format!("tokenizer.chat_template.{name}"))
    }

    fn from_key(gguf: &Gguf<'_>, key: &str) -> Result<Option<ChatTemplate>, TemplateError> {
        let source = gguf.opt_str(key)?;
        source.map(|source| ChatTemplate::new(source, special_tokens(gguf)?)).transpose()
    }

    /// The prompt that the template makes of `messages`.
    ///
    /// # Errors
    /// [`TemplateError::Raised`] with the template's own words where it refuses the messages; otherwise what went wrong and
    /// in which line.
    pub fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<String, TemplateError> {
        if let Some(name) = options.extra.keys().find(|name| self.is_reserved(name)) {
            return Err(TemplateError::Reserved { name: name.clone() });
        }
        on_deep_stack(|| {
            let mut output = Bounded { bytes: Vec::new(), is_full: false };
            let mut environment = self.environment.clone();
            if let Some(now) = options.now {
                environment.add_function("strftime_now", move |format: &str| now.format(format));
            }
            let template = environment.get_template(NAME).map_err(TemplateError::from_engine)?;
            let rendered =
                template.render_captured_to(self.context(messages, options), &mut output).map(drop);
            match rendered {
                Err(_) if output.is_full => Err(TemplateError::OutputTooLong { allowed: MAX_OUTPUT_BYTES }),
                Err(error) => Err(TemplateError::from_engine(error)),
                // The engine writes whole strings, which are UTF-8.
                Ok(()) => Ok(String::from_utf8_lossy(&output.bytes).into_owned()),
            }
        })?
    }

    fn is_reserved(&self, name: &str) -> bool {
        RESERVED.contains(&name) || self.variables.iter().any(|(variable, _)| variable == name)
    }

    fn context(&self, messages: &[Message], options: &ChatOptions) -> Value {
        let messages: Vec<Value> = messages.iter().map(|message| json::object(&message.0)).collect();
        let tools = options.tools.as_ref().map(|tools| tools.iter().map(json::value).collect::<Vec<Value>>());
        let mut context: Vec<(&str, Value)> = vec![
            ("messages", messages.into()),
            ("tools", tools.into()),
            ("add_generation_prompt", options.add_generation_prompt.into()),
        ];
        context.extend(self.variables.iter().map(|(name, text)| (&**name, Value::from(&**text))));
        context.extend(options.extra.iter().map(|(name, value)| (&**name, json::value(value))));
        Value::from_pairs(context)
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate").field("variables", &self.variables).finish_non_exhaustive()
    }
}

/// The engine, set up as `transformers` sets up Jinja.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the usual delimiters"));
    environment.set_fuel(Some(FUEL));
    environment.set_debug(false);
    environment.remove_global("debug");
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", json::tojson);
    environment.add_function("raise_exception", error::raise_exception);
    environment
}

/// Texts of the special tokens that the metadata of `gguf` names, under the names that templates use.
fn special_tokens(gguf: &Gguf<'_>) -> Result<Vec<(String, String)>, TemplateError> {
    let mut variables = Vec::new();
    for (name, key) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")] {
        let id = gguf.opt_u64(&format!("tokenizer.ggml.{key}_token_id"))?;
        let tokens = gguf.opt_str_array("tokenizer.ggml.tokens")?;
        let index = id.and_then(|id| usize::try_from(id).ok());
        if let Some(text) = tokens.zip(index).and_then(|(tokens, index)| tokens.iter().nth(index)) {
            variables.push((format!("{name}_token"), text.to_owned()));
        }
    }
    Ok(variables)
}

/// Runs `work` on a thread with [`STACK_BYTES`].
fn on_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, TemplateError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name(NAME.to_owned()).stack_size(STACK_BYTES);
        let running = thread.spawn_scoped(scope, work).map_err(TemplateError::no_thread)?;
        running.join().map_err(|_| TemplateError::engine_failed())
    })
}

/// Takes bytes up to [`MAX_OUTPUT_BYTES`].
struct Bounded {
    bytes: Vec<u8>,
    is_full: bool,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > MAX_OUTPUT_BYTES - self.bytes.len() {
            self.is_full = true;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

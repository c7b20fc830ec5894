//! `oxwarp tokenize`: text to token ids and back.

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ArgGroup;
use oxwarp::gguf::{Gguf, MappedFile};
use oxwarp::tokenizer::{EncodeOptions, Tokenizer};

use super::Outcome;

/// Show the token ids of a text, or the text of token ids
///
/// Prints the ids as a JSON array. A text that begins with BOS for this model does so here too.
#[derive(clap::Args, Debug)]
#[command(group(ArgGroup::new("input").required(true).args(["prompt", "file", "decode"])))]
pub struct Args {
    /// The vocabulary: a GGUF file or a tokenizer.json
    #[arg(value_name = "FILE", env = "OXWARP_MODEL", hide_env_values = true)]
    model: PathBuf,

    /// The text to encode
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,

    /// A file with the text to encode; - is standard input
    #[arg(short, long, value_name = "PATH")]
    file: Option<PathBuf>,

    /// Print the text of these ids, a JSON array or a list with commas; - is standard input
    #[arg(long, value_name = "IDS", allow_hyphen_values = true)]
    decode: Option<String>,

    /// Add neither BOS nor EOS, whatever the model wants
    #[arg(long, conflicts_with = "decode")]
    no_special: bool,

    /// Begin with BOS, whatever the model wants
    #[arg(long, conflicts_with = "decode")]
    add_bos: bool,

    /// Take the text of a control token, as <|im_end|>, for the token
    #[arg(long, conflicts_with = "decode")]
    parse_special: bool,
}

/// A command line whose words are understood and whose wish cannot be fulfilled.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{}", .0.display())]
    Path(PathBuf, #[source] Box<dyn Error>),
    #[error("standard input")]
    Stdin(#[source] io::Error),
    #[error("--decode: {found:.80?} is no token id: {reason}")]
    NotAnId { found: String, reason: std::num::ParseIntError },
    #[error("--add-bos: this vocabulary does not say which token begins a text")]
    NoBos,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Outcome {
    let tokenizer = load(&args.model)?;
    let output = match &args.decode {
        Some(ids) => tokenizer.decode_prompt(&parse_ids(&text_or_stdin(ids)?)?)?,
        None => encode(&tokenizer, &args)?,
    };
    writeln!(io::stdout().lock(), "{output}")?;
    Ok(ExitCode::SUCCESS)
}

/// The tokenizer of a file, which is JSON if it begins like JSON.
fn load(path: &Path) -> Result<Tokenizer, Box<dyn Error>> {
    let file = MappedFile::open(path)?;
    read(file.bytes()).map_err(|cause| Refusal::Path(path.to_owned(), cause).into())
}

fn read(bytes: &[u8]) -> Result<Tokenizer, Box<dyn Error>> {
    if bytes.trim_ascii_start().starts_with(b"{") {
        return Ok(Tokenizer::from_hf_json(bytes)?);
    }
    Ok(Tokenizer::from_gguf(&Gguf::parse(bytes)?)?)
}

/// The ids of the text that `args` name, as a JSON array.
fn encode(tokenizer: &Tokenizer, args: &Args) -> Result<String, Box<dyn Error>> {
    let text = match (&args.prompt, &args.file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) if path.as_os_str() != "-" => {
            fs::read_to_string(path).map_err(|cause| Refusal::Path(path.clone(), cause.into()))?
        }
        (None, _) => text_or_stdin("-")?,
    };
    let options = EncodeOptions { add_special: !args.no_special, parse_special: args.parse_special };
    let mut ids = tokenizer.encode(&text, options)?;
    if args.add_bos {
        let bos = tokenizer.bos().ok_or(Refusal::NoBos)?;
        if args.no_special || !tokenizer.adds_bos() {
            ids.insert(0, bos);
        }
    }
    Ok(serde_json::to_string(&ids)?)
}

/// `text`, or all of standard input if it is `-`.
fn text_or_stdin(text: &str) -> Result<String, Refusal> {
    if text == "-" {
        io::read_to_string(io::stdin().lock()).map_err(Refusal::Stdin)
    } else {
        Ok(text.to_owned())
    }
}

/// Ids with commas, spaces or newlines between them, in brackets or not.
fn parse_ids(text: &str) -> Result<Vec<u32>, Refusal> {
    let list = text.trim();
    let list = list.strip_prefix('[').and_then(|list| list.strip_suffix(']')).unwrap_or(list);
    let words = list.split([',', ' ', '\n', '\r', '\t']).filter(|word| !word.is_empty());
    words
        .map(|word| word.parse().map_err(|reason| Refusal::NotAnId { found: word.to_owned(), reason }))
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/models/stories260K.F32.gguf");

    fn encoded(options: &[&str]) -> String {
        let words = ["tokenize", MODEL].iter().chain(options);
        let args = Cli::try_parse_from(words).expect("a valid command line").args;
        encode(&load(&args.model).expect("a tokenizer"), &args).expect("encodes")
    }

    #[test]
    fn bos_is_added_as_the_model_wants_or_as_the_user_says() {
        assert_eq!(encoded(&["-p", "Once"]), "[1,403]");
        assert_eq!(encoded(&["-p", "Once", "--no-special"]), "[403]");
        assert_eq!(encoded(&["-p", "Once", "--no-special", "--add-bos"]), "[1,403]");
        assert_eq!(encoded(&["-p", "Once", "--add-bos"]), "[1,403]");
        assert_eq!(encoded(&["-p", ""]), "[1]");
    }

    #[test]
    fn control_tokens_are_text_unless_asked_for() {
        assert_eq!(encoded(&["-p", "</s>", "--parse-special"]), "[1,2]");
        assert_ne!(encoded(&["-p", "</s>"]), "[1,2]");
    }

    #[test]
    fn one_input_is_needed() {
        let parse = |words: &[&'static str]| Cli::try_parse_from(["tokenize", MODEL].iter().chain(words));
        assert!(parse(&[]).is_err());
        assert!(parse(&["-p", "x", "--decode", "1"]).is_err());
        assert!(parse(&["-p", "-x"]).is_ok());
        assert!(parse(&["--decode", "-1"]).is_ok(), "refused later, with a reason");
    }

    #[test]
    fn ids_are_a_json_array_or_a_list() {
        for text in ["[1, 2,3]", "1,2,3", "1 2 3\n", " [1,2,3] \n"] {
            assert_eq!(parse_ids(text).expect(text), [1, 2, 3]);
        }
        assert!(parse_ids("[]").expect("none").is_empty());
        for text in ["-1", "4294967296", "1.5", "[[1]]", "x", "[1", "1]"] {
            let error = parse_ids(text).expect_err(text).to_string();
            assert!(error.contains("is no token id: "), "{error}");
        }
    }
}

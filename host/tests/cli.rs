//! The command as a user meets it: its output, its refusals, its exit codes.

mod support;

use std::io::Read;
use std::process::Stdio;

use serde_json::Value;
use support::{CHAT_MODEL, Finished, STORIES, chat_model, oxwarp, run, run_with_input};

/// The beginning of every story, at temperature 0.
const STORY: &str =
    ", there was a little girl named Lily. She loved to play outside in the park. One day, she saw";

fn story_args<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["run", STORIES, "-p", "Once upon a time", "--temp", "0"], more].concat()
}

fn json_of(finished: &Finished) -> Value {
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    serde_json::from_str(&finished.stdout).expect("one JSON object and nothing else")
}

#[test]
fn golden_text_and_summary() {
    let finished = run(&story_args(&["-n", "32"]));
    assert_eq!(finished.stdout, format!("{STORY}\n"));
    assert_eq!(finished.code, Some(0));
    let summary = finished.stderr;
    assert_eq!(summary.lines().count(), 1, "{summary}");
    let parts: Vec<&str> = summary.trim().trim_matches(['[', ']']).split(" | ").collect();
    assert!(parts[0].starts_with("prompt 5 tokens, ") && parts[0].ends_with(" tokens/s"), "{summary}");
    assert!(parts[1].starts_with("generated 32 tokens, ") && parts[1].ends_with(" tokens/s"), "{summary}");
    assert!(parts[2].starts_with("first token after "), "{summary}");
    assert_eq!(parts[3], "stopped at the token limit");
    assert!(parts[4].starts_with("weights 0.") && parts[4].contains("KV cache") && parts[4].contains("RSS"));
    assert!(parts[5].starts_with("seed "), "{summary}");
}

#[test]
fn json_holds_all_there_is_to_know() {
    let json = json_of(&run(&story_args(&["-n", "32", "--seed", "42", "--json"])));
    let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
    let expected = [
        "model",
        "device",
        "seed",
        "prompt_tokens",
        "prompt_ids",
        "tokens",
        "text",
        "stop_reason",
        "stop_string",
        "timings",
        "memory",
    ];
    assert_eq!(keys, expected);
    assert_eq!(json["model"], STORIES);
    assert!(json["device"].as_str().unwrap().starts_with("cpu"));
    assert_eq!(json["seed"], 42);
    assert_eq!(json["prompt_tokens"], 5);
    assert_eq!(json["prompt_ids"], serde_json::json!([1, 403, 407, 261, 378]));
    assert_eq!(json["tokens"].as_array().unwrap().len(), 32);
    assert_eq!(json["tokens"][0], 432);
    assert_eq!(json["text"], STORY);
    assert_eq!(json["stop_reason"], "max_tokens");
    assert_eq!(json["stop_string"], Value::Null);
    for timing in ["load_s", "first_token_s", "prompt_tokens_per_s", "generated_tokens_per_s", "total_s"] {
        assert!(json["timings"][timing].as_f64().unwrap() > 0.0, "{timing}: {json}");
    }
    for size in ["weights_bytes", "kv_cache_bytes", "activations_bytes"] {
        assert!(json["memory"][size].as_u64().unwrap() > 1000, "{size}: {json}");
    }
}

/// Where no device is asked for, a GPU computes if there is one; if not, one line says so. The kernels of the GPU give the
/// same text on the CPU.
#[test]
fn devices() {
    let by_default = oxwarp(&story_args(&["-n", "32"])).env_remove("OXWARP_DEVICE").output().unwrap();
    assert_eq!(String::from_utf8(by_default.stdout).unwrap(), format!("{STORY}\n"));
    let stderr = String::from_utf8(by_default.stderr).unwrap();
    let notices: Vec<&str> = stderr.lines().filter(|line| line.contains("CPU")).collect();
    let gpu = json_of(&run(&story_args(&["-n", "1", "--device", "auto", "--json"])));
    let has_gpu = gpu["device"].as_str().unwrap().starts_with("cuda");
    assert_eq!(notices.len(), usize::from(!has_gpu), "{stderr}");

    let emulated = json_of(&run(&story_args(&["-n", "3", "--device", "emulator", "--json"])));
    assert_eq!(emulated["tokens"], serde_json::json!([432, 383, 286]));
    assert!(emulated["device"].as_str().unwrap().starts_with("emulator"), "{emulated}");

    let refused = run(&story_args(&["--device", "cuda:4095"]));
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""));
    assert!(refused.stderr.starts_with("error: --device cuda:4095: "), "{}", refused.stderr);
}

/// The prompt may come from the command line, a file or standard input; the setting from the environment.
#[test]
fn ways_to_say_the_same() {
    let expected = format!("{STORY}\n");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("prompt.txt");
    std::fs::write(&file, "Once upon a time\n").unwrap();
    let from_file = run(&["run", "-m", STORIES, "-f", file.to_str().unwrap(), "--temp", "0", "-n", "32"]);
    assert_eq!(from_file.stdout, expected);
    let input = "Once upon a time\n";
    for arguments in [vec!["run", STORIES], vec!["run", STORIES, "-f", "-"], vec!["run", STORIES, "--raw"]] {
        let arguments = [arguments, vec!["--temp", "0", "-n", "32"]].concat();
        assert_eq!(run_with_input(&arguments, input).stdout, expected, "{arguments:?}");
    }
    let by_environment = oxwarp(&["run", "-p", "Once upon a time", "--temp", "0"])
        .env("OXWARP_MODEL", STORIES)
        .env("OXWARP_TEMP", "1.5")
        .env("OXWARP_N_PREDICT", "32")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(by_environment.stdout).unwrap(), expected);
}

#[test]
fn seeds() {
    let text = |seed: &str| {
        let finished = run(&["run", STORIES, "-p", "Once", "-n", "60", "--temp", "1", "-s", seed]);
        let told = finished.stderr.rsplit("seed ").next().unwrap().trim_matches(['\n', ']']).to_owned();
        (finished.stdout, told)
    };
    assert_eq!(text("1"), text("1"));
    assert_ne!(text("1").0, text("2").0);
    let (random, told) = text("-1");
    assert_eq!(text(&told).0, random, "the seed that was told, {told}, repeats the text");
}

#[test]
fn stop_strings() {
    let finished = run(&story_args(&["--stop", "XYZ", "--stop", "named Lily", "--json"]));
    let json = json_of(&finished);
    assert_eq!(json["text"], ", there was a little girl ");
    assert_eq!((&json["stop_reason"], &json["stop_string"]), (&"stop".into(), &"named Lily".into()));
    assert_eq!(run(&story_args(&["--stop", "ily. S"])).stdout, ", there was a little girl named L\n");
}

#[test]
fn verbose_tells_the_order_of_the_sampler() {
    let finished =
        run(&["run", STORIES, "-p", "Once", "-n", "1", "-s", "7", "-v", "--repeat-penalty", "1.1"]);
    let chain = "sampler: repeat-penalty 1.1 over the last 64 tokens → top-k 40 → top-p 0.95 → min-p 0.05 → \
                 temperature 0.8 → draw with seed 7\n";
    assert!(finished.stderr.contains(chain), "{}", finished.stderr);
    assert!(finished.stderr.contains("prompt tokens: [1, 403]\n"), "{}", finished.stderr);
}

/// What it says to a user who asks for what cannot be, with the exit code.
#[test]
fn refusals() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    };
    let stories = std::fs::read(support::fixture(STORIES)).unwrap();
    let key = b"general.architecture";
    let at = stories.windows(key.len()).position(|window| window == key).unwrap() + key.len() + 12;
    assert_eq!(&stories[at..at + 5], b"llama");
    let mut unknown = stories.clone();
    unknown[at..at + 5].copy_from_slice(b"mamba");
    file("unknown.gguf", &unknown);
    file("cut.gguf", &stories[..stories.len() / 2]);
    file("text.gguf", b"Not a model.\n");
    file("empty.txt", b"\n");
    file("latin1.txt", b"caf\xe9");
    file("stories.gguf", &stories);

    let lines: &[&str] = &[
        "run",
        "run missing.gguf -p x",
        "run . -p x",
        "run text.gguf -p x",
        "run cut.gguf -p x",
        "run unknown.gguf -p x",
        "run stories.gguf -p Once-upon-a-time -c 4",
        "run stories.gguf -p x -c 0",
        "run stories.gguf -p x -c 100000",
        "run stories.gguf -p x --system be-kind",
        "run stories.gguf -i",
        "run stories.gguf",
        "run stories.gguf -f missing.txt",
        "run stories.gguf -f empty.txt",
        "run stories.gguf -f latin1.txt",
        "run stories.gguf -p x -f empty.txt",
        "run stories.gguf -m cut.gguf -p x",
        "run stories.gguf -p x --temp 2.5",
        "run stories.gguf -p x --temp nan",
        "run stories.gguf -p x --top-p -1",
        "run stories.gguf -p x --min-p 1e30",
        "run stories.gguf -p x --top-k -5",
        "run stories.gguf -p x --repeat-penalty 0",
        "run stories.gguf -p x --repeat-last-n -2",
        "run stories.gguf -p x -n 1.5",
        "run stories.gguf -p x -s 99999999999999999999",
        "run stories.gguf -p x -t 0",
        "run stories.gguf -p x --device gpu",
        "run stories.gguf -p x --h2d-chunk 1",
        "run stories.gguf -p x --stop=",
        "run stories.gguf -p x --json -i",
        "logits stories.gguf --tokens 1,512 -o out",
        "logits stories.gguf --tokens 1,x -o out",
        "logits stories.gguf --tokens 1 -o missing/out",
        "frobnicate",
    ];
    let mut said = String::new();
    for line in lines {
        let arguments: Vec<&str> = line.split(' ').collect();
        let output = oxwarp(&arguments).current_dir(&dir).stdin(Stdio::null()).output().unwrap();
        assert!(output.stdout.is_empty(), "{line}: {output:?}");
        let code = output.status.code().expect("no signal");
        said +=
            &format!("$ oxwarp {line}\n{}[exit code {code}]\n\n", String::from_utf8(output.stderr).unwrap());
    }
    insta::assert_snapshot!(said);
}

#[test]
fn help() {
    let help: Vec<String> =
        [["run", "--help"], ["logits", "--help"]].iter().map(|arguments| run(arguments).stdout).collect();
    insta::assert_snapshot!(help.join("\n———\n\n"));
    let all = run(&["--help"]).stdout;
    let listed = |command: &str| all.lines().any(|line| line.trim_start().starts_with(command));
    assert!(["run ", "logits ", "tokenize "].iter().all(|command| listed(command)), "{all}");
}

#[test]
fn logits_are_those_of_the_golden_file() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("logits.bin");
    let golden = std::fs::read(support::fixture("golden/logits/stories260K.Q8_0.bin")).unwrap();
    let tokens = "1,403,407,261,378,432,383,286,261,376,298,315,421,395,317,426,338,401,396,267,337,410,408,419,292,411,\
                  322,265,282,295,433,426,385,328,432,358,394,261,370,432";
    let finished = run(&["logits", STORIES, "--tokens", tokens, "-o", out.to_str().unwrap()]);
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(0), ""));
    let floats = |bytes: &[u8]| -> Vec<f32> {
        bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    };
    let (written, golden) = (floats(&std::fs::read(out).unwrap()), floats(&golden));
    assert_eq!(written.len(), 40 * 512);
    assert_eq!(golden.len(), written.len());
    // The fixtures' bound for an engine that computes in f32.
    let off = |(at, (ours, golden)): (usize, (&f32, &f32))| ((ours - golden).abs(), at);
    let (worst, at) =
        written.iter().zip(&golden).enumerate().map(off).max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
    assert!(worst <= 1e-3, "position {}, token {}: off by {worst}", at / 512, at % 512);
}

/// A reader that has seen enough ends the command, quietly.
#[test]
fn closed_standard_output() {
    let mut child = oxwarp(&story_args(&["-c", "20000", "--allow-longer-context"]))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut beginning = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut beginning).unwrap();
    assert_eq!(&beginning, &STORY.as_bytes()[..10]);
    let finished = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(finished.stderr).unwrap(), "");
    assert_eq!(finished.status.code(), Some(0));
}

#[test]
fn interrupting_one_answer() {
    let mut child = oxwarp(&story_args(&["-c", "20000", "--allow-longer-context"]))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut beginning = [0; 10];
    stdout.read_exact(&mut beginning).unwrap();
    support::interrupt(&child);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    let finished = child.wait_with_output().unwrap();
    let summary = String::from_utf8(finished.stderr).unwrap();
    assert!(summary.contains(" | interrupted | ") && summary.contains(" | seed "), "{summary}");
    assert_eq!(finished.status.code(), Some(130));
    assert!(rest.ends_with('\n'), "the line is ended: {rest:?}");
}

/// Each turn sees those before it and computes only what is new; an answer is what the model says to the rendered
/// conversation as one raw prompt.
#[test]
fn conversation_from_a_pipe() {
    let model = chat_model();
    let model = model.path().join(CHAT_MODEL);
    let model = model.to_str().unwrap();
    let options = ["--temp", "0", "-n", "12"];
    let talk = |input: &str, more: &[&str]| {
        let arguments = [&["run", model, "-i", "-v"], &options[..], more].concat();
        let finished = run_with_input(&arguments, input);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        finished
    };
    let raw = |prompt: &str| {
        let arguments = [&["run", model, "--raw", "-p", prompt], &options[..]].concat();
        run(&arguments).stdout
    };
    let first = raw("[user] Lily is sad.\n[assistant]");
    let second_prompt =
        format!("[user] Lily is sad.\n[assistant] {}\n[user] Why?\n[assistant]", first.trim());
    let second = raw(&second_prompt);

    let finished = talk("Lily is sad.\nWhy?\n", &[]);
    assert_eq!(finished.stdout, format!("{first}{second}"));
    let turns: Vec<&str> = finished.stderr.lines().filter(|line| line.starts_with("[prompt")).collect();
    assert_eq!(turns.len(), 2, "{}", finished.stderr);
    assert!(!turns[0].contains("cached") && turns[1].contains("cached"), "{turns:?}");

    // Forgotten: the second is then a first one. After the end nothing is answered.
    let fresh = raw("[user] Why?\n[assistant]");
    assert_eq!(talk("Lily is sad.\n/reset\n\nWhy?\n/exit\nWhy?\n", &[]).stdout, format!("{first}{fresh}"));
    // The first message from the command line, and a system message, which a reset keeps.
    assert_eq!(talk("Why?\n", &["-p", "Lily is sad."]).stdout, format!("{first}{second}"));
    let kind = raw("[system] Be kind.\n[user] Why?\n[assistant]");
    assert_eq!(talk("Why?\n/reset\nWhy?\n", &["--system", "Be kind."]).stdout, format!("{kind}{kind}"));
    // One message and no conversation.
    let once = [&["run", model, "-p", "Why?", "--system", "Be kind."], &options[..]].concat();
    assert_eq!(run(&once).stdout, kind);
}

/// A message that does not fit is refused, and the conversation goes on.
#[test]
fn conversation_beyond_the_context() {
    let model = chat_model();
    let model = model.path().join(CHAT_MODEL);
    let long = "Lily is sad. ".repeat(20);
    let input = format!("{long}\nWhy?\n");
    let finished =
        run_with_input(&["run", model.to_str().unwrap(), "-i", "--temp", "0", "-n", "5", "-c", "60"], &input);
    assert_eq!(finished.code, Some(0));
    let refusal = finished.stderr.lines().find(|line| line.starts_with("error: ")).expect("a refusal");
    assert!(refusal.ends_with(" tokens, the context holds 60"), "{refusal}");
    assert_eq!(finished.stdout.lines().count(), 1, "the short one is answered: {:?}", finished.stdout);
}

/// At a terminal: Ctrl-C stops the answer and not the program; history; Ctrl-D ends.
#[test]
fn conversation_at_a_terminal() {
    let model = chat_model();
    let model = model.path().join(CHAT_MODEL);
    let arguments = ["run", model.to_str().unwrap(), "-c", "20000", "--allow-longer-context", "--temp", "0"];
    // The end of bracketed pasting, which the line editor says when it hands a line over.
    const LINE_TAKEN: &str = "\x1b[?2004l";
    let mut terminal = support::Terminal::start(oxwarp(&arguments));
    terminal.wait_for("> ");
    terminal.type_keys("Lily is sad.\r");
    terminal.wait_for(LINE_TAKEN);
    terminal.wait_for("She");
    terminal.type_keys("\x03");
    terminal.wait_for("> ");
    // Ctrl-C at the prompt only says how to leave.
    terminal.type_keys("\x03");
    terminal.wait_for("Ctrl-D ends");
    terminal.wait_for("> ");
    terminal.type_keys("\x1b[A");
    terminal.wait_for("Lily is sad.");
    terminal.type_keys("\x15\x04");
    terminal.wait_for("seed ");
    assert_eq!(terminal.finish(), Some(0));
}

//! The rules. Patterns that would find themselves here are written in two pieces.

use super::source::{Source, has_word};
use super::{Finding, unsafe_code};

/// A rule looks at all files, since some need two of them.
type Rule = fn(&[Source]) -> Vec<Finding>;

pub const RULES: [Rule; 9] = [
    assembly,
    vendor_libraries,
    model_names,
    unsafe_code::check,
    unfinished,
    file_length,
    input_output,
    foreign_places,
    shared_lints,
];

/// Every line (from 0) of the given view that has one of the words, as a finding.
fn lines_with<'a>(source: &'a Source, view: &'a [String], words: &'a [&'a str], what: &str) -> Vec<Finding> {
    let hit = |line: &&str| words.iter().copied().find(|word| has_word(line, word));
    let lines = view.iter().enumerate().filter_map(|(index, line)| Some((index, hit(&line.as_str())?)));
    lines.map(|(index, word)| finding(source, index + 1, format!("`{word}` {what}"))).collect()
}

fn finding(source: &Source, line: usize, what: String) -> Finding {
    Finding { path: source.path.clone(), line, what }
}

/// Findings in the test module at a file's end do not count.
fn outside_tests(source: &Source, findings: Vec<Finding>) -> Vec<Finding> {
    findings.into_iter().filter(|finding| !source.is_test(finding.line - 1)).collect()
}

/// Inline assembly and LLVM's intrinsics are in one folder. (The driver's jump table is CPU code; the linter's planted
/// kernels are broken on purpose.)
fn assembly(sources: &[Source]) -> Vec<Finding> {
    const HOME: &str = "kernels-gpu/src/simt/nvptx/";
    const EXCEPTIONS: [&str; 3] = [HOME, "host/src/cuda/", "xtask/planted/"];
    const INTRINSIC: &str = concat!("link_name = \"", "llvm.");
    let what = format!("outside {HOME}");
    let check = |source: &Source| {
        let mut found = lines_with(source, &source.code, &["asm!", "global_asm!", "naked_asm!"], &what);
        let intrinsics =
            source.code_and_strings.iter().enumerate().filter(|(_, line)| line.contains(INTRINSIC));
        found.extend(
            intrinsics.map(|(index, _)| finding(source, index + 1, format!("an LLVM intrinsic {what}"))),
        );
        found
    };
    rust(sources).filter(|source| !source.is_in(&EXCEPTIONS)).flat_map(check).collect()
}

/// The vendor's matrix library is what the benches compare with; nothing else may load it.
fn vendor_libraries(sources: &[Source]) -> Vec<Finding> {
    const NAME: &str = concat!("cub", "las");
    let check = |source: &Source| {
        let lines: Vec<String> = if source.is_rust() {
            source.code_and_strings.clone()
        } else {
            source.text.lines().map(|line| line.split('#').next().unwrap_or_default().to_string()).collect()
        };
        let hits = lines.into_iter().enumerate().filter(|(_, line)| line.to_lowercase().contains(NAME));
        hits.map(|(index, _)| finding(source, index + 1, format!("{NAME} outside benches/")))
            .collect::<Vec<_>>()
    };
    let checked = |source: &&Source| source.is_rust() || source.path.ends_with(".toml");
    sources.iter().filter(checked).filter(|source| !source.is_in(&["benches/"])).flat_map(check).collect()
}

/// A model is data: only adapters know families by name. Elsewhere the name of a model in code means a special case.
fn model_names(sources: &[Source]) -> Vec<Finding> {
    const NAMES: [&str; 9] =
        ["llama", "qwen", "smollm", "phi3", "phi-3", "gpt_oss", "gpt-oss", "mistral", "gemma"];
    // The product's code; of it, where names are the format's own values or the point:
    const PLACES: [&str; 2] = ["host/src/", "kernels-gpu/src/"];
    const EXCEPTIONS: [&str; 5] = [
        "host/src/model/adapters/",
        // Kinds of RoPE scaling are named after the models that first had them.
        "host/src/model/rope.rs",
        // `tokenizer.ggml.pre` and `tokenizer.ggml.model` are named after models.
        "host/src/tokenizer/",
        // Shapes of public models, to be timed.
        "host/src/synth/",
        "host/src/cli/synth.rs",
    ];
    let check = |source: &Source| {
        let hits = source.code_and_strings.iter().enumerate().filter_map(|(index, line)| {
            let line = line.to_lowercase().replace("llama.cpp", "");
            let name = NAMES.iter().find(|name| line.contains(*name))?;
            Some(finding(
                source,
                index + 1,
                format!("the model name `{name}` outside host/src/model/adapters/"),
            ))
        });
        outside_tests(source, hits.collect())
    };
    rust(sources)
        .filter(|source| source.is_in(&PLACES) && !source.is_in(&EXCEPTIONS))
        .flat_map(check)
        .collect()
}

fn unfinished(sources: &[Source]) -> Vec<Finding> {
    let check = |source: &Source| {
        let mut found = lines_with(source, &source.code, &["todo!", "unimplemented!", "dbg!"], "left in");
        let skipped =
            source.code.iter().enumerate().filter(|(_, line)| line.trim_start().starts_with("#[ignore"));
        found.extend(skipped.map(|(index, _)| finding(source, index + 1, "a test that does not run".into())));
        found
    };
    rust(sources).flat_map(check).collect()
}

const LONGEST_FILE_LINES: usize = 500;

/// Long files are named in ARCHITECTURE.md, with their reason.
fn file_length(sources: &[Source]) -> Vec<Finding> {
    let architecture =
        sources.iter().find(|source| source.path == "ARCHITECTURE.md").map_or("", |source| &source.text);
    let excused = |source: &Source| {
        let name = format!("`{}`", source.path);
        architecture
            .lines()
            .any(|line| line.split_once(&name).is_some_and(|(_, reason)| reason.trim().len() > 20))
    };
    let check = |source: &Source| {
        let lines = source.text.lines().count();
        let what = format!("{lines} lines; at most {LONGEST_FILE_LINES} without a reason in ARCHITECTURE.md");
        (lines > LONGEST_FILE_LINES && !excused(source)).then(|| finding(source, 0, what))
    };
    rust(sources).filter_map(check).collect()
}

/// What reads untrusted bytes takes them as an argument and gives back values.
fn input_output(sources: &[Source]) -> Vec<Finding> {
    const PURE: [&str; 2] = ["host/src/gguf/", "host/src/tokenizer/"];
    const EXCEPTIONS: [&str; 1] = ["host/src/gguf/map.rs"];
    // The traits of std::io are no input or output by themselves.
    const WORDS: [&str; 13] = [
        "std::fs",
        "io::stdin",
        "io::stdout",
        "io::stderr",
        "std::net",
        "std::process",
        "std::env",
        "memmap2",
        "File::open",
        "println!",
        "print!",
        "eprintln!",
        "eprint!",
    ];
    let check = |source: &Source| {
        outside_tests(
            source,
            lines_with(source, &source.code, &WORDS, "in code that does no input or output"),
        )
    };
    rust(sources).filter(|source| source.is_in(&PURE) && !source.is_in(&EXCEPTIONS)).flat_map(check).collect()
}

/// The project works from any checkout and with any mirror: no host of a package registry, no path of one machine.
fn foreign_places(sources: &[Source]) -> Vec<Finding> {
    const PLACES: [&str; 8] = [
        concat!("pypi.", "org"),
        concat!("pythonhosted.", "org"),
        concat!("crates.", "io"),
        concat!("static.rust", "-lang.org"),
        concat!("\"/", "tmp"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("/wo", "rk/"),
    ];
    let check = |source: &Source| {
        let hits = source.text.lines().enumerate().filter_map(|(index, line)| {
            let place = PLACES.iter().find(|place| line.contains(*place))?;
            Some(finding(source, index + 1, format!("`{place}`: a registry's host or one machine's path")))
        });
        hits.collect::<Vec<_>>()
    };
    sources.iter().flat_map(check).collect()
}

/// Every package takes the workspace's lints.
fn shared_lints(sources: &[Source]) -> Vec<Finding> {
    let check = |source: &Source| {
        let is_package = source.text.lines().any(|line| line.trim() == "[package]");
        let has_lints = source.text.contains("[lints]\nworkspace = true");
        let own_workspace = source.text.lines().any(|line| line.trim() == "[workspace]");
        let broken = is_package && !has_lints && !own_workspace;
        broken.then(|| finding(source, 0, "no `[lints] workspace = true`".into()))
    };
    sources.iter().filter(|source| source.path.ends_with("Cargo.toml")).filter_map(check).collect()
}

fn rust(sources: &[Source]) -> impl Iterator<Item = &Source> {
    sources.iter().filter(|source| source.is_rust())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines at which a rule finds something in one file.
    fn lines(rule: Rule, path: &str, text: &str) -> Vec<usize> {
        rule(&[Source::new(path, text)]).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn assembly_outside_its_folder() {
        let text = concat!(
            "// asm! in a comment\nasm",
            "!(\"nop\");\n#[link_name = \"llv",
            "m.nvvm.x\"]\nfn x();\n"
        );
        assert_eq!(lines(assembly, "kernels-gpu/src/gemm.rs", text), [2, 3]);
        assert_eq!(lines(assembly, "kernels-gpu/src/simt/nvptx/warp.rs", text), [0; 0]);
    }

    #[test]
    fn vendor_library_outside_benches() {
        let text = concat!("// cuB", "LAS is faster?\nlet lib = open(\"libcub", "las.so\");\n");
        assert_eq!(lines(vendor_libraries, "host/src/cuda/mod.rs", text), [2]);
        assert_eq!(lines(vendor_libraries, "benches/vendor.rs", text), [0; 0]);
        assert_eq!(
            lines(vendor_libraries, "host/Cargo.toml", concat!("# cub", "las\ncub", "las = \"1\"\n")),
            [2]
        );
    }

    #[test]
    fn model_name_in_code() {
        let text = "// as Llama does, and llama.cpp\nif name == \"qwen2\" {}\n#[cfg(test)]\nmod tests {\n\"gemma\"\n}\n";
        assert_eq!(lines(model_names, "host/src/backend/cpu.rs", text), [2]);
        assert_eq!(lines(model_names, "host/src/model/adapters/llama.rs", text), [0; 0]);
    }

    #[test]
    fn unfinished_code() {
        let text = concat!(
            "// todo",
            "!()\ntodo",
            "!();\nunimplemented",
            "!();\n#[igno",
            "re = \"slow\"]\nfn t() {}\n"
        );
        assert_eq!(lines(unfinished, "host/src/lib.rs", text), [2, 3, 4]);
    }

    #[test]
    fn long_file_without_a_reason() {
        let long = Source::new("host/src/a.rs", &"\n".repeat(501));
        assert_eq!(file_length(&[Source::new("host/src/b.rs", &"\n".repeat(500))]).len(), 0);
        assert_eq!(file_length(&[long]).len(), 1);
        let excused = |reason: &str| {
            let architecture = Source::new("ARCHITECTURE.md", &format!("- `host/src/a.rs`{reason}\n"));
            file_length(&[Source::new("host/src/a.rs", &"\n".repeat(501)), architecture])
        };
        assert_eq!(excused("").len(), 1, "a name without a reason");
        assert_eq!(excused(": one table of all the driver's entries").len(), 0);
    }

    #[test]
    fn input_output_in_pure_code() {
        let text = "use std::fs;\nprintln!();\nlet fs = 1;\n#[cfg(test)]\nmod tests {\nuse std::fs;\n}\n";
        assert_eq!(lines(input_output, "host/src/gguf/parse.rs", text), [1, 2]);
        assert_eq!(lines(input_output, "host/src/gguf/map.rs", text), [0; 0]);
        assert_eq!(lines(input_output, "host/src/generate.rs", text), [0; 0]);
    }

    #[test]
    fn registry_host_and_machine_path() {
        let text = concat!("see https://py", "pi.org\n`/ho", "me/me/x`\nhome/x\n");
        assert_eq!(lines(foreign_places, "README.md", text), [1, 2]);
    }

    #[test]
    fn package_without_shared_lints() {
        let package = "[package]\nname = \"x\"\n";
        assert_eq!(lines(shared_lints, "x/Cargo.toml", package), [0]);
        assert_eq!(
            lines(shared_lints, "x/Cargo.toml", &format!("{package}[lints]\nworkspace = true\n")),
            [0usize; 0]
        );
    }
}

//! Every `unsafe` block and implementation says, in a `SAFETY:` comment before it, whose promise it relies on; every unsafe
//! function that others can call says in `# Safety` what it asks of them.

use super::Finding;
use super::source::{Source, has_word};

/// The linter's planted kernels are broken on purpose, and never run.
const EXCEPTIONS: [&str; 1] = ["xtask/planted/"];

pub fn check(sources: &[Source]) -> Vec<Finding> {
    sources
        .iter()
        .filter(|source| source.is_rust() && !source.is_in(&EXCEPTIONS))
        .flat_map(check_file)
        .collect()
}

fn check_file(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, code) in source.code.iter().enumerate().filter(|(_, code)| has_word(code, "unsafe")) {
        let Some(asked) = asked_for(code) else { continue };
        if !explained(source, line, asked) {
            let what = format!("`unsafe` without `{asked}` and a reason");
            findings.push(Finding { path: source.path.clone(), line: line + 1, what });
        }
    }
    findings
}

/// Which explanation a line with `unsafe` needs.
fn asked_for(code: &str) -> Option<&'static str> {
    let after = code.split("unsafe").nth(1)?.trim_start();
    if after.starts_with('{') || after.starts_with("impl") {
        return Some("SAFETY:");
    }
    let is_function = after.starts_with("fn ") || after.starts_with("extern \"C\" fn ");
    let is_public = code.trim_start().starts_with("pub fn") || code.trim_start().starts_with("pub unsafe");
    (is_function && is_public).then_some("# Safety")
}

/// Whether the comment before the statement of `line`, or on it, has the mark and a reason after it: at least two words,
/// such as "see above". One word, such as "ffi", names nobody's promise.
fn explained(source: &Source, line: usize, mark: &str) -> bool {
    let mut comment = source.comments[line].clone();
    for above in (0..line).rev() {
        let (code, remark) = (source.code[above].trim(), source.comments[above].trim());
        if code.is_empty() && remark.is_empty() {
            break;
        }
        comment = format!("{remark} {comment}");
        // The statement's own earlier lines and its attributes may stand between.
        if code.ends_with([';', '}', ',']) || code.ends_with('{') && !has_word(code, "unsafe") {
            break;
        }
    }
    let reason = comment.split_once(mark).map_or("", |(_, reason)| reason);
    reason.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).count() >= 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<usize> {
        check(&[Source::new("host/src/a.rs", text)]).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn unexplained_blocks() {
        let text = "\
fn f() {
    let x = unsafe { *p };
    // SAFETY: ffi
    unsafe { g() };
    // SAFETY: the caller keeps the map alive.
    unsafe { g() };
    unsafe { h() } // SAFETY: h has no requirements.
}
unsafe impl Send for X {}
";
        assert_eq!(lines(text), [2, 4, 9]);
    }

    #[test]
    fn a_comment_before_a_statement_of_several_lines_counts() {
        let text = "\
// SAFETY: `bytes` outlives the view, see `new`.
#[allow(clippy::cast_ptr_alignment)]
let view =
    unsafe { view(bytes) };
";
        assert_eq!(lines(text), [0; 0]);
    }

    #[test]
    fn public_unsafe_functions_state_their_terms() {
        assert_eq!(lines("/// Reads.\npub unsafe fn read() {}\n"), [2]);
        assert_eq!(
            lines("/// Reads.\n///\n/// # Safety\n/// `p` is valid for reads.\npub unsafe fn read() {}\n"),
            [0; 0]
        );
        assert_eq!(lines("unsafe extern \"C\" {\n    fn x();\n}\n"), [0; 0]);
    }
}

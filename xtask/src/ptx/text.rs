//! Reads PTX text: its functions, their statements, and what it leaves unresolved.

/// A PTX module.
#[derive(Debug, Default)]
pub struct Ptx {
    pub functions: Vec<Function>,
    /// Names of `.extern` functions and variables, shared memory excepted.
    pub externs: Vec<String>,
}

/// An entry (`.entry`) or a function (`.func`) with a body.
#[derive(Debug)]
pub struct Function {
    pub name: String,
    pub is_entry: bool,
    pub statements: Vec<Statement>,
}

/// One instruction or directive; labels and predicates removed.
#[derive(Debug)]
pub struct Statement {
    /// In the PTX text, from 1.
    pub line: usize,
    text: String,
}

impl Statement {
    /// Operation with all its qualifiers, e.g. `ld.global.v4.b32`, or a directive, e.g. `.local`.
    pub fn operation(&self) -> &str {
        self.text.split_whitespace().next().unwrap_or_default()
    }

    /// The operation's parts, e.g. `ld`, `global`, `v4`, `b32`.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.operation().split('.').filter(|part| !part.is_empty())
    }

    pub fn text(&self) -> &str {
        &self.text
    }
}

impl Ptx {
    pub fn parse(ptx: &str) -> Ptx {
        let mut parser = Parser::default();
        for (number, line) in ptx.lines().enumerate() {
            parser.line(number + 1, line);
        }
        parser.ptx
    }

    pub fn function(&self, name: &str) -> Option<&Function> {
        self.functions.iter().find(|function| function.name == name)
    }

    pub fn entries(&self) -> impl Iterator<Item = &Function> {
        self.functions.iter().filter(|function| function.is_entry)
    }
}

#[derive(Default)]
struct Parser {
    ptx: Ptx,
    /// Text since the last statement's end.
    pending: String,
    /// Line on which `pending` starts.
    pending_line: usize,
    /// Open braces.
    depth: usize,
    /// Whether the open braces are a function's body (and not an initialiser or a section).
    in_function: bool,
    in_comment: bool,
}

impl Parser {
    fn line(&mut self, number: usize, line: &str) {
        let mut rest = line;
        while let Some(character) = rest.chars().next() {
            if self.in_comment {
                let Some(end) = rest.find("*/") else { return };
                self.in_comment = false;
                rest = &rest[end + 2..];
                continue;
            }
            if rest.starts_with("//") {
                break;
            }
            if rest.starts_with("/*") {
                self.in_comment = true;
                rest = &rest[2..];
                continue;
            }
            rest = &rest[character.len_utf8()..];
            self.character(number, character);
        }
        // Directives such as `.version 7.0` or `.loc 1 2 3` end with their line.
        if self.is_line_directive() {
            self.pending.clear();
        } else if !self.pending.is_empty() {
            self.pending.push(' ');
        }
    }

    fn is_line_directive(&self) -> bool {
        const ENDED_BY_LINE: [&str; 5] = [".version", ".target", ".address_size", ".loc", ".file"];
        let word = self.pending.split_whitespace().next().unwrap_or_default();
        ENDED_BY_LINE.contains(&word)
    }

    fn character(&mut self, number: usize, character: char) {
        match character {
            '{' => self.open(),
            '}' => self.close(),
            ';' => self.end_of_statement(),
            ':' if self.in_function
                && self.pending.trim_start().starts_with(['$', '_'])
                && !self.pending.contains(' ') =>
            {
                self.pending.clear();
            }
            _ => {
                if self.pending.is_empty() {
                    if character.is_whitespace() {
                        return;
                    }
                    self.pending_line = number;
                }
                self.pending.push(character);
            }
        }
    }

    fn open(&mut self) {
        if self.depth == 0 {
            let header = std::mem::take(&mut self.pending);
            let is_entry = has_word(&header, ".entry");
            self.in_function = is_entry || has_word(&header, ".func");
            if self.in_function {
                let name = declared_name(&header).to_string();
                self.ptx.functions.push(Function { name, is_entry, statements: Vec::new() });
            }
        } else if self.in_function && !self.is_operand_list() {
            // A nested scope, as inline assembly and call sequences have.
            self.pending.clear();
        } else {
            self.pending.push('{');
        }
        self.depth += 1;
    }

    /// Whether an open brace belongs to an instruction's operands, as in `mma.sync… {%r1, %r2}`.
    fn is_operand_list(&self) -> bool {
        !self.pending.trim().is_empty()
    }

    fn close(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        if self.depth == 0 {
            self.pending.clear();
            self.in_function = false;
        } else if self.is_operand_list() {
            self.pending.push('}');
        }
    }

    fn end_of_statement(&mut self) {
        let text = std::mem::take(&mut self.pending);
        if self.depth > 0 && self.in_function {
            let text = without_predicate(text.trim());
            if let Some(function) = self.ptx.functions.last_mut().filter(|_| !text.is_empty()) {
                function.statements.push(Statement { line: self.pending_line, text: text.to_string() });
            }
        } else if has_word(&text, ".extern") && !has_word(&text, ".shared") {
            self.ptx.externs.push(declared_name(&text).to_string());
        }
    }
}

fn without_predicate(statement: &str) -> &str {
    match statement.strip_prefix('@').and_then(|rest| rest.split_once(char::is_whitespace)) {
        Some((_, instruction)) => instruction.trim_start(),
        None => statement,
    }
}

fn has_word(text: &str, word: &str) -> bool {
    text.split_whitespace().any(|candidate| candidate == word)
}

/// The name that a header declares: of a function, the word before its parameters (a result list, `(…)`, may stand
/// before it); of a variable, its last word without the brackets.
fn declared_name(header: &str) -> &str {
    let header = header.trim();
    if !has_word(header, ".func") && !has_word(header, ".entry") {
        return header.split('[').next().unwrap_or(header).split_whitespace().last().unwrap_or_default();
    }
    let after =
        header.split_once(".entry").or_else(|| header.split_once(".func")).map_or(header, |(_, after)| after);
    let after = after.trim_start();
    let after =
        if after.starts_with('(') { after.split_once(')').map_or("", |(_, after)| after) } else { after };
    after.trim_start().split(|c: char| c == '(' || c.is_whitespace()).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PTX: &str = "\
.version 7.0
.target sm_80
.address_size 64
.extern .func  (.param .b32 func_retval0) vprintf
(
\t.param .b64 vprintf_param_0
)
;
.extern .shared .align 128 .b8 DSM[];
.extern .global .align 4 .b8 table[4];
.global .align 4 .b8 bytes[4] = {1, 2, 3, 4}; /* a comment
over lines */
.visible .entry k(
\t.param .u64 .ptr .align 1 k_param_0
)
.maxntid 256
{
\t.reg .pred \t%p<4>;
\t.local .align 4 .b8 \t__local_depot0[512];
$L__BB0_1:                              // %head
\t.loc\t1 23 5
\t@%p1 bra \t$L__BB0_1;
\t// begin inline asm
\t{ .reg .pred p; setp.ne.u32 p, %r1, 0; @!p ld.b32 %r1, [%rd1]; }
\t// end inline asm
\tmma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1, %f2}, {%r1}, {%r2}, {%f3, %f4};
\tret;
}
.func (.param .b32 r) helper(.param .b32 a) { ret; }
";

    #[test]
    fn functions_externs_and_statements() {
        let ptx = Ptx::parse(PTX);
        assert_eq!(ptx.externs, ["vprintf", "table"]);
        let names: Vec<_> = ptx.functions.iter().map(|f| (f.name.as_str(), f.is_entry)).collect();
        assert_eq!(names, [("k", true), ("helper", false)]);
        let operations: Vec<_> = ptx.functions[0].statements.iter().map(Statement::operation).collect();
        let expected = [".reg", ".local", "bra", ".reg", "setp.ne.u32", "ld.b32", MMA, "ret"];
        assert_eq!(operations, expected);
        assert_eq!(ptx.functions[0].statements[1].line, 19);
    }

    const MMA: &str = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32";
}

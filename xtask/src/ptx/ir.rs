//! Reads what the linter needs from LLVM IR text: blocks, the edges between them, and where instructions come from.

use super::patch::global_name;
use std::collections::HashMap;

/// A module of LLVM IR text.
pub struct Module<'a> {
    pub functions: Vec<Function<'a>>,
    metadata: HashMap<&'a str, &'a str>,
}

pub struct Function<'a> {
    pub name: &'a str,
    /// The entry block first.
    pub blocks: Vec<Block<'a>>,
}

pub struct Block<'a> {
    label: &'a str,
    /// One instruction each, without indentation.
    pub instructions: Vec<&'a str>,
    /// Indices into the function's blocks.
    pub successors: Vec<usize>,
}

/// The place in the source that an instruction came from: innermost function first, then where that was inlined, and
/// so on out to the kernel. Copies that the compiler makes of one instruction share it; two calls in the source do not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Site<'a>(Vec<Frame<'a>>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Frame<'a> {
    /// Metadata id of the function's description, e.g. `!302`: one per instance of a generic function.
    function: &'a str,
    file: &'a str,
    line: u32,
    column: u32,
}

impl<'a> Module<'a> {
    pub fn parse(text: &'a str) -> Module<'a> {
        let mut module = Module { functions: Vec::new(), metadata: HashMap::new() };
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if line.starts_with("define ") {
                let name = global_name(line).map_or("", |(name, _)| name);
                let body = lines.by_ref().take_while(|line| *line != "}");
                module.functions.push(Function { name, blocks: blocks(body) });
            } else if let Some((id, node)) = line.split_once(" = ").filter(|(id, _)| id.starts_with('!')) {
                module.metadata.insert(id, node.strip_prefix("distinct ").unwrap_or(node));
            }
        }
        module
    }

    pub fn function(&self, name: &str) -> Option<&Function<'a>> {
        self.functions.iter().find(|function| function.name == name)
    }

    /// Where an instruction comes from, or `None` where the compiler no longer knows (merged or synthesised code).
    pub fn site(&self, instruction: &'a str) -> Option<Site<'a>> {
        let mut id = instruction.split("!dbg ").nth(1).map(metadata_id);
        let mut frames = Vec::new();
        while let Some(location) = id.and_then(|id| self.metadata.get(id)) {
            let line = field(location, "line")?.parse().ok().filter(|line| *line != 0)?;
            let column = field(location, "column").map_or(Some(0), |column| column.parse().ok())?;
            let (function, file) = self.function_of(field(location, "scope")?)?;
            frames.push(Frame { function, file, line, column });
            id = field(location, "inlinedAt");
        }
        (!frames.is_empty()).then_some(Site(frames))
    }

    /// The function that a scope lies in, and the file of that function.
    fn function_of(&self, mut scope: &'a str) -> Option<(&'a str, &'a str)> {
        loop {
            let node = self.metadata.get(scope)?;
            if node.starts_with("!DISubprogram(") {
                let file = field(node, "file").and_then(|file| self.metadata.get(file));
                let file = file.and_then(|file| field(file, "filename")).unwrap_or("?");
                return Some((scope, file));
            }
            scope = field(node, "scope")?;
        }
    }
}

impl Site<'_> {
    /// `file:line:column`, and where that is inlined in turn.
    pub fn shown(&self) -> String {
        let frames = self.0.iter().map(|frame| format!("{}:{}:{}", frame.file, frame.line, frame.column));
        frames.collect::<Vec<_>>().join(", called at ")
    }
}

impl Function<'_> {
    /// For each block, whether each other block can run after it within one pass through the loops around both, that
    /// is without following an edge back to a loop's head.
    pub fn forward_reach(&self) -> Vec<Vec<bool>> {
        let (order, back_edges) = self.postorder();
        let mut reach = vec![vec![false; self.blocks.len()]; self.blocks.len()];
        // Postorder: every forward successor is complete before its predecessors.
        for &block in &order {
            for &next in &self.blocks[block].successors {
                if back_edges.contains(&(block, next)) {
                    continue;
                }
                let (of_next, of_block) = two(&mut reach, next, block);
                of_block.iter_mut().zip(of_next.iter()).for_each(|(mine, theirs)| *mine |= theirs);
                reach[block][next] = true;
            }
        }
        reach
    }

    /// Blocks in depth-first postorder, and the edges that lead back to a block still being visited.
    fn postorder(&self) -> (Vec<usize>, std::collections::HashSet<(usize, usize)>) {
        #[derive(Clone, Copy, PartialEq)]
        enum State {
            New,
            Open,
            Done,
        }
        let mut state = vec![State::New; self.blocks.len()];
        let mut order = Vec::new();
        let mut back_edges = std::collections::HashSet::new();
        let mut stack = if self.blocks.is_empty() { vec![] } else { vec![(0, 0)] };
        while let Some((block, edge)) = stack.pop() {
            state[block] = State::Open;
            let Some(&next) = self.blocks[block].successors.get(edge) else {
                state[block] = State::Done;
                order.push(block);
                continue;
            };
            stack.push((block, edge + 1));
            match state[next] {
                State::New => stack.push((next, 0)),
                State::Open => _ = back_edges.insert((block, next)),
                State::Done => {}
            }
        }
        (order, back_edges)
    }
}

/// The rows `read` (shared) and `write` (exclusive) of a matrix; the same row twice gives an empty `read`.
fn two(rows: &mut [Vec<bool>], read: usize, write: usize) -> (&[bool], &mut [bool]) {
    match read.cmp(&write) {
        std::cmp::Ordering::Less => {
            let (low, high) = rows.split_at_mut(write);
            (&low[read], &mut high[0])
        }
        std::cmp::Ordering::Greater => {
            let (low, high) = rows.split_at_mut(read);
            (&high[0], &mut low[write])
        }
        std::cmp::Ordering::Equal => (&[], &mut rows[write]),
    }
}

fn blocks<'a>(body: impl Iterator<Item = &'a str>) -> Vec<Block<'a>> {
    let mut blocks = vec![Block { label: "", instructions: Vec::new(), successors: Vec::new() }];
    // Labels that each block jumps to; resolved when all are known.
    let mut targets: Vec<Vec<&str>> = vec![Vec::new()];
    for line in body {
        if line.starts_with(char::is_whitespace) {
            let line = line.trim_start();
            let last = blocks.len() - 1;
            blocks[last].instructions.push(line);
            targets[last].extend(line.split("label %").skip(1).map(label));
        } else if let Some((name, _)) = line.split_once(':') {
            let first_has_label = blocks.len() == 1 && blocks[0].instructions.is_empty();
            if first_has_label {
                blocks[0].label = name.trim_matches('"');
                continue;
            }
            blocks.push(Block {
                label: name.trim_matches('"'),
                instructions: Vec::new(),
                successors: Vec::new(),
            });
            targets.push(Vec::new());
        }
    }
    let index: HashMap<&str, usize> =
        blocks.iter().enumerate().map(|(index, block)| (block.label, index)).collect();
    for (block, targets) in blocks.iter_mut().zip(targets) {
        block.successors = targets.iter().filter_map(|label| index.get(label).copied()).collect();
    }
    blocks
}

/// The label at the start of the text: quoted, or up to the first character that cannot be in a bare one.
fn label(text: &str) -> &str {
    if let Some(quoted) = text.strip_prefix('"') {
        return quoted.split('"').next().unwrap_or(quoted);
    }
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || "-$._".contains(c))).unwrap_or(text.len());
    &text[..end]
}

fn metadata_id(text: &str) -> &str {
    let end = text[1..].find(|c: char| !c.is_ascii_digit()).map_or(text.len(), |end| end + 1);
    &text[..end]
}

/// The value of `name: value` in a metadata node; strings without their quotes.
fn field<'a>(node: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = node;
    loop {
        let at = rest.find(name)?;
        let standing_alone = rest[..at].ends_with(['(', ' ']);
        match rest[at + name.len()..].strip_prefix(": ") {
            Some(value) if standing_alone => {
                return Some(match value.strip_prefix('"') {
                    Some(text) => text.split('"').next().unwrap_or(text),
                    None => value.split([',', ')']).next().unwrap_or(value),
                });
            }
            _ => rest = &rest[at + name.len()..],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOP: &str = "\
define ptx_kernel void @k(i1 %c) convergent {
  br label %head

head:                                             ; preds = %latch, %0
  br i1 %c, label %left, label %right, !dbg !2

left:                                             ; preds = %head
  br label %latch

right:                                            ; preds = %head
  switch i32 %x, label %latch [
    i32 0, label %left
    i32 1, label %\"quoted exit\"
  ]

latch:                                            ; preds = %left, %right
  br label %head

\"quoted exit\":                                    ; preds = %right
  ret void
}

!1 = distinct !DISubprogram(name: \"k\", scope: !9, file: !3, line: 7)
!2 = !DILocation(line: 10, column: 5, scope: !4, inlinedAt: !5)
!3 = !DIFile(filename: \"src/k.rs\", directory: \"/\")
!4 = distinct !DILexicalBlock(scope: !1, file: !3, line: 9)
!5 = distinct !DILocation(line: 20, column: 3, scope: !1)
";

    #[test]
    fn blocks_and_edges() {
        let module = Module::parse(LOOP);
        let blocks = &module.function("k").expect("defined").blocks;
        let edges: Vec<_> = blocks.iter().map(|block| block.successors.as_slice()).collect();
        assert_eq!(edges, [&[1][..], &[2, 3], &[4], &[4, 2, 5], &[1], &[]]);
    }

    #[test]
    fn forward_reach_ignores_the_way_round_a_loop() {
        let module = Module::parse(LOOP);
        let reach = module.function("k").expect("defined").forward_reach();
        let (head, left, right, latch) = (1, 2, 3, 4);
        assert!(reach[head][left] && reach[right][left] && reach[left][latch]);
        assert!(!reach[left][right], "only by another iteration");
        assert!(!reach[latch][head], "a back edge");
    }

    #[test]
    fn a_site_is_the_chain_of_calls() {
        let module = Module::parse(LOOP);
        let branch = module.function("k").expect("defined").blocks[1].instructions[0];
        let site = module.site(branch).expect("has a location");
        assert_eq!(site.shown(), "src/k.rs:10:5, called at src/k.rs:20:3");
        assert_eq!(module.site("ret void"), None);
    }
}

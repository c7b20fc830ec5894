//! The one edit of the unoptimised IR text: what rustc 1.95 cannot say about GPU code.
//!
//! * `convergent` on every function definition, on declarations other than LLVM's own intrinsics, and on every call of
//!   inline assembly with side effects. Without it LLVM may copy a barrier into both arms of a divergent branch.
//! * Launch bounds of the kernels, which rustc has no attribute for.
//! * Tensor maps: a parameter that Rust sees as a pointer becomes 128 bytes by value, which the copy engine reads in place.
//! * The processor: the bitcode is compiled once for the oldest target and retargeted here.

use super::Entry;
use std::collections::HashMap;

/// Patches a whole module for `cpu`; `kernels` are those that the registry knows.
pub fn patch(ir: &str, cpu: &str, kernels: &[Entry]) -> String {
    let launch: HashMap<&str, &Entry> = kernels.iter().map(|kernel| (kernel.name.as_str(), kernel)).collect();
    let mut patched = String::with_capacity(ir.len() + ir.len() / 16);
    for line in ir.lines() {
        if line.starts_with("define ") || line.starts_with("declare ") {
            patched.push_str(&with_function_attributes(line, &launch));
        } else if line.starts_with("attributes #") {
            patched.push_str(&with_cpu(line, cpu));
        } else {
            patched.push_str(&with_convergent_asm(line));
        }
        patched.push('\n');
    }
    patched
}

fn launch_attributes(kernel: &Entry) -> String {
    let mut text = format!(" \"nvvm.maxntid\"=\"{}\"", kernel.threads);
    for (name, value) in
        [("minctasm", kernel.min_blocks), ("maxnreg", kernel.max_registers), ("cluster_dim", kernel.cluster)]
    {
        if let Some(value) = value {
            text.push_str(&format!(" \"nvvm.{name}\"=\"{value}\""));
        }
    }
    text
}

/// `define … @name(…) [unnamed_addr] <here> #0 {`
fn with_function_attributes(line: &str, launch: &HashMap<&str, &Entry>) -> String {
    let unchanged = || line.to_string();
    let Some((name, parameters)) = global_name(line) else { return unchanged() };
    if name.starts_with("llvm.") {
        return unchanged();
    }
    let Some(mut position) = closing_paren(line, parameters) else { return unchanged() };
    for word in [" unnamed_addr", " local_unnamed_addr"] {
        if line[position..].starts_with(word) {
            position += word.len();
        }
    }
    let kernel = launch.get(name).filter(|_| line.starts_with("define "));
    let bounds = kernel.map_or_else(String::new, |kernel| launch_attributes(kernel));
    let (head, tail) = line.split_at(position);
    let head = match kernel {
        Some(kernel) => with_tensor_maps(head, parameters, &kernel.tensor_maps),
        None => head.to_string(),
    };
    format!("{head} convergent{bounds}{tail}")
}

/// `@name(ptr noundef %map, …` becomes `@name(ptr byval([128 x i8]) align 64 "nvvm.grid_constant" %map, …`. (rustc 1.95 has
/// no parameters aligned to more than 16 bytes, and would copy the map to the stack.)
fn with_tensor_maps(head: &str, open: usize, positions: &[usize]) -> String {
    if positions.is_empty() {
        return head.to_string();
    }
    let close = closing_paren(head, open).expect("the parameters end before the attributes");
    let mut parameters: Vec<String> = top_level_parts(&head[open + 1..close - 1]);
    for &position in positions {
        let parameter = &parameters[position];
        let name = parameter.split_whitespace().last().unwrap_or_default();
        assert!(parameter.trim_start().starts_with("ptr "), "parameter {position} of {head} is no pointer");
        parameters[position] = format!("ptr byval([128 x i8]) align 64 \"nvvm.grid_constant\" {name}");
    }
    format!("{}({}){}", &head[..open], parameters.join(", "), &head[close..])
}

/// The parts between the commas that are in no parentheses.
fn top_level_parts(list: &str) -> Vec<String> {
    let (mut parts, mut depth) = (vec![String::new()], 0usize);
    for character in list.chars() {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().expect("never empty").push(character);
    }
    parts.iter().map(|part| part.trim().to_string()).collect()
}

/// `call … asm sideeffect "…", "…"(…) <here> #7, !dbg !1`
fn with_convergent_asm(line: &str) -> String {
    let unchanged = || line.to_string();
    let Some(asm) = line.find(" asm sideeffect ") else { return unchanged() };
    let Some(position) = asm_call_end(line, asm) else { return unchanged() };
    format!("{} convergent{}", &line[..position], &line[position..])
}

/// Where the arguments of the assembly call end that starts at `asm`: after template, constraints and arguments.
fn asm_call_end(line: &str, asm: usize) -> Option<usize> {
    let template = asm + line[asm..].find('"')?;
    let template_end = template + 1 + line[template + 1..].find('"')?;
    let constraints = template_end + 1 + line[template_end + 1..].find('"')?;
    let constraints_end = constraints + 1 + line[constraints + 1..].find('"')?;
    let arguments = constraints_end + 1;
    line[arguments..].starts_with('(').then(|| closing_paren(line, arguments))?
}

fn with_cpu(line: &str, cpu: &str) -> String {
    const KEY: &str = "\"target-cpu\"=\"";
    let Some(start) = line.find(KEY).map(|at| at + KEY.len()) else { return line.to_string() };
    let Some(end) = line[start..].find('"').map(|at| at + start) else { return line.to_string() };
    format!("{}{cpu}{}", &line[..start], &line[end..])
}

/// The name after `@` (quotes removed) and the position of the parenthesis that follows it.
pub fn global_name(line: &str) -> Option<(&str, usize)> {
    let at = line.find('@')? + 1;
    if let Some(quoted) = line[at..].strip_prefix('"') {
        let length = quoted.find('"')?;
        return Some((&quoted[..length], at + length + 2));
    }
    let length = line[at..].find('(')?;
    Some((&line[at..at + length], at + length))
}

/// The position after the parenthesis that closes the one at `open`; text in quotes does not count.
pub fn closing_paren(line: &str, open: usize) -> Option<usize> {
    let (mut depth, mut in_quotes) = (0usize, false);
    for (position, byte) in line.bytes().enumerate().skip(open) {
        match byte {
            b'"' => in_quotes = !in_quotes,
            b'(' if !in_quotes => depth += 1,
            b')' if !in_quotes => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(position + 1);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernels() -> Vec<Entry> {
        vec![Entry {
            name: "k".into(),
            threads: 128,
            min_blocks: Some(2),
            max_registers: Some(64),
            ..Entry::default()
        }]
    }

    #[test]
    fn kernels_get_convergent_and_their_launch_bounds() {
        let line =
            "define ptx_kernel void @k(ptr noundef captures(none) %0, i32 %1) unnamed_addr #1 !dbg !302 {";
        assert_eq!(
            patch(line, "sm_80", &kernels()),
            "define ptx_kernel void @k(ptr noundef captures(none) %0, i32 %1) unnamed_addr convergent \
             \"nvvm.maxntid\"=\"128\" \"nvvm.minctasm\"=\"2\" \"nvvm.maxnreg\"=\"64\" #1 !dbg !302 {\n"
        );
    }

    #[test]
    fn tensor_maps_are_passed_by_value() {
        let maps = Entry { name: "k".into(), threads: 128, tensor_maps: vec![0, 2], ..Entry::default() };
        let line = "define ptx_kernel void @k(ptr noundef captures(none) %a, i32 %n, ptr noundef %b) unnamed_addr #1 {";
        assert_eq!(
            patch(line, "sm_90a", &[maps]),
            "define ptx_kernel void @k(ptr byval([128 x i8]) align 64 \"nvvm.grid_constant\" %a, i32 %n, \
             ptr byval([128 x i8]) align 64 \"nvvm.grid_constant\" %b) unnamed_addr convergent \
             \"nvvm.maxntid\"=\"128\" #1 {\n"
        );
    }

    #[test]
    fn definitions_and_foreign_declarations_are_convergent_but_not_intrinsics() {
        assert_eq!(
            patch("define ptr @shim_dsm() #7 {", "sm_80", &[]),
            "define ptr @shim_dsm() convergent #7 {\n"
        );
        assert_eq!(
            patch("declare void @\"f f\"(i32) #2", "sm_80", &[]),
            "declare void @\"f f\"(i32) convergent #2\n"
        );
        let intrinsic = "declare void @llvm.trap() #6";
        assert_eq!(patch(intrinsic, "sm_80", &[]), format!("{intrinsic}\n"));
    }

    #[test]
    fn assembly_with_side_effects_is_convergent_and_pure_assembly_is_not() {
        let barrier =
            r#"  call void asm sideeffect alignstack "bar.sync $0;", "r,~{memory}"(i32 (f())) #3, !dbg !447"#;
        let expected = r#"  call void asm sideeffect alignstack "bar.sync $0;", "r,~{memory}"(i32 (f())) convergent #3, !dbg !447"#;
        assert_eq!(patch(barrier, "sm_80", &[]), format!("{expected}\n"));
        let pure = r#"  %2 = call i16 asm "cvt.rn.bf16.f32 $0, $1;", "=h,f"(float %1) #3"#;
        assert_eq!(patch(pure, "sm_80", &[]), format!("{pure}\n"));
    }

    #[test]
    fn the_processor_is_replaced() {
        let attributes = r#"attributes #0 = { nounwind "target-cpu"="sm_80" }"#;
        assert_eq!(
            patch(attributes, "sm_90a", &[]),
            "attributes #0 = { nounwind \"target-cpu\"=\"sm_90a\" }\n"
        );
    }
}

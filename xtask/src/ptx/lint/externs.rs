//! Nothing is left for a linker: the driver has none for these modules.

use super::Violation;
use crate::ptx::text::Ptx;

pub fn check(ptx: &Ptx) -> Vec<Violation> {
    let violation = |name: &String| Violation {
        kernel: "(module)".into(),
        rule: "unresolved externs",
        found: format!("`{name}` declared and nowhere defined"),
        allowed: "none but shared memory".into(),
    };
    ptx.externs.iter().map(violation).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unresolved_function_is_named() {
        let ptx = Ptx::parse(
            ".extern .func  (.param .b32 r) fmodf\n(\n.param .b32 x\n)\n;\n.extern .shared .b8 S[];\n",
        );
        let violations = check(&ptx);
        assert_eq!(violations.len(), 1);
        assert_eq!(violations[0].found, "`fmodf` declared and nowhere defined");
    }
}

//! The module has exactly the kernels of the registry.

use super::Violation;
use crate::ptx::Entry;
use crate::ptx::text::Ptx;

pub fn check(ptx: &Ptx, kernels: &[Entry]) -> Vec<Violation> {
    let violation = |kernel: &str, found: &str, allowed: &str| Violation {
        kernel: kernel.to_string(),
        rule: "entries",
        found: found.to_string(),
        allowed: allowed.to_string(),
    };
    let lost = kernels.iter().filter(|kernel| !ptx.entries().any(|entry| entry.name == kernel.name));
    let strange = ptx.entries().filter(|entry| !kernels.iter().any(|kernel| kernel.name == entry.name));
    lost.map(|kernel| violation(&kernel.name, "no PTX entry", "one, since the registry has the kernel"))
        .chain(strange.map(|entry| violation(&entry.name, "a PTX entry", "only kernels of the registry")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_and_unregistered_kernels_are_named() {
        let ptx = Ptx::parse(".visible .entry stray(\n)\n{\n\tret;\n}\n");
        let kernels = [Entry { name: "lost".into(), ..Entry::default() }];
        let found: Vec<_> = check(&ptx, &kernels).into_iter().map(|v| (v.kernel, v.found)).collect();
        assert_eq!(found, [("lost".into(), "no PTX entry".into()), ("stray".into(), "a PTX entry".into())]);
    }
}

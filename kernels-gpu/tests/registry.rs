//! The list of all kernels, which the linker makes.

use kernels_gpu::launch::{ParamKind, all_kernels};

#[test]
fn every_kernel_of_the_sources_is_listed_once() {
    let mut in_sources: Vec<String> = Vec::new();
    let package = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    collect(&package.join("src"), &mut in_sources);
    assert!(!in_sources.is_empty());
    let listed: Vec<&str> = all_kernels().iter().map(|kernel| kernel.name).collect();
    for name in &in_sources {
        let n = listed.iter().filter(|listed| *listed == name).count();
        assert_eq!(n, 1, "{name} is listed {n} times");
    }
    // The others are made by macros, which are given their names.
    for kernel in all_kernels() {
        let text = std::fs::read_to_string(package.join("..").join(kernel.file)).unwrap();
        assert!(text.contains(kernel.name), "{} is not in {}", kernel.name, kernel.file);
    }
}

/// Names of the functions that follow a `#[kernel(...)]` attribute at the start of a line.
fn collect(folder: &std::path::Path, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let mut lines = text.lines();
            while lines.by_ref().any(|line| line.starts_with("#[kernel(")) {
                let function = lines.by_ref().find(|line| line.starts_with("pub fn ")).unwrap();
                names.push(function["pub fn ".len()..].split('(').next().unwrap().to_owned());
            }
        }
    }
}

#[test]
fn rmsnorm_states_its_launch() {
    let kernels = all_kernels();
    let rmsnorm = kernels.iter().find(|kernel| kernel.name == "rmsnorm_f32").unwrap();
    assert_eq!((rmsnorm.threads, rmsnorm.shared_bytes), (256, 128));
    assert_eq!((rmsnorm.min_blocks, rmsnorm.max_regs, rmsnorm.cluster), (Some(4), None, None));
    let params: Vec<_> = rmsnorm.params.iter().map(|p| (p.name, p.kind, p.ty, p.bytes)).collect();
    let expected = [
        ("y", ParamKind::Out, "f32", 4),
        ("x", ParamKind::In, "f32", 4),
        ("w", ParamKind::In, "f32", 4),
        ("dim", ParamKind::Scalar, "u32", 4),
        ("eps", ParamKind::Scalar, "f32", 4),
    ];
    assert_eq!(params, expected);
    assert!(rmsnorm.file.ends_with("rmsnorm.rs"), "{}", rmsnorm.file);
}

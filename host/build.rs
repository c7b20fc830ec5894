//! Embeds the PTX modules that `cargo xtask build-ptx` made, where there are any, into the host.
//!
//! Writes `OUT_DIR/ptx_modules.rs`, which host/src/cuda includes. It never builds kernels: a host built without
//! modules runs on the CPU and says which command makes them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

#[path = "../xtask/src/source_hash.rs"]
mod source_hash;

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let workspace = manifest.parent().expect("the host lies in the workspace").to_path_buf();
    let ptx_dir = match env::var_os("OXWARP_PTX_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => workspace.join("target/ptx"),
    };
    // Cargo notices a file that appears in a folder it watches, but would rerun this script at every build for a
    // folder that does not exist.
    fs::create_dir_all(&ptx_dir).unwrap_or_else(|error| panic!("create {}: {error}", ptx_dir.display()));
    println!("cargo::rerun-if-changed={}", ptx_dir.display());
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", workspace.join("xtask/src/source_hash.rs").display());
    println!("cargo::rerun-if-env-changed=OXWARP_PTX_DIR");
    for source in source_hash::SOURCES {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }

    let hash = source_hash::source_hash(&workspace)
        .unwrap_or_else(|error| panic!("hash of the kernel sources: {error}"));
    let generated = modules_source(&hash, &ptx_files(&ptx_dir));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("ptx_modules.rs");
    fs::write(&out, generated).unwrap_or_else(|error| panic!("write {}: {error}", out.display()));
}

/// The modules in `dir` as (target, path), sorted by target: `oxwarp_<target>.ptx`.
fn ptx_files(dir: &Path) -> Vec<(String, PathBuf)> {
    let mut modules: Vec<_> = fs::read_dir(dir)
        .unwrap_or_else(|error| panic!("read {}: {error}", dir.display()))
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let target =
                path.file_name()?.to_str()?.strip_prefix("oxwarp_")?.strip_suffix(".ptx")?.to_string();
            Some((target, path))
        })
        .collect();
    modules.sort();
    modules
}

fn modules_source(source_hash: &str, modules: &[(String, PathBuf)]) -> String {
    let mut text = format!(
        "/// SHA-256 of the kernel sources that this host was compiled with.\n\
         pub const SOURCE_HASH: &str = {source_hash:?};\n\n\
         /// A PTX module as `cargo xtask build-ptx` left it. It is stale unless `stamp` equals [`SOURCE_HASH`].\n\
         pub struct EmbeddedModule {{\n\
         \x20   /// The compiler's name of the processor it is for, e.g. `sm_80`.\n\
         \x20   pub target: &'static str,\n\
         \x20   /// Hash of the sources it was built from; empty where the file carries none.\n\
         \x20   pub stamp: &'static str,\n\
         \x20   /// The module's text.\n\
         \x20   pub ptx: &'static str,\n\
         \x20   /// Its machine code for the target itself, where ptxas was there to make it.\n\
         \x20   pub cubin: Option<&'static [u8]>,\n\
         }}\n\n\
         /// The driver reads words. (Not used where no module has machine code.)\n\
         #[allow(dead_code)]\n\
         #[repr(align(16))]\n\
         struct Aligned<T: ?Sized>(T);\n\n\
         /// The modules embedded in this host, by target; empty where none had been built.\n\
         pub static MODULES: &[EmbeddedModule] = &[\n"
    );
    for (target, path) in modules {
        let ptx = fs::read_to_string(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
        let stamp = source_hash::stamp(&ptx).unwrap_or_default();
        let path = fs::canonicalize(path).unwrap_or_else(|error| panic!("find {}: {error}", path.display()));
        let cubin = path.with_extension("cubin");
        let cubin = if cubin.exists() {
            format!("Some({{ static CODE: &Aligned<[u8]> = &Aligned(*include_bytes!({cubin:?})); &CODE.0 }})")
        } else {
            "None".to_string()
        };
        writeln!(
            text,
            "    EmbeddedModule {{ target: {target:?}, stamp: {stamp:?}, ptx: include_str!({path:?}), cubin: {cubin} }},"
        )
        .expect("writing to a String cannot fail");
    }
    text.push_str("];\n");
    text
}

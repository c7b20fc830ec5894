//! GGUF files: what is read from good ones.

mod files;
mod header;
mod metadata;
pub mod mutate;
mod scales;
mod synth;
mod tensors;

use std::path::PathBuf;

use oxwarp::gguf::{GgmlType, Gguf, MappedFile, Scalar, Value};

/// The models in `tests/fixtures/models`, ordered by name.
pub fn fixture_models() -> Vec<PathBuf> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/models");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "gguf"));
    paths.sort();
    assert!(paths.len() >= 20, "{} models in {folder}", paths.len());
    paths
}

#[test]
fn every_fixture_model_is_read() {
    for path in fixture_models() {
        let file = MappedFile::open(&path).unwrap();
        let gguf = Gguf::parse(file.bytes()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let arch = gguf.str("general.architecture").unwrap();
        let n_layers = gguf.u32(&format!("{arch}.block_count")).unwrap();
        let last = format!("blk.{}.ffn_down.weight", n_layers - 1);
        assert_eq!(
            gguf.data(gguf.tensor(&last).unwrap()).len() as u64,
            gguf.tensor(&last).unwrap().n_bytes()
        );
        assert!(gguf.gaps().is_empty() && gguf.trailing().is_empty(), "{}", path.display());
    }
}

#[test]
fn values_and_tensors_of_a_known_file() {
    let file =
        MappedFile::open(fixture_models().iter().find(|p| p.ends_with("rnd-qwen2.Q4_K_M.gguf")).unwrap());
    let file = file.unwrap();
    let gguf = Gguf::parse(file.bytes()).unwrap();
    // As gguf-py reads them.
    assert_eq!((gguf.version, gguf.alignment, gguf.tensors.len(), gguf.metadata().len()), (3, 32, 27, 23));
    assert_eq!(gguf.metadata().next().unwrap().0, "general.architecture");
    assert_eq!(gguf.get("tokenizer.ggml.add_bos_token"), Some(&Value::Scalar(Scalar::Bool(false))));
    assert_eq!(gguf.f32("qwen2.rope.freq_base").unwrap(), 1e6);
    let tokens = gguf.str_array("tokenizer.ggml.tokens").unwrap();
    assert_eq!((tokens.len(), tokens.iter().next(), tokens.iter().nth(11)), (320, Some("!"), Some(",")));
    let merges: Vec<_> = gguf.str_array("tokenizer.ggml.merges").unwrap().iter().take(3).collect();
    assert_eq!(merges, ["Ġ Ġ", "ĠĠ ĠĠ", "i n"]);
    assert!(gguf.int_array("tokenizer.ggml.token_type").unwrap().iter().all(|ty| (1..=6).contains(&ty)));
    let down = gguf.tensor("blk.1.ffn_down.weight").unwrap();
    assert_eq!(
        (&down.dims[..], down.ty, &down.range),
        (&[256u64, 128][..], GgmlType::Q6_K, &(206_912..233_792))
    );
    assert_eq!(gguf.opt_u32("qwen2.no_such_key").unwrap(), None);
}

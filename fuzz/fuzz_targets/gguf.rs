//! Any bytes as a file: parsed, and all that is let through is used.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oxwarp::gguf::{Finding, Gguf, Value};

fuzz_target!(|bytes: &[u8]| {
    let gguf = match Gguf::parse(bytes) {
        Ok(gguf) => gguf,
        Err(error) => {
            assert!(Finding::from(error).to_string().starts_with("error: "));
            return;
        }
    };
    for (key, value) in gguf.metadata() {
        assert_eq!(gguf.get(key).map(Value::ty), Some(value.ty()));
        let _ = (gguf.opt_u32(key), gguf.opt_f32(key), gguf.opt_str(key), gguf.opt_per_layer(key));
        if let Value::Array(array) = value {
            assert_eq!(
                array.iter().filter(|element| element.ty() == array.element_type()).count(),
                array.len()
            );
        }
    }
    let mut tensors: Vec<_> = gguf.tensors.iter().collect();
    tensors.sort_by_key(|tensor| tensor.range.start);
    for (tensor, next) in tensors.iter().zip(tensors.iter().skip(1)) {
        assert!(tensor.range.end <= next.range.start);
    }
    for tensor in tensors {
        let row = tensor.ty.row_bytes(tensor.dims[0]).unwrap();
        assert_eq!(gguf.data(tensor).len() as u64, row * (tensor.n_elements() / tensor.dims[0]));
    }
    for finding in gguf.check(true) {
        assert!(!finding.to_string().chars().any(char::is_control), "{finding:?}");
    }
});

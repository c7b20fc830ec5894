//! The two walks over a model's tensors: [`Census`] checks the whole set before anything is loaded, [`Loader`] hands
//! each tensor to the back end.

use std::collections::HashSet;
use std::sync::Arc;

use crate::backend::{self, Backend, FileBytes, MatrixSource};
use crate::gguf::{GgmlType, Gguf, MappedFile, TensorInfo};

use super::config::ModelConfig;
use super::engine::LoadProgress;
use super::error::{Differences, Dims, Error};
use super::rope;
use super::weights::{TensorSource, Weights};

/// What vectors may be stored as.
const VECTOR_TYPES: &[GgmlType] = &[GgmlType::F32, GgmlType::F16, GgmlType::BF16];
const VECTOR_TYPE_NAMES: &str = "F32, F16, BF16";

/// Checks that the file has exactly the model's tensors, in the right shapes, and returns the bytes that they take on
/// back end `b` for a context of `n_ctx` positions.
pub(super) fn census<B: Backend>(
    gguf: &Gguf<'_>,
    config: &ModelConfig,
    n_ctx: usize,
    b: &B,
) -> Result<u64, Error> {
    let mut census = Census { gguf, b, taken: HashSet::new(), missing: Vec::new(), bytes: 0 };
    Weights::take(config, n_ctx, &mut census)?;
    let surplus = gguf.tensors.iter().filter(|tensor| !census.taken.contains(tensor.name));
    let surplus: Vec<String> = surplus.map(|tensor| tensor.name.to_owned()).collect();
    let differences = Differences { missing: census.missing, surplus };
    match differences == Differences::default() {
        true => Ok(census.bytes),
        false => Err(Error::TensorSet { architecture: config.architecture, differences }),
    }
}

struct Census<'a, B> {
    gguf: &'a Gguf<'a>,
    b: &'a B,
    taken: HashSet<String>,
    missing: Vec<String>,
    bytes: u64,
}

impl<'a, B> Census<'a, B> {
    /// Notes that the model needs `name`; the tensor, if the file has it in these dimensions.
    fn take(&mut self, name: &str, dims: &[usize]) -> Result<Option<&'a TensorInfo<'a>>, Error> {
        assert!(self.taken.insert(name.to_owned()), "tensor {name} taken twice");
        let Some(tensor) = self.gguf.opt_tensor(name) else {
            self.missing.push(name.to_owned());
            return Ok(None);
        };
        let expected: Vec<u64> = dims.iter().map(|&dim| dim as u64).collect();
        let found = tensor.dims.to_vec();
        match found == expected {
            true => Ok(Some(tensor)),
            false => Err(Error::TensorShape {
                name: name.to_owned(),
                found: Dims(found),
                expected: Dims(expected),
            }),
        }
    }

    fn count_vector(&mut self, len: usize) {
        self.bytes = self.bytes.saturating_add(len as u64 * size_of::<f32>() as u64);
    }
}

impl<B: Backend> TensorSource for Census<'_, B> {
    type Matrix = ();
    type Vector = ();

    fn matrix(&mut self, name: &str, n_rows: usize, n_cols: usize) -> Result<(), Error> {
        if let Some(tensor) = self.take(name, &[n_cols, n_rows])? {
            self.b.check_matrix_type(name, tensor.ty)?;
            self.bytes = self.bytes.saturating_add(self.b.matrix_bytes(tensor.ty, n_rows, n_cols));
        }
        Ok(())
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<(), Error> {
        if let Some(tensor) = self.take(name, &[len])? {
            check_vector_type(tensor)?;
        }
        self.count_vector(len);
        Ok(())
    }

    fn values(&mut self, name: &str, len: usize) -> Result<Vec<f32>, Error> {
        match self.take(name, &[len])? {
            Some(tensor) => factor_values(self.gguf, tensor),
            None => Ok(vec![1.0; len]),
        }
    }

    fn computed(&mut self, _: impl FnOnce() -> Vec<f32>, len: usize) -> Result<(), Error> {
        self.count_vector(len);
        Ok(())
    }
}

fn check_vector_type(tensor: &TensorInfo<'_>) -> Result<(), Error> {
    match VECTOR_TYPES.contains(&tensor.ty) {
        true => Ok(()),
        false => Err(Error::TensorType {
            name: tensor.name.to_owned(),
            found: tensor.ty,
            supported: VECTOR_TYPE_NAMES,
        }),
    }
}

/// The numbers of a vector; frequency factors must be divisors.
fn factor_values(gguf: &Gguf<'_>, tensor: &TensorInfo<'_>) -> Result<Vec<f32>, Error> {
    check_vector_type(tensor)?;
    let values = vector_values(gguf, tensor);
    let bad = |value: &f32| !(value.is_finite() && *value > 0.0);
    match values.iter().position(bad) {
        Some(index) => Err(Error::TensorValue {
            name: rope::FACTORS.to_owned(),
            value: values[index],
            index,
            allowed: "finite numbers above 0",
        }),
        None => Ok(values),
    }
}

/// Little-endian numbers of one of [`VECTOR_TYPES`].
fn vector_values(gguf: &Gguf<'_>, tensor: &TensorInfo<'_>) -> Vec<f32> {
    let bytes = gguf.data(tensor);
    let half = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
    match tensor.ty {
        GgmlType::F16 => bytes.chunks_exact(2).map(|b| half::f16::from_bits(half(b)).to_f32()).collect(),
        GgmlType::BF16 => bytes.chunks_exact(2).map(|b| half::bf16::from_bits(half(b)).to_f32()).collect(),
        _ => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
    }
}

/// Loads all weights onto back end `b`, after [`census`] has passed them.
pub(super) fn load<B: Backend>(
    file: Arc<MappedFile>,
    gguf: &Gguf<'_>,
    config: &ModelConfig,
    n_ctx: usize,
    b: &mut B,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<Weights<B::Matrix, B::Vector>, Error> {
    let total = gguf.tensors.iter().map(|tensor| gguf.data(tensor).len() as u64).sum();
    let mut loader = Loader { file, gguf, b, progress, done: 0, total };
    let weights = Weights::take(config, n_ctx, &mut loader)?;
    loader.b.finish_loading()?;
    Ok(weights)
}

struct Loader<'a, B> {
    file: Arc<MappedFile>,
    gguf: &'a Gguf<'a>,
    b: &'a mut B,
    progress: &'a mut dyn FnMut(LoadProgress),
    done: u64,
    total: u64,
}

impl<'a, B> Loader<'a, B> {
    fn tensor(&self, name: &str) -> &'a TensorInfo<'a> {
        self.gguf.opt_tensor(name).unwrap_or_else(|| panic!("tensor {name} passed the census"))
    }

    fn advance(&mut self, tensor: &TensorInfo<'_>) {
        self.done += self.gguf.data(tensor).len() as u64;
        (self.progress)(LoadProgress { bytes_done: self.done, bytes_total: self.total });
    }
}

impl<B: Backend> TensorSource for Loader<'_, B> {
    type Matrix = B::Matrix;
    type Vector = B::Vector;

    fn matrix(&mut self, name: &str, n_rows: usize, n_cols: usize) -> Result<B::Matrix, Error> {
        let tensor = self.tensor(name);
        let bytes = FileBytes::new(Arc::clone(&self.file), tensor.range.clone());
        let matrix = self.b.load_matrix(MatrixSource { name, ty: tensor.ty, n_rows, n_cols, bytes })?;
        self.advance(tensor);
        Ok(matrix)
    }

    fn vector(&mut self, name: &str, _: usize) -> Result<B::Vector, Error> {
        let tensor = self.tensor(name);
        let vector = self.b.load_vector(&vector_values(self.gguf, tensor))?;
        self.advance(tensor);
        Ok(vector)
    }

    fn values(&mut self, name: &str, _: usize) -> Result<Vec<f32>, Error> {
        let tensor = self.tensor(name);
        let values = factor_values(self.gguf, tensor)?;
        self.advance(tensor);
        Ok(values)
    }

    fn computed(&mut self, values: impl FnOnce() -> Vec<f32>, len: usize) -> Result<B::Vector, Error> {
        let values = values();
        assert!(values.len() == len, "{} computed values where {len} were counted", values.len());
        self.b.load_vector(&values).map_err(backend::Error::into)
    }
}

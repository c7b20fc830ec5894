//! Files with random weights in the shape of public models: for timing, where only sizes and types matter.
//!
//! Such a file has the tensors, types and hyper-parameters of the public one, a vocabulary of the same size, and weights
//! that keep activations finite. What a model made of it writes means nothing.

mod recipe;
mod shapes;
mod vocabulary;
mod weights;

use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, SyncSender};

use rayon::prelude::*;

pub use recipe::{QUANTS, Quant};
pub use shapes::{Family, Role, SHAPES, Shape, ShapeTensor};

use crate::gguf::GgmlType;
use crate::gguf::write::{DataWriter, Head, tensor_bytes};
use weights::Rng;

/// Bytes that one task fills, at most.
const PIECE_BYTES: u64 = 1 << 20;
/// Bytes that are filled before they are written; three times as many are in use.
const BATCH_BYTES: u64 = 32 << 20;

/// Why a file cannot be planned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{quant} is a recipe for models with experts, which {shape} has not; allowed: {allowed}")]
    NoExperts { shape: &'static str, quant: &'static str, allowed: String },
    #[error("{found} layers, allowed: 1 to {max}")]
    LayerCount { found: u32, max: u32 },
}

/// Layers that a file may have, whatever the public model has.
pub const MAX_LAYERS: u32 = 1024;

/// A file that can be written: its metadata, tensors and types.
#[derive(Clone, Debug)]
pub struct Plan {
    pub shape: &'static Shape,
    pub quant: &'static Quant,
    pub n_layers: u32,
    /// Tensors with their types, in the order of the file.
    pub tensors: Vec<(ShapeTensor, GgmlType)>,
    head: Head,
}

impl Plan {
    /// A file of `shape` with the types of `quant`; `n_layers` as in the public model if `None`.
    ///
    /// # Errors
    /// A recipe for experts and a shape without; no layers, or more than [`MAX_LAYERS`].
    pub fn new(shape: &'static Shape, quant: &'static Quant, n_layers: Option<u32>) -> Result<Plan, Error> {
        let n_layers = n_layers.unwrap_or(shape.n_layers);
        if !(1..=MAX_LAYERS).contains(&n_layers) {
            return Err(Error::LayerCount { found: n_layers, max: MAX_LAYERS });
        }
        if quant.needs_experts() && !matches!(shape.family, Family::GptOss { .. }) {
            let others = QUANTS.iter().filter(|quant| !quant.needs_experts()).map(|quant| quant.name);
            let allowed = others.collect::<Vec<_>>().join(" ");
            return Err(Error::NoExperts { shape: shape.name, quant: quant.name, allowed });
        }
        let mut head = Head::new();
        head.str("general.architecture", shape.architecture())
            .str("general.name", &format!("Synthetic: random weights in the shape of {}", shape.public_name))
            .str("general.description", "Made for timing; what it writes means nothing")
            .u32("general.file_type", quant.file_type)
            .u32("general.quantization_version", 2);
        shape.write_metadata(&mut head, n_layers);
        vocabulary::write(&mut head, shape);
        let typed = |tensor: ShapeTensor| {
            let ty = quant.type_of(&tensor, n_layers, shape.n_heads / shape.n_kv_heads);
            (tensor, ty)
        };
        let tensors: Vec<_> = shape.tensors(n_layers).into_iter().map(typed).collect();
        for (tensor, ty) in &tensors {
            head.tensor(&tensor.name, &tensor.dims, *ty);
        }
        Ok(Plan { shape, quant, n_layers, tensors, head })
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        self.head.file_bytes()
    }

    /// Bytes of weights that decoding one token reads: everything but the embedding table, unless it is the output head
    /// too, and of the experts only those that are used.
    pub fn bytes_per_token(&self) -> u64 {
        let bytes = self.tensors.iter().map(|(tensor, ty)| {
            let n_bytes = planned_bytes(tensor, *ty);
            match (tensor.role, self.shape.family) {
                (Role::Embedding, _) => 0,
                (
                    Role::Expert | Role::ExpertDown | Role::ExpertBias,
                    Family::GptOss { n_experts, n_experts_used },
                ) => n_bytes / n_experts * n_experts_used,
                _ => n_bytes,
            }
        });
        bytes.sum()
    }

    /// Writes what comes before the weights.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_head(&self, out: impl Write) -> io::Result<()> {
        self.head.begin(out).map(drop)
    }

    /// Writes the file. The bytes depend on `seed` and the plan alone. `progress` is told the bytes of weights written so
    /// far.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: impl Write + Send, seed: u64, mut progress: impl FnMut(u64)) -> io::Result<()> {
        let mut data = self.head.begin(out)?;
        std::thread::scope(|scope| {
            // One batch is filled while another one is written and a third waits.
            let (filled, to_write) = mpsc::sync_channel(1);
            scope.spawn(move || self.fill_batches(seed, &filled));
            write_batches(&mut data, &to_write, &mut progress)
        })?;
        data.finish().map(drop)
    }

    /// Fills batches until all is filled or nobody listens.
    fn fill_batches(&self, seed: u64, filled: &SyncSender<Vec<u8>>) {
        let mut pieces = self.pieces().peekable();
        while pieces.peek().is_some() {
            let mut batch = Vec::new();
            let mut n_bytes = 0;
            while let Some(piece) = pieces.next_if(|piece| n_bytes + piece.n_bytes <= BATCH_BYTES) {
                n_bytes += piece.n_bytes;
                batch.push(piece);
            }
            let mut buffer = vec![0; n_bytes as usize];
            let mut rest = &mut buffer[..];
            let mut tasks = Vec::with_capacity(batch.len());
            for piece in batch {
                let (bytes, later) = rest.split_at_mut(piece.n_bytes as usize);
                tasks.push((piece, bytes));
                rest = later;
            }
            tasks.into_par_iter().for_each(|(piece, bytes)| self.fill(&piece, seed, bytes));
            if filled.send(buffer).is_err() {
                return;
            }
        }
    }

    /// All data, in the order of the file, as pieces of whole blocks.
    fn pieces(&self) -> impl Iterator<Item = Piece> {
        self.tensors.iter().enumerate().flat_map(|(tensor, (shape_tensor, ty))| {
            let n_bytes = planned_bytes(shape_tensor, *ty);
            let full = PIECE_BYTES / ty.block_bytes() * ty.block_bytes();
            let piece = move |number| Piece { tensor, number, n_bytes: full.min(n_bytes - number * full) };
            (0..n_bytes.div_ceil(full)).map(piece)
        })
    }

    fn fill(&self, piece: &Piece, seed: u64, bytes: &mut [u8]) {
        let (tensor, ty) = &self.tensors[piece.tensor];
        let mut rng = Rng::of_piece(seed, piece.tensor as u64, piece.number);
        let mut put_each = |value: &mut dyn FnMut(&mut Rng) -> f32| {
            bytes
                .chunks_exact_mut(4)
                .for_each(|element| element.copy_from_slice(&value(&mut rng).to_le_bytes()));
        };
        match tensor.role {
            Role::RopeFactors => {
                let mut factors = self.shape.rope_factors().into_iter();
                put_each(&mut |_| factors.next().expect("one factor an element"));
            }
            Role::Norm => put_each(&mut |rng| 0.9 + 0.2 * rng.unit()),
            Role::Bias | Role::ExpertBias => put_each(&mut |rng| 0.1 * (rng.unit() - 0.5)),
            Role::Sinks => put_each(&mut |rng| 4.0 * (rng.unit() - 0.5)),
            // Products of activations of variance 1 have variance 1 again.
            _ => weights::fill(*ty, 1.0 / (tensor.dims[0] as f64).sqrt(), &mut rng, bytes),
        }
    }
}

/// A run of whole blocks of one tensor.
struct Piece {
    tensor: usize,
    /// Position among the tensor's pieces.
    number: u64,
    n_bytes: u64,
}

fn planned_bytes(tensor: &ShapeTensor, ty: GgmlType) -> u64 {
    tensor_bytes(&tensor.dims, ty).expect("a recipe gives each tensor a type that fits its rows")
}

fn write_batches<W: Write>(
    data: &mut DataWriter<'_, W>,
    to_write: &Receiver<Vec<u8>>,
    progress: &mut impl FnMut(u64),
) -> io::Result<()> {
    let mut n_written = 0;
    for batch in to_write {
        data.write(&batch)?;
        n_written += batch.len() as u64;
        progress(n_written);
    }
    Ok(())
}

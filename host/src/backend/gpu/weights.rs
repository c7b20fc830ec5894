//! Weights in a device's memory: few large allocations, and the way from the file.

use std::ops::Range;
use std::sync::Arc;

use kernels_gpu::launch::{Device, DeviceBuffer, DeviceSlice, Purpose};
use kernels_gpu::quant::fragments::TILE_ROWS;
use kernels_gpu::quant::layout::MATRIX_ALIGN;

use super::format::{Format, Stretches};
use crate::backend::FileBytes;

/// A part of an allocation that belongs to nobody else; the allocation lives as long as its last piece.
pub struct Piece {
    block: Arc<DeviceBuffer<u8>>,
    range: Range<usize>,
}

impl Piece {
    pub fn bytes(&self) -> &DeviceSlice<u8> {
        self.block.slice(self.range.clone())
    }

    pub fn bytes_mut(&mut self) -> &mut DeviceSlice<u8> {
        let bytes = self.bytes();
        // SAFETY: pieces of a block are disjoint (`Arena::carve`) and not clonable, and this one is borrowed exclusively.
        unsafe { DeviceSlice::from_raw_mut(bytes.address(), bytes.len()) }
    }

    /// The same memory for whoever fills it while its owner waits.
    ///
    /// # Safety
    /// Until all copies are gone, the piece itself is not used.
    pub unsafe fn alias(&self) -> Piece {
        Piece { block: Arc::clone(&self.block), range: self.range.clone() }
    }

    /// The allocation, and where in it the piece begins.
    pub fn place(&self) -> (&Arc<DeviceBuffer<u8>>, usize) {
        (&self.block, self.range.start)
    }
}

/// Memory for weights. A model has hundreds of tensors, and an allocation takes up to a tenth of a millisecond.
#[derive(Default)]
pub struct Arena {
    current: Option<Arc<DeviceBuffer<u8>>>,
    n_carved: usize,
    /// Bytes of all allocations made.
    n_bytes: u64,
}

impl Arena {
    /// Bytes that a piece of `n_bytes` takes.
    pub const fn piece_bytes(n_bytes: usize) -> usize {
        n_bytes.next_multiple_of(MATRIX_ALIGN)
    }

    /// Allocates room for pieces of `n_bytes` bytes together.
    pub fn reserve<D: Device>(&mut self, device: &D, n_bytes: usize) -> Result<(), D::Error> {
        self.current = Some(Arc::new(device.alloc(n_bytes, Purpose::Weights)?));
        self.n_carved = 0;
        self.n_bytes += n_bytes as u64;
        Ok(())
    }

    /// A piece of `n_bytes` bytes, aligned to [`MATRIX_ALIGN`]; from an allocation of its own if the room is used up.
    pub fn carve<D: Device>(&mut self, device: &D, n_bytes: usize) -> Result<Piece, D::Error> {
        let end = self.n_carved + Self::piece_bytes(n_bytes);
        match &self.current {
            Some(block) if end <= block.len() => {
                let range = self.n_carved..self.n_carved + n_bytes;
                self.n_carved = end;
                Ok(Piece { block: Arc::clone(block), range })
            }
            _ => {
                let block = Arc::new(device.alloc(n_bytes, Purpose::Weights)?);
                self.n_bytes += n_bytes as u64;
                Ok(Piece { block, range: 0..n_bytes })
            }
        }
    }

    /// Bytes of all allocations.
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }
}

/// A matrix's way from the file to its place.
pub struct Upload {
    pub bytes: FileBytes,
    pub format: Format,
    /// Rows and columns.
    pub shape: [usize; 2],
    /// The matrix in the device's layout.
    pub place: Piece,
}

/// A part of an [`Upload`] that goes at once.
#[derive(Clone, Copy, Debug)]
pub struct UploadChunk {
    pub stretches: Stretches,
    /// Where the chunk begins in the file.
    pub file_offset: u64,
    pub n_bytes: usize,
    /// Where it begins in the matrix as it lies in the file.
    pub matrix_offset: usize,
}

impl Upload {
    /// The smallest chunk size: of smaller ones copies would be slow.
    pub const MIN_CHUNK_BYTES: usize = 32 << 10;

    /// Cuts the matrix into chunks of whole stretches, of at most `chunk_bytes` bytes. The last chunk has the rows with it that
    /// fill the last tile.
    ///
    /// # Panics
    /// If `chunk_bytes` is less than [`Self::MIN_CHUNK_BYTES`].
    pub fn chunks(&self, chunk_bytes: usize) -> impl Iterator<Item = UploadChunk> + use<> {
        assert!(chunk_bytes >= Self::MIN_CHUNK_BYTES, "chunks of {chunk_bytes} bytes");
        let [n_rows, n_cols] = self.shape;
        let row_bytes = self.format.file_bytes([1, n_cols]);
        let stretch_bytes = self.format.file_bytes([1, self.format.stretch_cols()]);
        let per_row = n_cols.div_ceil(self.format.stretch_cols());
        let offset = move |stretch: usize| stretch / per_row * row_bytes + stretch % per_row * stretch_bytes;
        let (in_file, padded) = (n_rows * per_row, n_rows.next_multiple_of(TILE_ROWS) * per_row);
        let step = chunk_bytes / stretch_bytes;
        let file_start = self.bytes.range().start;
        (0..in_file).step_by(step).map(move |first| {
            let end = in_file.min(first + step);
            UploadChunk {
                stretches: Stretches { first, n: if end == in_file { padded - first } else { step } },
                file_offset: (file_start + offset(first)) as u64,
                n_bytes: offset(end) - offset(first),
                matrix_offset: offset(first),
            }
        })
    }
}

//! How a weight matrix lies in GPU memory.
//!
//! Sixteen-byte loads want addresses that are multiples of 16, and the blocks of most formats are not: 18 bytes
//! for Q4_0, 34 for Q8_0, 210 for Q6_K. Such a matrix is split when it is loaded: one **plane** for each field
//! of the block, holding that field of every block in the matrix's order. Each plane begins at a multiple of
//! [`PLANE_ALIGN`] bytes after the matrix's start. Formats whose blocks are whole multiples of 16 bytes (Q4_K,
//! Q5_K) and plain floats stay as they are: one plane.
//!
//! Host, kernels and tests all take their offsets from here.

use super::{
    BF16, F16, F32, IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0,
    QuantBlock,
};

/// Every plane begins at a multiple of this many bytes: two cache lines.
pub const PLANE_ALIGN: usize = 256;

/// One field of a block and so one plane of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Where the field begins in a file's block, in bytes.
    pub offset: usize,
    /// Bytes of the field.
    pub bytes: usize,
}

/// A format's place in GPU memory.
pub trait GpuLayout: QuantBlock {
    /// The planes in the order in which they lie in memory. Together they cover the block once.
    const PLANES: &'static [Field];

    /// Whether a file's bytes are already in the GPU's layout.
    const AS_IN_FILE: bool = Self::PLANES.len() == 1;

    /// Byte offset of plane `plane` in a matrix of `n_blocks` blocks.
    #[inline(always)]
    fn plane_offset(plane: usize, n_blocks: usize) -> usize {
        let mut offset = 0;
        let mut before = 0;
        while before < plane {
            offset += (n_blocks * Self::PLANES[before].bytes).next_multiple_of(PLANE_ALIGN);
            before += 1;
        }
        offset
    }

    /// Bytes that a matrix of `n_blocks` blocks takes in GPU memory, the padding between planes included.
    #[inline(always)]
    fn matrix_bytes(n_blocks: usize) -> usize {
        let last = Self::PLANES.len() - 1;
        Self::plane_offset(last, n_blocks) + n_blocks * Self::PLANES[last].bytes
    }

    /// Puts blocks as they lie in a file into the GPU's layout: what the repack kernels do, on the host.
    ///
    /// # Panics
    /// If `file` is no whole number of blocks or `gpu` is not [`Self::matrix_bytes`] long.
    fn pack(gpu: &mut [u8], file: &[u8]) {
        assert!(
            file.len().is_multiple_of(Self::BYTES),
            "{} bytes are no whole number of {} blocks",
            file.len(),
            Self::NAME
        );
        let n_blocks = file.len() / Self::BYTES;
        let expected = Self::matrix_bytes(n_blocks);
        assert!(
            gpu.len() == expected,
            "{n_blocks} blocks of {} need {expected} bytes, not {}",
            Self::NAME,
            gpu.len()
        );
        for (plane, field) in Self::PLANES.iter().enumerate() {
            let plane = &mut gpu[Self::plane_offset(plane, n_blocks)..][..n_blocks * field.bytes];
            for (to, block) in plane.chunks_exact_mut(field.bytes).zip(file.chunks_exact(Self::BYTES)) {
                to.copy_from_slice(&block[field.offset..][..field.bytes]);
            }
        }
    }
}

macro_rules! layouts {
    ($($format:ty: $([$offset:expr, $bytes:expr]),+;)+) => {
        $(
            impl GpuLayout for $format {
                const PLANES: &'static [Field] = &[$(Field { offset: $offset, bytes: $bytes }),+];
            }
            const _: () = assert!(covers_block_once(<$format as GpuLayout>::PLANES, size_of::<$format>()));
        )+
    };
}

layouts! {
    F32: [0, 4];
    F16: [0, 2];
    BF16: [0, 2];
    // quants, scales
    Q4_0: [2, 16], [0, 2];
    // quants, (scale, minimum)
    Q4_1: [4, 16], [0, 4];
    // quants, fifth bits, scales
    Q5_0: [6, 16], [2, 4], [0, 2];
    // quants, fifth bits, (scale, minimum)
    Q5_1: [8, 16], [4, 4], [0, 4];
    // quants, scales
    Q8_0: [2, 32], [0, 2];
    // quants, (scale, minimum) of the sub-blocks, their scales
    Q2_K: [16, 64], [0, 16], [80, 4];
    // lower bits, third bits, scales, scale of the scales
    Q3_K: [32, 64], [0, 32], [96, 12], [108, 2];
    Q4_K: [0, 144];
    Q5_K: [0, 176];
    // lower bits, upper bits, scales, scale of the scales
    Q6_K: [0, 128], [128, 64], [192, 16], [208, 2];
    // quants, scales
    IQ4_NL: [2, 16], [0, 2];
    // quants, (scale of the scales, scales)
    IQ4_XS: [8, 128], [0, 8];
    // quants, scales
    MXFP4: [1, 16], [0, 1];
}

/// Whether the fields tile a block of `bytes` bytes without gap or overlap.
const fn covers_block_once(fields: &[Field], bytes: usize) -> bool {
    let mut position = 0;
    while position < bytes {
        let mut i = 0;
        while i < fields.len() && fields[i].offset != position {
            i += 1;
        }
        if i == fields.len() {
            return false;
        }
        position += fields[i].bytes;
    }
    let (mut total, mut i) = (0, 0);
    while i < fields.len() {
        total += fields[i].bytes;
        i += 1;
    }
    position == bytes && total == bytes
}

//! From a file's blocks to the GPU's planes, while a model is loaded.

use crate::quant::layout::GpuLayout;
use crate::quant::{IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q5_0, Q5_1, Q6_K, Q8_0, QuantBlock};
use crate::simt::prelude::*;
use crate::simt::shared;

/// Threads of a block.
pub const THREADS: u32 = 128;
/// Quantised blocks that a block of threads repacks, and of which launches begin at multiples: so every access to
/// a plane is on 16 bytes.
pub const TILE_BLOCKS: usize = 128;

/// Shared memory for the tile of a format, as it lies in the file.
const fn tile_bytes<Q: QuantBlock>() -> usize {
    shared::tile_bytes::<u32>(TILE_BLOCKS * Q::BYTES / 4)
}

/// Puts Q4_0 blocks as they lie in a file into the planes of [`crate::quant::layout`].
///
/// `src` holds `n_blocks` blocks, of which the first is block `first_block` of a matrix of `total_blocks`; `dst` is
/// the whole matrix. So a matrix may arrive in pieces.
///
/// Grid: [`repack_blocks`]. Requires: `first_block` a multiple of [`TILE_BLOCKS`]; src and dst on 16 bytes.
/// Fast because: all global accesses are of 16 bytes and consecutive; the unaligned ones stay in shared memory.
#[kernel(threads = THREADS, shared = tile_bytes::<Q4_0>())]
pub fn repack_q4_0(dst: Out<u8>, src: In<u8>, first_block: u32, n_blocks: u32, total_blocks: u32) {
    repack::<Q4_0>(dst, src, first_block, n_blocks, total_blocks);
}

/// As [`repack_q4_0`], for Q4_1.
#[kernel(threads = THREADS, shared = tile_bytes::<Q4_1>())]
pub fn repack_q4_1(dst: Out<u8>, src: In<u8>, first_block: u32, n_blocks: u32, total_blocks: u32) {
    repack::<Q4_1>(dst, src, first_block, n_blocks, total_blocks);
}

/// As [`repack_q4_0`], for Q5_0.
#[kernel(threads = THREADS, shared = tile_bytes::<Q5_0>())]
pub fn repack_q5_0(dst: Out<u8>, src: In<u8>, first_block: u32, n_blocks: u32, total_blocks: u32) {
    repack::<Q5_0>(dst, src, first_block, n_blocks, total_blocks);
}

/// As [`repack_q4_0`], for Q5_1.
#[kernel(threads = THREADS, shared = tile_bytes::<Q5_1>())]
pub fn repack_q5_1(dst: Out<u8>, src: In<u8>, first_block: u32, n_blocks: u32, total_blocks: u32) {
    repack::<Q5_1>(dst, src, first_block, n_blocks, total_blocks);
}

/// As [`repack_q4_0`], for Q8_0.
#[kernel(threads = THREADS, shared = tile_bytes::<Q8_0>())]
pub fn repack_q8_0(dst: Out<u8>, src: In<u8>, first_block: u32, n_blocks: u32, total_blocks: u32) {
    repack::<Q8_0>(dst, src, first_block, n_blocks, total_blocks);
}

/// As [`repack_q4_0`], for Q2_K.
#[kernel(threads = THREADS, shared = tile_bytes::<Q2_K>())]
pub fn repack_q2_k(dst: Out<u8>, src: In<u8>, first_block: u32, n_blocks: u32, total_blocks: u32) {
    repack::<Q2_K>(dst, src, first_block, n_blocks, total_blocks);
}

/// As [`repack_q4_0`], for Q3_K.
#[kernel(threads = THREADS, shared = tile_bytes::<Q3_K>())]
pub fn repack_q3_k(dst: Out<u8>, src: In<u8>, first_block: u32, n_blocks: u32, total_blocks: u32) {
    repack::<Q3_K>(dst, src, first_block, n_blocks, total_blocks);
}

/// As [`repack_q4_0`], for Q6_K.
#[kernel(threads = THREADS, shared = tile_bytes::<Q6_K>())]
pub fn repack_q6_k(dst: Out<u8>, src: In<u8>, first_block: u32, n_blocks: u32, total_blocks: u32) {
    repack::<Q6_K>(dst, src, first_block, n_blocks, total_blocks);
}

/// As [`repack_q4_0`], for IQ4_NL.
#[kernel(threads = THREADS, shared = tile_bytes::<IQ4_NL>())]
pub fn repack_iq4_nl(dst: Out<u8>, src: In<u8>, first_block: u32, n_blocks: u32, total_blocks: u32) {
    repack::<IQ4_NL>(dst, src, first_block, n_blocks, total_blocks);
}

/// As [`repack_q4_0`], for IQ4_XS.
#[kernel(threads = THREADS, shared = tile_bytes::<IQ4_XS>())]
pub fn repack_iq4_xs(dst: Out<u8>, src: In<u8>, first_block: u32, n_blocks: u32, total_blocks: u32) {
    repack::<IQ4_XS>(dst, src, first_block, n_blocks, total_blocks);
}

/// As [`repack_q4_0`], for MXFP4.
#[kernel(threads = THREADS, shared = tile_bytes::<MXFP4>())]
pub fn repack_mxfp4(dst: Out<u8>, src: In<u8>, first_block: u32, n_blocks: u32, total_blocks: u32) {
    repack::<MXFP4>(dst, src, first_block, n_blocks, total_blocks);
}

#[inline(always)]
fn repack<Q: GpuLayout>(dst: Out<u8>, src: In<u8>, first_block: u32, n_blocks: u32, total_blocks: u32) {
    let tile = Shared::new().tile::<u32>(TILE_BLOCKS * Q::BYTES / 4);
    let tile_start = thread::block_idx_x() as usize * TILE_BLOCKS;
    let left = n_blocks as usize - tile_start;
    let n_blocks = if left < TILE_BLOCKS { left } else { TILE_BLOCKS };
    fill(tile, src, tile_start * Q::BYTES, n_blocks * Q::BYTES);
    thread::sync_threads();
    let mut plane = 0;
    while plane < Q::PLANES.len() {
        let start = Q::plane_offset(plane, total_blocks as usize)
            + (first_block as usize + tile_start) * Q::PLANES[plane].bytes;
        write_plane::<Q>(dst, tile, plane, start, n_blocks);
        plane += 1;
    }
}

/// Copies bytes of the file into the tile.
#[inline(always)]
fn fill(tile: Tile<u32>, src: In<u8>, start: usize, n_bytes: usize) {
    let mut byte = thread::thread_idx_x() as usize * 16;
    while byte < n_bytes {
        if byte + 16 <= n_bytes {
            tile.store::<4>(byte / 4, src.u32x4_at(start + byte));
        } else {
            let (mut at, mut word) = (byte, 0);
            while at < n_bytes {
                word |= u32::from(src.get(start + at)) << (at % 4 * 8);
                at += 1;
                if at % 4 == 0 || at == n_bytes {
                    tile.set((at - 1) / 4, word);
                    word = 0;
                }
            }
        }
        byte += THREADS as usize * 16;
    }
}

/// Writes one field of the tile's blocks, from byte `start` of the matrix on.
#[inline(always)]
fn write_plane<Q: GpuLayout>(dst: Out<u8>, tile: Tile<u32>, plane: usize, start: usize, n_blocks: usize) {
    let field = Q::PLANES[plane];
    let in_file = |byte: usize| byte / field.bytes * Q::BYTES + field.offset + byte % field.bytes;
    let single = |byte: usize| {
        let from = in_file(byte);
        math::byte_perm(tile.get(from / 4), 0, 0x4440 | (from % 4) as u32)
    };
    let pair = |byte: usize| {
        if Q::BYTES.is_multiple_of(2) {
            // Blocks and fields of even length keep the bytes of a pair together, in one word.
            let from = in_file(byte);
            (tile.get(from / 4) >> (from % 4 * 8)) & 0xffff
        } else {
            single(byte) | single(byte + 1) << 8
        }
    };
    let word = |byte: usize| pair(byte) | pair(byte + 2) << 16;
    let n_bytes = n_blocks * field.bytes;
    let mut byte = thread::thread_idx_x() as usize * 16;
    while byte < n_bytes {
        if byte + 16 <= n_bytes {
            dst.set_u32x4_at(start + byte, [word(byte), word(byte + 4), word(byte + 8), word(byte + 12)]);
        } else {
            let mut at = byte;
            while at < n_bytes {
                dst.set(start + at, single(at) as u8);
                at += 1;
            }
        }
        byte += THREADS as usize * 16;
    }
}

/// Blocks of a launch.
pub const fn repack_blocks(n_blocks: usize) -> usize {
    n_blocks.div_ceil(TILE_BLOCKS)
}

/// Bytes that a launch must move: each block read and written.
pub const fn repack_bytes<Q: QuantBlock>(n_blocks: usize) -> usize {
    2 * n_blocks * Q::BYTES
}

//! Products with whole tiles, of which the two blocks of a cluster have neighbours: the same rows of w, and the tokens of
//! one after those of the other. Each loads half of the rows for both, so that less moves from the second-level cache to
//! the multiprocessors: of 256 rows and two blocks two thirds.

use super::*;

/// As [`gemm_wgmma_bf16_n256`], clusters of two tiles.
///
/// Grid: twice any number up to that of pairs of tiles, best one block a multiprocessor.
#[kernel(threads = THREADS, cluster = 2, shared = shared_bytes(256, STAGES_256), min_blocks = 1, pdl, sm_90a)]
pub fn gemm_multicast_bf16_n256(
    y: OutBoxes<bf16, Y_BOX>,
    w: InBoxes<bf16, 128>,
    x: InBoxes<bf16, TILE_TOKENS>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    gemm::<bf16, 256, 128, 128, STAGES_256>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_multicast_bf16_n256`], tiles of 128 tokens by 224 rows.
#[kernel(threads = THREADS, cluster = 2, shared = shared_bytes(224, STAGES_224), min_blocks = 1, pdl, sm_90a)]
pub fn gemm_multicast_bf16_n224(
    y: OutBoxes<bf16, Y_BOX>,
    w: InBoxes<bf16, 112>,
    x: InBoxes<bf16, TILE_TOKENS>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    gemm::<bf16, 224, 112, 112, STAGES_224>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_multicast_bf16_n256`], tiles of 128 tokens by 192 rows.
#[kernel(threads = THREADS, cluster = 2, shared = shared_bytes(192, STAGES_192), min_blocks = 1, pdl, sm_90a)]
pub fn gemm_multicast_bf16_n192(
    y: OutBoxes<bf16, Y_BOX>,
    w: InBoxes<bf16, 96>,
    x: InBoxes<bf16, TILE_TOKENS>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    gemm::<bf16, 192, 96, 96, STAGES_192>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_multicast_bf16_n256`], tiles of 128 tokens by 128 rows.
#[kernel(threads = THREADS, cluster = 2, shared = shared_bytes(128, STAGES_128), min_blocks = 1, pdl, sm_90a)]
pub fn gemm_multicast_bf16_n128(
    y: OutBoxes<bf16, Y_BOX>,
    w: InBoxes<bf16, 64>,
    x: InBoxes<bf16, TILE_TOKENS>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    gemm::<bf16, 128, 64, 64, STAGES_128>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_multicast_bf16_n256`], all in f16.
#[kernel(threads = THREADS, cluster = 2, shared = shared_bytes(256, STAGES_256), min_blocks = 1, pdl, sm_90a)]
pub fn gemm_multicast_f16_n256(
    y: OutBoxes<f16, Y_BOX>,
    w: InBoxes<f16, 128>,
    x: InBoxes<f16, TILE_TOKENS>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    gemm::<f16, 256, 128, 128, STAGES_256>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_multicast_bf16_n224`], all in f16.
#[kernel(threads = THREADS, cluster = 2, shared = shared_bytes(224, STAGES_224), min_blocks = 1, pdl, sm_90a)]
pub fn gemm_multicast_f16_n224(
    y: OutBoxes<f16, Y_BOX>,
    w: InBoxes<f16, 112>,
    x: InBoxes<f16, TILE_TOKENS>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    gemm::<f16, 224, 112, 112, STAGES_224>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_multicast_bf16_n192`], all in f16.
#[kernel(threads = THREADS, cluster = 2, shared = shared_bytes(192, STAGES_192), min_blocks = 1, pdl, sm_90a)]
pub fn gemm_multicast_f16_n192(
    y: OutBoxes<f16, Y_BOX>,
    w: InBoxes<f16, 96>,
    x: InBoxes<f16, TILE_TOKENS>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    gemm::<f16, 192, 96, 96, STAGES_192>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_multicast_bf16_n128`], all in f16.
#[kernel(threads = THREADS, cluster = 2, shared = shared_bytes(128, STAGES_128), min_blocks = 1, pdl, sm_90a)]
pub fn gemm_multicast_f16_n128(
    y: OutBoxes<f16, Y_BOX>,
    w: InBoxes<f16, 64>,
    x: InBoxes<f16, TILE_TOKENS>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    gemm::<f16, 128, 64, 64, STAGES_128>(y, w, x, n_tokens, n_rows, n_cols);
}

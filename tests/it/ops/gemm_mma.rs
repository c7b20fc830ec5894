//! Matrix times matrix on the tensor cores against the reference.

use kernels_gpu::gemm_mma::*;
use kernels_gpu::launch::{Device, Grid, Purpose};
use kernels_gpu::simt::emulator::{Access, Emulator, View};
use kernels_gpu::simt::f16;
use testkit::compare::{assert_within, dot_bound, linear_magnitudes};
use testkit::data::Rng;
use testkit::reference;

fn halves(values: &[f32]) -> (Vec<f16>, Vec<f64>) {
    let halves: Vec<f16> = values.iter().map(|&value| f16::from_f32(value)).collect();
    let exact = halves.iter().map(|half| f64::from(half.to_f32())).collect();
    (halves, exact)
}

/// What the kernel makes of x and w.
fn run<D: Device>(device: &D, x: &[f16], w: &[f16], n_cols: usize) -> Vec<f32> {
    let (n_tokens, n_rows) = (x.len() / n_cols, w.len() / n_cols);
    let device_w = device.upload(w, Purpose::Weights).unwrap();
    let device_x = device.upload(x, Purpose::Activations).unwrap();
    let mut y = device.alloc(n_tokens * n_rows, Purpose::Activations).unwrap();
    let kernel = gemm_f16_f16 {
        y: &mut y,
        w: &device_w,
        x: &device_x,
        n_tokens: n_tokens as u32,
        n_rows: n_rows as u32,
        n_cols: n_cols as u32,
    };
    let (x_blocks, y_blocks) = gemm_mma_grid(n_tokens, n_rows);
    device.launch(kernel, Grid::xy(x_blocks as u32, y_blocks as u32)).unwrap();
    device.download(&y).unwrap()
}

fn check<D: Device>(device: &D, n_tokens: usize, n_rows: usize, n_cols: usize) {
    let mut rng = Rng::new(7);
    let (w_halves, w) = halves(&rng.normal(n_rows * n_cols, 0.05));
    let (x_halves, x) = halves(&rng.normal(n_tokens * n_cols, 1.0));
    let found = run(device, &x_halves, &w_halves, n_cols);
    let mut expected = vec![0.0; n_tokens * n_rows];
    reference::linear(&mut expected, &w, &x, n_cols);
    let sums = linear_magnitudes(&w, &x, n_cols);
    let what = format!("gemm_f16_f16, {n_tokens} × {n_rows} × {n_cols}");
    let bound = |i: usize| dot_bound(gemm_mma_chain(n_cols), sums[i]);
    assert_within(&what, &found, &expected, &[n_tokens, n_rows], bound);
}

#[test]
fn one_token_and_one_row() {
    on_every_device!(|device| check(device, 1, 1, 8));
}

#[test]
fn whole_tiles() {
    on_every_device!(|device| check(device, 128, 256, 64));
}

#[test]
fn partial_tiles() {
    on_every_device!(|device| check(device, 5, 70, 72));
    on_every_device!(|device| check(device, 130, 129, 40));
}

/// Every place of the ring of stages is filled again, and the last stage is a partial one.
#[test]
fn more_columns_than_stages() {
    on_every_device!(|device| check(device, 70, 34, 9 * TILE_COLS + 24));
}

/// Small whole numbers, whose sums are exact in any order.
#[test]
fn whole_numbers_are_exact() {
    let (n_tokens, n_rows, n_cols) = (19, 135, 104);
    let numbers = |n: usize, factor: usize| -> Vec<f32> {
        (0..n).map(|i| (i * i * factor % 127) as f32 - 63.0).collect()
    };
    let (w_halves, w) = halves(&numbers(n_rows * n_cols, 5));
    let (x_halves, x) = halves(&numbers(n_tokens * n_cols, 11));
    let mut expected = vec![0.0; n_tokens * n_rows];
    reference::linear(&mut expected, &w, &x, n_cols);
    on_every_device!(|device| {
        let found: Vec<f64> = run(device, &x_halves, &w_halves, n_cols).into_iter().map(f64::from).collect();
        assert_eq!(found, expected);
    });
}

/// Filling and reading both tiles takes no wavefront more than needed, and each sector of memory comes once.
#[test]
fn no_bank_conflicts() {
    let device = Emulator::checked().counting();
    check(&device, 128, 128, 6 * TILE_COLS);
    let report = device.report().expect("a counting emulator reports");
    assert_eq!((report.bank_conflicts(), report.excess_sectors()), (0, 0), "{report:#?}");
    let transactions = |view: View, access: Access| {
        let sites = report.sites.iter().filter(|site| site.view == view && site.access == access);
        sites.map(|site| site.transactions).sum::<u64>()
    };
    let n_bytes = 128 * 6 * TILE_COLS as u64 * 2;
    for (tile, name, warps_per_line) in [(0, "x", 4), (1, "w", 2)] {
        assert_eq!(transactions(View::Param(name), Access::Read), n_bytes / 32, "sectors of {name}");
        assert_eq!(transactions(View::Tile(tile), Access::Write), n_bytes / 128, "wavefronts into {name}");
        let reads = transactions(View::Tile(tile), Access::Read);
        assert_eq!(reads, warps_per_line * n_bytes / 128, "wavefronts out of {name}");
    }
}

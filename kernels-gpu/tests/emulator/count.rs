//! Memory transactions, against counts worked out by hand.

use kernels_gpu::launch::{Device, Grid};
use kernels_gpu::simt::emulator::{Access, Emulator, LaunchReport, View};
use kernels_gpu::simt::prelude::*;

use crate::{unwritten, upload};

/// Requests, transactions and ideal transactions of the only site of a view and kind of access.
fn counts(report: &LaunchReport, view: View, access: Access) -> (u64, u64, u64) {
    let sites: Vec<_> = report.of(view).filter(|site| site.access == access).collect();
    assert_eq!(sites.len(), 1, "{report:?}");
    (sites[0].requests, sites[0].transactions, sites[0].ideal_transactions)
}

#[kernel(threads = 64)]
fn strided_copy(y: Out<f32>, x: In<f32>, stride: u32) {
    let i = thread::index_1d();
    y.set(i, x.get(i * stride as usize));
}

fn strided(stride: usize) -> LaunchReport {
    let device = Emulator::checked().counting();
    let (mut y, x) = (unwritten(&device, 128), upload(&device, &vec![1.0f32; 128 * stride]));
    device.launch(strided_copy { y: &mut y, x: &x, stride: stride as u32 }, Grid::x(2)).unwrap();
    device.report().unwrap()
}

#[test]
fn sectors_of_strided_reads() {
    // 4 warps of 32 · 4 bytes: 4 sectors each if side by side.
    for (stride, sectors) in [(1, 4), (2, 8), (4, 16), (8, 32), (16, 32)] {
        let report = strided(stride);
        assert_eq!(counts(&report, View::Param("x"), Access::Read), (4, 4 * sectors, 16), "stride {stride}");
        assert_eq!(counts(&report, View::Param("y"), Access::Write), (4, 16, 16));
        assert_eq!(report.excess_sectors(), 4 * sectors - 16);
        assert_eq!((report.kernel, report.grid), ("strided_copy", Grid::x(2)));
    }
}

#[kernel(threads = 32)]
fn misplaced_vectors(y: Out<f32>, x: In<f32>) {
    let i = thread::thread_idx_x() as usize;
    let mut sum = 0.0;
    for turn in 0..3 {
        sum += x.load::<4>(turn * 128 + 4 * i).iter().sum::<f32>();
    }
    y.set(i, sum + x.get(0));
}

#[test]
fn sectors_of_vectors_and_broadcasts() {
    let device = Emulator::checked().counting();
    let (mut y, x) = (unwritten(&device, 32), upload(&device, &vec![1.0f32; 384]));
    device.launch(misplaced_vectors { y: &mut y, x: &x }, Grid::x(1)).unwrap();
    let report = device.report().unwrap();
    let of_x: Vec<_> = report.of(View::Param("x")).collect();
    // Three turns of 32 · 16 bytes = 16 sectors; then 32 lanes read the same 4 bytes.
    assert_eq!((of_x[0].requests, of_x[0].transactions, of_x[0].ideal_transactions), (3, 48, 48));
    assert_eq!((of_x[1].requests, of_x[1].transactions, of_x[1].ideal_transactions), (1, 1, 1));
}

#[test]
fn sector_is_split_by_a_misaligned_slice() {
    let device = Emulator::checked().counting();
    let (mut y, x) = (unwritten(&device, 64), upload(&device, &vec![1.0f32; 72]));
    let kernel = strided_copy { y: &mut y, x: x.slice(1..65), stride: 1 };
    device.launch(kernel, Grid::x(1)).unwrap();
    // 128 bytes from byte 4 on touch five sectors, not four.
    assert_eq!(counts(&device.report().unwrap(), View::Param("x"), Access::Read), (2, 10, 8));
}

#[kernel(threads = 32, shared = 32 * 33 * 4)]
fn columns(y: Out<f32>, pitch: u32) {
    let tile = Shared::new().tile::<f32>(32 * 33);
    let (i, pitch) = (thread::thread_idx_x() as usize, pitch as usize);
    tile.set(i * pitch, i as f32);
    thread::sync_threads();
    y.set(i, tile.get(pitch * (i ^ 1)));
}

#[test]
fn bank_conflicts_of_columns() {
    // Column of a row-major tile: pitch 32 puts all lanes into one bank, 33 into 32 different ones.
    for (pitch, wavefronts) in [(1, 1), (2, 2), (4, 4), (8, 8), (16, 16), (32, 32), (33, 1)] {
        let device = Emulator::checked().counting();
        let mut y = unwritten(&device, 32);
        device.launch(columns { y: &mut y, pitch }, Grid::x(1)).unwrap();
        let report = device.report().unwrap();
        assert_eq!(counts(&report, View::Tile(0), Access::Write), (1, wavefronts, 1), "pitch {pitch}");
        assert_eq!(counts(&report, View::Tile(0), Access::Read), (1, wavefronts, 1), "pitch {pitch}");
        assert_eq!(report.bank_conflicts(), 2 * (wavefronts - 1));
    }
}

#[kernel(threads = 32, shared = 4096)]
fn wide(y: Out<f32>) {
    let tile = Shared::new().tile::<f32>(1024);
    let i = thread::thread_idx_x() as usize;
    // Each eight lanes fill the 32 banks.
    tile.store::<4>(4 * i, [1.0; 4]);
    // All lanes fall into 8 of the banks.
    tile.store::<4>(128 + 16 * (i % 2) + 32 * (i / 2), [2.0; 4]);
    warp::sync();
    // Each eight lanes, which are served together, fall into 16 of the banks; the next eight into the others.
    let eight = i / 8;
    tile.store::<4>(32 * (2 * eight + i % 8 / 4) + 16 * (eight % 2) + 4 * (i % 4), [3.0; 4]);
    thread::sync_threads();
    // One word for all, and two words a lane.
    y.set(i, tile.get(0) + tile.load::<2>(2 * i)[1]);
}

#[test]
fn wavefronts_of_vectors_and_broadcasts() {
    let device = Emulator::checked().counting();
    let mut y = unwritten(&device, 32);
    device.launch(wide { y: &mut y }, Grid::x(1)).unwrap();
    let report = device.report().unwrap();
    let sites = report.of(View::Tile(0));
    let found: Vec<_> = sites.map(|s| (s.access, s.requests, s.transactions, s.ideal_transactions)).collect();
    let expected = [
        (Access::Write, 1, 4, 4),
        (Access::Write, 1, 16, 4),
        (Access::Write, 1, 8, 4),
        (Access::Read, 1, 1, 1),
        (Access::Read, 1, 2, 2),
    ];
    assert_eq!(found, expected);
}

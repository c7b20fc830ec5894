//! Running kernels: grids, many threads, seeds, both modes, errors of the caller.

use kernels_gpu::launch::{Device, Grid, Launch, Purpose};
use kernels_gpu::simt::emulator::{Emulator, Error};
use kernels_gpu::simt::prelude::*;

use crate::{emulator, unwritten, upload};

#[kernel(threads = 1024, shared = block::REDUCE_BYTES)]
fn place(y: Out<u32>, n: u32) {
    let partials = Shared::new().tile::<f32>(block::REDUCE_LEN);
    let (x, z) = (thread::block_idx_x(), thread::block_idx_z());
    let row = thread::block_idx_y() + thread::grid_dim_y() * z;
    let block = x + thread::grid_dim_x() * row;
    // The sum of 0..1024 is exact in f32.
    let sum = block::sum_f32(thread::thread_idx_x() as f32, partials);
    let largest = block::max_f32(thread::thread_idx_x() as f32, partials);
    let i = block as usize * thread::block_dim_x() as usize + thread::thread_idx_x() as usize;
    y.set(i, n * block + sum as u32 + largest as u32);
}

#[test]
fn blocks_know_their_place() {
    let grid = Grid::xyz(3, 4, 5);
    let expected: Vec<u32> = (0..60 * 1024).map(|i| 7 * (i / 1024) + 1024 * 1023 / 2 + 1023).collect();
    for mode in [Emulator::fast, Emulator::checked] {
        for (seed, n_workers) in [(0, 1), (1, 2), (2, 40)] {
            let device = mode().with_seed(seed).with_workers(n_workers);
            let mut y = unwritten(&device, 60 * 1024);
            device.launch(place { y: &mut y, n: 7 }, grid).unwrap();
            assert_eq!(device.download(&y).unwrap(), expected, "seed {seed}, {n_workers} workers");
        }
    }
}

#[test]
fn memory_of_another_emulator_is_refused() {
    let (device, other) = (emulator(), emulator());
    let mut y = unwritten::<u32>(&other, 1024);
    let address = y.address();
    match device.launch(place { y: &mut y, n: 1 }, Grid::x(1)) {
        Err(Error::ForeignMemory { kernel: "place", param: "y", address: found }) => {
            assert_eq!(found, address);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn arguments_are_words() {
    let device = emulator();
    let mut y = unwritten::<u32>(&device, 1024);
    let address = y.slice(8..9).address();
    assert_eq!(address, y.address() + 32);
    let kernel = place { y: y.slice_mut(8..16), n: 0xffff_fffe };
    assert_eq!(kernel.args().words(), [address, 0xffff_fffe]);
    let mut args = kernels_gpu::launch::KernelArgs::default();
    args.push_scalar(-1.5f32);
    args.push_scalar(-2i32);
    args.push_scalar(u64::MAX - 1);
    assert_eq!(args.words(), [0xbfc0_0000, 0xffff_fffe, u64::MAX - 1]);
}

#[test]
fn too_much_memory_is_an_error() {
    let error = emulator().alloc::<f32>(usize::MAX / 8, Purpose::KvCache).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { purpose: Purpose::KvCache, .. }), "{error}");
}

#[test]
fn slices_obey_their_bounds() {
    let device = emulator();
    let mut x = upload(&device, &(0..100u32).collect::<Vec<_>>());
    assert_eq!(device.download(x.slice(10..13)).unwrap(), [10, 11, 12]);
    let (first, second) = x.split_at_mut(40);
    device.copy_in(first.slice_mut(0..1), &[7]).unwrap();
    device.zero(second.slice_mut(0..2)).unwrap();
    assert_eq!(device.download(x.slice(38..43)).unwrap(), [38, 39, 0, 0, 42]);
    assert_eq!(device.download(x.cast::<u8>().slice(0..5)).unwrap(), [7, 0, 0, 0, 1]);
    for range in [0..101, 101..101, std::ops::Range { start: 3, end: 2 }] {
        let slice = std::panic::AssertUnwindSafe(|| x.slice(range.clone()).len());
        assert!(std::panic::catch_unwind(slice).is_err(), "{range:?}");
    }
    let odd = std::panic::AssertUnwindSafe(|| x.cast::<u8>().slice(1..5).cast::<u32>().len());
    assert!(std::panic::catch_unwind(odd).is_err());
}

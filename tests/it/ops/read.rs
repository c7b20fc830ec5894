//! Reading: every word once, whatever the grid.

use kernels_gpu::launch::{Device, Grid, Purpose};
use kernels_gpu::read::{THREADS, read_u32};
use testkit::data::Rng;

fn check<D: Device>(device: &D, n: usize, n_blocks: u32) {
    let mut rng = Rng::new(n as u64);
    let words: Vec<u32> = (0..n).map(|_| rng.bits() as u32).collect();
    let x = device.upload(&words, Purpose::Other).unwrap();
    let mut y = device.alloc::<u32>((n_blocks * THREADS) as usize, Purpose::Other).unwrap();
    device.launch(read_u32 { y: &mut y, x: &x, n: n as u32 }, Grid::x(n_blocks)).unwrap();
    let xor = |words: &[u32]| words.iter().fold(0, |sum, word| sum ^ word);
    assert_eq!(xor(&device.download(&y).unwrap()), xor(&words), "{n} words, {n_blocks} blocks");
}

#[test]
fn one_vector() {
    on_every_device!(|device| check(device, 4, 1));
}

#[test]
fn fewer_words_than_a_round() {
    on_every_device!(|device| check(device, 4100, 2));
}

#[test]
fn several_rounds_and_a_partial_one() {
    on_every_device!(|device| check(device, 5 * 16384 + 2052, 2));
}

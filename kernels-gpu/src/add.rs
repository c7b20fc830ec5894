//! Residual addition.

use crate::simt::prelude::*;

/// Threads of a block; each adds one element.
pub const THREADS: u32 = 256;

/// x += branch, for `n` elements.  Grid: `n / 256` blocks, rounded up.
#[kernel(threads = THREADS)]
pub fn add_f32(x: InOut<f32>, branch: In<f32>, n: u32) {
    let i = thread::index_1d();
    if i < n as usize {
        x.set(i, x.get(i) + branch.get(i));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::{Device, Grid, Purpose};
    use crate::simt::emulator::Emulator;

    #[test]
    fn partial_last_block() {
        let n = 1000;
        let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
        let branch: Vec<f32> = (0..n).map(|i| 0.5 * i as f32 - 7.0).collect();
        let device = Emulator::checked().with_seed(5);
        let mut sum = device.upload(&x, Purpose::Activations).unwrap();
        let added = device.upload(&branch, Purpose::Activations).unwrap();
        let grid = Grid::cover(n, THREADS as usize);
        device.launch(add_f32 { x: &mut sum, branch: &added, n: n as u32 }, grid).unwrap();
        let expected: Vec<f32> = x.iter().zip(&branch).map(|(x, branch)| x + branch).collect();
        assert_eq!(device.download(&sum).unwrap(), expected);
    }
}

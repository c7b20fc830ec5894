//! The launch of a conversion.

use super::{
    XOrder, gemv_x_bf16, gemv_x_blocks, gemv_x_f16, gemv_x_fixed, gemv_x_one, gemv_x_one_16, gemv_x_one_32,
    gemv_x_two, gemv_x_two_16, gemv_x_two_32, gemv_x_two_bf16,
};
use crate::launch::{Device, DeviceSlice, Grid};

/// Brings vectors into an order, for a launch for up to `max_vectors`: the kernel of the order, on its grid. With
/// `max_vectors` 1 each vector for itself.
///
/// # Panics
/// If words and numbers are not as many as [`XOrder::len_of`] says.
pub fn gemv_x<D: Device>(
    device: &D,
    order: XOrder,
    words: &mut DeviceSlice<u32>,
    numbers: &mut DeviceSlice<f32>,
    x: &DeviceSlice<f32>,
    [n_vectors, max_vectors, n_cols]: [usize; 3],
) -> Result<(), D::Error> {
    let len = order.len_of([n_vectors, max_vectors, n_cols]);
    assert!([words.len(), numbers.len()] == len, "{} and {}, not {len:?}", words.len(), numbers.len());
    let n_alone = if max_vectors == 1 { n_vectors } else { 1 };
    let grid = Grid::xy(gemv_x_blocks(max_vectors, n_cols) as u32, n_alone as u32);
    let [n_vectors, max_vectors, n_cols] = [n_vectors, max_vectors, n_cols].map(|n| n as u32);
    macro_rules! launch {
        ($kernel:ident) => {
            device.launch($kernel { words, numbers, x, n_vectors, max_vectors, n_cols }, grid)
        };
    }
    match order {
        XOrder::F16 => launch!(gemv_x_f16),
        XOrder::BF16 => launch!(gemv_x_bf16),
        XOrder::Fixed => launch!(gemv_x_fixed),
        XOrder::Parts { is_bf16: true, .. } => launch!(gemv_x_two_bf16),
        XOrder::Parts { n_parts: 1, sum_cols: 0, .. } => launch!(gemv_x_one),
        XOrder::Parts { n_parts: 1, sum_cols: 16, .. } => launch!(gemv_x_one_16),
        XOrder::Parts { n_parts: 1, .. } => launch!(gemv_x_one_32),
        XOrder::Parts { sum_cols: 0, .. } => launch!(gemv_x_two),
        XOrder::Parts { sum_cols: 16, .. } => launch!(gemv_x_two_16),
        XOrder::Parts { .. } => launch!(gemv_x_two_32),
    }
}

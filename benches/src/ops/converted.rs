//! Where kernels of one token put their result converted for a product.

use kernels_gpu::gemv::XOrder;
use kernels_gpu::launch::DeviceSlice;

use crate::error::Result;
use crate::lab::{Lab, Sets};

/// A converted vector for each set of inputs.
pub struct Converted {
    order: XOrder,
    words: Sets<u32>,
    numbers: Sets<f32>,
}

/// What a kernel takes of it.
pub struct Place<'a> {
    pub words: &'a mut DeviceSlice<u32>,
    pub numbers: &'a mut DeviceSlice<f32>,
    pub order: u32,
}

impl Converted {
    pub fn new(lab: &Lab, order: XOrder, n_sets: usize, n_cols: usize) -> Result<Self> {
        let [n_words, n_numbers] = order.len(1, n_cols);
        Ok(Converted { order, words: lab.zeros(n_sets, n_words)?, numbers: lab.zeros(n_sets, n_numbers)? })
    }

    pub fn place(&mut self, set: usize) -> Place<'_> {
        let (words, numbers) = (self.words.get_mut(set), self.numbers.get_mut(set));
        Place { words, numbers, order: self.order.code() }
    }
}

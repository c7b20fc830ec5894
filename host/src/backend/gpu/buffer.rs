//! Activations, and what of them is there in the form that products take.
//!
//! A kernel that makes a row writes it in that form, too: in the one in which the buffer's last product took it. A model's
//! layers are much alike, so from the second one on no launch between the kernel and the product has to convert the row.
//! Where the guess is wrong, one does; the results are the same in every bit.

use kernels_gpu::gemv::{XOrder, gemv_max_vectors};
use kernels_gpu::launch::{Device, DeviceBuffer, DeviceSlice};

use super::attention::grown;
use super::format::ConvertedX;
use crate::backend::Error;

/// Rows of activations.
pub struct GpuBuffer {
    pub(super) values: DeviceBuffer<f32>,
    state: State,
}

/// What a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// The buffer's place in the back end's list of [`Converted`].
    pub id: usize,
    /// Counts the launches that have written it.
    n_writes: u64,
}

impl GpuBuffer {
    pub(super) fn new(values: DeviceBuffer<f32>, id: usize) -> Self {
        GpuBuffer { values, state: State { id, n_writes: 0 } }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    /// What it holds when a launch has written it once more.
    pub(super) fn next_state(&self) -> State {
        State { n_writes: self.state.n_writes + 1, ..self.state }
    }
}

/// The first `n_tokens` rows of activations.
///
/// # Panics
/// If the buffer has fewer.
pub(super) fn rows(buffer: &GpuBuffer, n_tokens: usize, width: usize) -> &DeviceSlice<f32> {
    buffer.values.slice(0..n_tokens * width)
}

/// As [`rows`], for one launch that writes them.
pub(super) fn rows_mut(buffer: &mut GpuBuffer, n_tokens: usize, width: usize) -> &mut DeviceSlice<f32> {
    buffer.state = buffer.next_state();
    buffer.values.slice_mut(0..n_tokens * width)
}

/// Rows of a buffer as products took them last.
#[derive(Default)]
pub(super) struct Converted {
    form: Option<Form>,
    /// What the buffer held when they were converted.
    of: Option<State>,
    words: Option<DeviceBuffer<f32>>,
    numbers: Option<DeviceBuffer<f32>>,
}

/// The form of rows: what, how many, and their columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Form {
    order: XOrder,
    n_tokens: usize,
    n_cols: usize,
}

/// Where a kernel puts a row that it also converts.
pub(super) struct Place<'a> {
    pub order: XOrder,
    pub words: &'a mut DeviceSlice<u32>,
    pub numbers: &'a mut DeviceSlice<f32>,
}

impl Converted {
    /// Where the one row of a buffer goes that a kernel is about to write, to become `written`; none if the next product
    /// will probably not take it, or if the kernel does not write such an order.
    pub(super) fn row(
        &mut self,
        written: State,
        [n_tokens, n_cols]: [usize; 2],
        has_kernel: impl FnOnce(XOrder) -> bool,
    ) -> Option<Place<'_>> {
        let form = self.form.filter(|form| n_tokens == 1 && (form.n_tokens, form.n_cols) == (1, n_cols))?;
        if !has_kernel(form.order) {
            return None;
        }
        self.of = Some(written);
        let [n_words, n_numbers] = form.order.len(1, n_cols);
        let words = self.words.as_mut()?.slice_mut(0..n_words).cast_mut();
        let numbers = self.numbers.as_mut()?.slice_mut(0..n_numbers);
        Some(Place { order: form.order, words, numbers })
    }

    /// Rows of a buffer that are `x`, converted: now, if they are not there.
    pub(super) fn of<D: Device>(
        &mut self,
        device: &D,
        outgrown: &mut Vec<DeviceBuffer<f32>>,
        order: XOrder,
        (x, state): (&DeviceSlice<f32>, State),
        [n_tokens, n_cols]: [usize; 2],
    ) -> Result<ConvertedX<'_>, Error>
    where
        D::Error: Send + Sync + 'static,
    {
        let form = Some(Form { order, n_tokens, n_cols });
        let is_there = form == self.form && self.of == Some(state);
        (self.form, self.of) = (form, Some(state));
        let [n_words, n_numbers] = order.len(gemv_max_vectors(n_tokens), n_cols);
        let words = grown(device, &mut self.words, outgrown, n_words)?.cast_mut();
        let numbers = grown(device, &mut self.numbers, outgrown, n_numbers)?;
        if is_there {
            return Ok(ConvertedX::made(order, words, numbers, n_tokens));
        }
        ConvertedX::new(device, order, words, numbers, x, [n_tokens, n_cols]).map_err(super::device_error)
    }

    /// After launches that were queued and then not run.
    pub(super) fn forget(&mut self) {
        self.of = None;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use kernels_gpu::launch::{Grid, Launch, Purpose};
    use kernels_gpu::simt::Element;
    use kernels_gpu::simt::emulator::{Emulator, Error};

    use super::*;

    /// The emulator, and the kernels that were launched.
    struct Counting(Emulator, RefCell<Vec<&'static str>>);

    impl Device for Counting {
        type Error = Error;

        fn alloc<T: Element>(&self, n: usize, purpose: Purpose) -> Result<DeviceBuffer<T>, Error> {
            self.0.alloc(n, purpose)
        }

        fn copy_in<T: Element>(&self, dst: &mut DeviceSlice<T>, src: &[T]) -> Result<(), Error> {
            self.0.copy_in(dst, src)
        }

        fn copy_out<T: Element>(&self, src: &DeviceSlice<T>, dst: &mut [T]) -> Result<(), Error> {
            self.0.copy_out(src, dst)
        }

        fn zero<T: Element>(&self, dst: &mut DeviceSlice<T>) -> Result<(), Error> {
            self.0.zero(dst)
        }

        fn launch<K: Launch>(&self, kernel: K, grid: Grid) -> Result<(), Error> {
            self.1.borrow_mut().push(K::META.name);
            self.0.launch(kernel, grid)
        }
    }

    #[test]
    fn a_row_is_converted_once_and_then_by_whoever_writes_it() {
        let device = Counting(Emulator::checked(), RefCell::default());
        let mut buffer = GpuBuffer::new(device.zeros(2 * 64, Purpose::Other).unwrap(), 0);
        let mut converted = Converted::default();
        let mut outgrown = Vec::new();
        let mut read = |converted: &mut Converted, buffer: &GpuBuffer, order, n_tokens| {
            let x = (rows(buffer, n_tokens, 64), buffer.state());
            converted.of(&device, &mut outgrown, order, x, [n_tokens, 64]).unwrap();
            device.1.take()
        };
        let any = |_| true;

        assert!(converted.row(buffer.next_state(), [1, 64], any).is_none(), "no product has taken it");
        assert_eq!(read(&mut converted, &buffer, XOrder::Fixed, 1), ["gemv_x_fixed"]);
        assert!(read(&mut converted, &buffer, XOrder::Fixed, 1).is_empty());
        rows_mut(&mut buffer, 1, 64);
        assert_eq!(read(&mut converted, &buffer, XOrder::Fixed, 1), ["gemv_x_fixed"], "it was written");

        let place = converted.row(buffer.next_state(), [1, 64], any).expect("a product has taken it so");
        assert_eq!((place.order, place.words.len()), (XOrder::Fixed, 128));
        rows_mut(&mut buffer, 1, 64);
        assert!(
            read(&mut converted, &buffer, XOrder::Fixed, 1).is_empty(),
            "whoever wrote it has converted it"
        );

        assert!(converted.row(buffer.next_state(), [2, 64], any).is_none(), "two rows");
        assert!(converted.row(buffer.next_state(), [1, 64], |_| false).is_none(), "no kernel");
        assert_eq!(read(&mut converted, &buffer, XOrder::F16, 1), ["gemv_x_f16"], "another order");
        converted.forget();
        assert_eq!(read(&mut converted, &buffer, XOrder::F16, 1), ["gemv_x_f16"], "forgotten");
    }
}

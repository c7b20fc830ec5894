//! The bytes of a block's shared memory.

/// Shared memory of a block, aligned as on the GPU.
#[derive(Default)]
pub struct SharedMemory {
    lines: Vec<Line>,
}

#[derive(Clone, Copy)]
#[repr(C, align(1024))]
struct Line([u8; 1024]);

impl SharedMemory {
    /// At least `bytes` of undefined content. (Bytes of ones: as floating-point numbers, NaN.)
    pub fn fresh(&mut self, bytes: usize) -> *mut u8 {
        let n_lines = bytes.div_ceil(size_of::<Line>());
        self.lines.clear();
        self.lines.resize(n_lines, Line([0xff; 1024]));
        self.lines.as_mut_ptr().cast()
    }
}

//! Which bytes of an allocation something has written.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// One bit per byte.
pub struct WrittenMap {
    bits: Box<[AtomicU64]>,
    bytes: usize,
    /// Set once every bit is.
    all: AtomicBool,
}

impl WrittenMap {
    /// Of an allocation that nothing has written.
    pub fn new(bytes: usize) -> Self {
        // SAFETY: zero is a valid AtomicU64.
        let bits = unsafe { Box::new_zeroed_slice(bytes.div_ceil(64)).assume_init() };
        Self { bits, bytes, all: AtomicBool::new(false) }
    }

    /// Something writes a range of bytes.
    pub fn mark(&self, range: Range<usize>) {
        if self.all.load(Relaxed) {
            return;
        }
        for (word, mask) in words(range) {
            // Most are written more than once; reading first spares the exclusive access.
            if self.bits[word].load(Relaxed) & mask != mask {
                self.bits[word].fetch_or(mask, Relaxed);
            }
        }
    }

    /// The first byte of a range that nothing has written.
    pub fn first_unwritten(&self, range: Range<usize>) -> Option<usize> {
        if self.all.load(Relaxed) {
            return None;
        }
        let unwritten = words(range.clone()).find_map(|(word, mask)| {
            let missing = !self.bits[word].load(Relaxed) & mask;
            (missing != 0).then(|| 64 * word + missing.trailing_zeros() as usize)
        });
        if unwritten.is_none() && range == (0..self.bytes) {
            self.all.store(true, Relaxed);
        }
        unwritten
    }
}

/// The words that hold the bits of a range, with a mask of these bits.
fn words(range: Range<usize>) -> impl Iterator<Item = (usize, u64)> {
    (range.start / 64..range.end.div_ceil(64)).map(move |word| {
        let first = range.start.saturating_sub(64 * word);
        let end = (range.end - 64 * word).min(64);
        (word, (u64::MAX << first) & (u64::MAX >> (64 - end)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_across_words() {
        for (start, end) in [(0, 1), (0, 64), (63, 65), (10, 200), (128, 192), (255, 256), (7, 7)] {
            let map = WrittenMap::new(256);
            map.mark(start..end);
            for byte in 0..256 {
                let unwritten = map.first_unwritten(byte..byte + 1);
                assert_eq!(
                    unwritten.is_none(),
                    (start..end).contains(&byte),
                    "byte {byte} of {start}..{end}"
                );
            }
        }
    }

    #[test]
    fn first_gap_is_found() {
        let map = WrittenMap::new(1000);
        map.mark(0..700);
        map.mark(701..1000);
        assert_eq!(map.first_unwritten(3..999), Some(700));
        assert_eq!(map.first_unwritten(701..1000), None);
        map.mark(700..701);
        assert_eq!(map.first_unwritten(0..1000), None);
    }
}

//! Zeroed memory that the system provides page by page as it is first touched: a cache for a long context costs what
//! is used of it.

use memmap2::MmapMut;

use crate::backend::Error;

/// f32 zeros.
pub struct Zeros {
    map: Option<MmapMut>, // none for no bytes
}

impl Zeros {
    /// `len` zeros, for `purpose`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the system refuses.
    pub fn new(len: usize, purpose: &'static str) -> Result<Self, Error> {
        if len == 0 {
            return Ok(Zeros { map: None });
        }
        let bytes = (len as u64).saturating_mul(size_of::<f32>() as u64);
        let refused = || Error::OutOfMemory { device: "cpu".to_owned(), purpose, bytes };
        let n_bytes = usize::try_from(bytes).map_err(|_| refused())?;
        let map = MmapMut::map_anon(n_bytes).map_err(|_| refused())?;
        Ok(Zeros { map: Some(map) })
    }

    pub fn as_slice(&self) -> &[f32] {
        self.map.as_ref().map_or(&[], |map| bytemuck::cast_slice(map))
    }

    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        self.map.as_mut().map_or(&mut [], |map| bytemuck::cast_slice_mut(map))
    }

    pub fn bytes(&self) -> u64 {
        self.map.as_ref().map_or(0, |map| map.len() as u64)
    }
}

/// Bytes of memory that the machine has, where the system tells.
pub fn physical_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

//! Memory for states and scratch.

use core::ops::{Deref, DerefMut};
use memmap2::MmapMut;

/// The memory asked for cannot be had. Returned by [`AlignedBytes::zeroed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes of memory cannot be had")]
pub struct AllocError {
    /// Bytes asked for.
    pub bytes: usize,
}

/// From so many bytes on, huge pages are asked for.
const HUGE_FROM: usize = 4 << 20;

/// Memory of this process alone that starts on a page boundary, so on one of [`ALIGN`](sarit_core::ALIGN) bytes, all
/// zero at first.
///
/// The operating system hands out zeroed pages as they are first written, so a large buffer costs only what is used, to
/// a page: on Linux pages of 2 MiB for buffers of 4 MiB or more, where it has them. A large state passes through every
/// step, and finding its small pages would take a good part of the time.
pub struct AlignedBytes {
    map: MmapMut,
}

impl AlignedBytes {
    /// `len` bytes of zeros.
    ///
    /// # Errors
    /// If so much memory cannot be had.
    pub fn zeroed(len: usize) -> Result<Self, AllocError> {
        let map = MmapMut::map_anon(len).map_err(|_| AllocError { bytes: len })?;
        #[cfg(target_os = "linux")]
        if len >= HUGE_FROM {
            // Small pages do as well.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Ok(Self { map })
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }
}

impl core::fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("AlignedBytes").field("len", &self.map.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sarit_core::ALIGN;

    #[test]
    fn bytes_are_aligned_zeroed_and_writable() {
        for len in [0, 1, 63, 64, 65, 1 << 20] {
            let mut bytes = AlignedBytes::zeroed(len).unwrap();
            assert_eq!(bytes.len(), len);
            assert!(bytes.as_ptr().addr().is_multiple_of(ALIGN));
            assert!(bytes.iter().all(|&b| b == 0));
            bytes.fill(1);
        }
    }

    #[test]
    fn absurd_sizes_are_errors() {
        for bytes in [usize::MAX, isize::MAX as usize, isize::MAX as usize - ALIGN] {
            assert_eq!(AlignedBytes::zeroed(bytes).unwrap_err(), AllocError { bytes });
        }
    }
}

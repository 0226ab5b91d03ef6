//! Memory for states and scratch.

use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use sarit_core::ALIGN;
use std::alloc::{Layout, alloc_zeroed, dealloc};

/// The memory asked for cannot be had. Returned by [`AlignedBytes::zeroed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes of memory cannot be had")]
pub struct AllocError {
    /// Bytes asked for.
    pub bytes: usize,
}

/// Heap memory that starts on a boundary of [`ALIGN`] bytes, all zero at first.
///
/// The operating system hands out zeroed pages as they are first written, so a large buffer costs only what is used.
pub struct AlignedBytes {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: it owns its bytes alone, as a `Box<[u8]>` does.
unsafe impl Send for AlignedBytes {}
// SAFETY: as above.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    /// `len` bytes of zeros.
    ///
    /// # Errors
    /// If so much memory cannot be had.
    pub fn zeroed(len: usize) -> Result<Self, AllocError> {
        let error = AllocError { bytes: len };
        let layout = Self::layout(len).ok_or(error)?;
        // SAFETY: `layout` has at least one byte.
        let start = unsafe { alloc_zeroed(layout) };
        Ok(Self { start: NonNull::new(start).ok_or(error)?, len })
    }

    /// Of at least one byte, because an allocator need not serve empty requests.
    fn layout(len: usize) -> Option<Layout> {
        Layout::from_size_align(len.max(1), ALIGN).ok()
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` points to `len` initialized bytes that `self` owns.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        let layout = Self::layout(self.len).expect("`zeroed` has computed the same");
        // SAFETY: `zeroed` has allocated `start` with the same layout.
        unsafe { dealloc(self.start.as_ptr(), layout) }
    }
}

impl core::fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("AlignedBytes").field("len", &self.len).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

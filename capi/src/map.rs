//! Model files mapped into memory: pages are read as they are needed, and processes share them.

use crate::guard::guard;
use crate::handle::{MapHandle, clear, fill, get, get_mut, write};
use crate::status::{SaritFile, SaritNull, Status};
use core::ffi::{CStr, c_char, c_void};
use core::mem::ManuallyDrop;
use sarit_cpu::Mapped;
use std::path::Path;

/// Maps the file at path, a text that ends with a zero. bytes and len: its content, aligned as a model must be.
///
/// The file must not be written to while it is mapped; replace it by renaming a new one over it.
///
/// # Safety
/// `mapping`, `bytes` and `len` may be written; `path` is null or ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sarit_map(
    mapping: *mut MapHandle,
    path: *const c_char,
    bytes: *mut *const c_void,
    len: *mut usize,
) -> Status {
    guard(|| {
        // SAFETY: as the caller promises.
        unsafe {
            clear(mapping)?;
            write(bytes, core::ptr::null())?;
            write(len, 0)?;
            if path.is_null() {
                return Err(SaritNull);
            }
            let path = path_of(CStr::from_ptr(path)).ok_or(SaritFile)?;
            let mapped = Mapped::open(path).map_err(|_| SaritFile)?;
            fill(mapping, ManuallyDrop::new(mapped))?;
            let mapped = get(mapping)?.bytes();
            write(bytes, mapped.as_ptr().cast())?;
            write(len, mapped.len())
        }
    })
}

#[cfg(unix)]
fn path_of(path: &CStr) -> Option<&Path> {
    use std::os::unix::ffi::OsStrExt;
    Some(Path::new(std::ffi::OsStr::from_bytes(path.to_bytes())))
}

#[cfg(not(unix))]
fn path_of(path: &CStr) -> Option<&Path> {
    path.to_str().ok().map(Path::new)
}

/// Ends a mapping. No model made of its bytes may be used any more.
///
/// # Safety
/// `mapping` may be written and is used by nothing else, nor are its bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sarit_unmap(mapping: *mut MapHandle) -> Status {
    guard(|| {
        // SAFETY: as the caller promises; the tag is cleared, so that the value is not dropped again.
        unsafe {
            ManuallyDrop::drop(get_mut(mapping)?);
            clear(mapping)
        }
    })
}

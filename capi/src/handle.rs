//! Structs of C with values of Rust in them, and memory that C lends: where pointers become references.

use crate::status::{SaritLength, SaritMisaligned, SaritNotReady, SaritNull, SaritOverlap, Status};
use core::mem::ManuallyDrop;
use sarit_core::{Engine, Sampler, Scratch, State};

/// The kernels of this build: on a machine with an operating system the best that its CPU has, on the caller's thread.
#[cfg(feature = "hosted")]
pub(crate) type Kernels = sarit_cpu::Cpu;
/// The kernels of this build: those of the target.
#[cfg(not(feature = "hosted"))]
pub(crate) type Kernels = sarit_mcu::Best;

/// A struct of C: a tag, which is 0 until the value is there, and room for the value.
///
/// # Safety
/// The struct consists of a `u64` and room for `Value` at [`VALUE`], and `Value` needs no drop.
pub(crate) unsafe trait Handle: Sized {
    /// What lies in it.
    type Value;
    /// Says that it does.
    const TAG: u64;
}

/// Bytes from the start of a handle to its value: past the tag.
const VALUE: usize = 8;

macro_rules! handle {
    ($name:ident, $value:ty, $tag:literal) => {
        // SAFETY: the assertions below say that it is laid out so.
        unsafe impl Handle for $name {
            type Value = $value;
            const TAG: u64 = u64::from_le_bytes(*$tag);
        }
        const _: () = {
            assert!(size_of::<$value>() <= size_of::<$name>() - VALUE);
            assert!(align_of::<$value>() <= align_of::<$name>() && align_of::<$name>() <= VALUE);
            assert!(!core::mem::needs_drop::<$value>());
        };
    };
}

/// A model. Fill it with sarit_model_init().
#[repr(C)]
pub struct ModelHandle {
    tag: u64,
    opaque: [usize; 63],
}

/// A stream. Fill it with sarit_state_init() or sarit_state_load().
#[repr(C)]
pub struct StateHandle {
    tag: u64,
    opaque: [usize; 15],
}

/// Working memory of a step. Fill it with sarit_scratch_init().
#[repr(C)]
pub struct ScratchHandle {
    tag: u64,
    opaque: [usize; 63],
}

/// A random sequence of tokens. Fill it with sarit_sampler_init().
#[repr(C)]
pub struct SamplerHandle {
    tag: u64,
    opaque: [u64; 7],
}

/// A file in memory. Fill it with sarit_map().
#[cfg(feature = "hosted")]
#[repr(C)]
pub struct MapHandle {
    tag: u64,
    opaque: [usize; 7],
}

// An engine, so that a step needs no copy of the model on the stack. There is nothing to drop in kernels of one thread.
handle!(ModelHandle, ManuallyDrop<Engine<'static, Kernels>>, b"srtmodel");
handle!(StateHandle, Lent<State<'static>>, b"srtstate");
handle!(ScratchHandle, Lent<Scratch<'static>>, b"srtscrch");
handle!(SamplerHandle, Sampler, b"srtsampl");
#[cfg(feature = "hosted")]
handle!(MapHandle, ManuallyDrop<sarit_cpu::Mapped>, b"srtfile_");

/// A value in memory that C has lent.
pub(crate) struct Lent<T> {
    pub(crate) value: T,
    pub(crate) memory: Span,
}

/// A range of addresses.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    start: usize,
    bytes: usize,
}

impl Span {
    pub(crate) fn of<T>(slice: &[T]) -> Self {
        Self { start: slice.as_ptr().addr(), bytes: size_of_val(slice) }
    }

    /// Fails if any two of `spans` have a byte in common.
    pub(crate) fn apart(spans: &[Self]) -> Result<(), Status> {
        let meet = |a: &Self, b: &Self| {
            a.bytes > 0 && b.bytes > 0 && a.start < b.start + b.bytes && b.start < a.start + a.bytes
        };
        let mut pairs = spans.iter().enumerate().flat_map(|(i, a)| spans[..i].iter().map(move |b| (a, b)));
        if pairs.any(|(a, b)| meet(a, b)) { Err(SaritOverlap) } else { Ok(()) }
    }
}

/// Fails if `pointer` is null or not aligned.
fn check<T>(pointer: *const T) -> Result<(), Status> {
    if pointer.is_null() {
        Err(SaritNull)
    } else if !pointer.is_aligned() {
        Err(SaritMisaligned)
    } else {
        Ok(())
    }
}

/// Empties a handle that is to be filled.
///
/// # Safety
/// `handle` may be written, if it is not null.
pub(crate) unsafe fn clear<H: Handle>(handle: *mut H) -> Result<(), Status> {
    check(handle)?;
    // SAFETY: not null, aligned, and the caller says that it may be written; the tag comes first.
    unsafe { handle.cast::<u64>().write(0) };
    Ok(())
}

/// Fills a handle.
///
/// # Safety
/// `handle` may be written, if it is not null.
pub(crate) unsafe fn fill<H: Handle>(handle: *mut H, value: H::Value) -> Result<(), Status> {
    check(handle)?;
    // SAFETY: not null, aligned, and the caller says that it may be written; `Handle` says that the value fits.
    unsafe {
        handle.byte_add(VALUE).cast::<H::Value>().write(value);
        handle.cast::<u64>().write(H::TAG);
    }
    Ok(())
}

/// What a handle holds.
///
/// # Safety
/// `handle` may be read, if it is not null, and is not written meanwhile.
pub(crate) unsafe fn get<'a, H: Handle>(handle: *const H) -> Result<&'a H::Value, Status> {
    check(handle)?;
    // SAFETY: not null and aligned, and the caller says that it may be read.
    if unsafe { handle.cast::<u64>().read() } != H::TAG {
        return Err(SaritNotReady);
    }
    // SAFETY: the tag says that `fill` has written the value.
    Ok(unsafe { &*handle.byte_add(VALUE).cast::<H::Value>() })
}

/// What a handle holds, to be changed.
///
/// # Safety
/// `handle` may be written, if it is not null, and nothing else uses it meanwhile.
pub(crate) unsafe fn get_mut<'a, H: Handle>(handle: *mut H) -> Result<&'a mut H::Value, Status> {
    // SAFETY: the caller's promise is wider than that of `get`.
    unsafe { get(handle.cast_const()) }?;
    // SAFETY: `get` has found the value there, and the caller says that nothing else uses it.
    Ok(unsafe { &mut *handle.byte_add(VALUE).cast::<H::Value>() })
}

/// Bytes of `len` elements, if there can be so many at `pointer`; null is an empty slice.
fn extent<T>(pointer: *const T, len: usize) -> Result<usize, Status> {
    if len > 0 {
        check(pointer)?;
    }
    let bytes = len.checked_mul(size_of::<T>()).filter(|bytes| *bytes <= isize::MAX as usize);
    bytes.filter(|bytes| pointer.addr().checked_add(*bytes).is_some()).ok_or(SaritLength)
}

/// Memory that C lends to be read.
///
/// # Safety
/// `len` elements may be read at `pointer` for as long as the slice is used.
pub(crate) unsafe fn slice<'a, T>(pointer: *const T, len: usize) -> Result<&'a [T], Status> {
    if extent(pointer, len)? == 0 {
        return Ok(&[]);
    }
    // SAFETY: not null, aligned, of a possible size, and the caller says that it may be read.
    Ok(unsafe { core::slice::from_raw_parts(pointer, len) })
}

/// Memory that C lends to be written.
///
/// # Safety
/// `len` elements may be written at `pointer` for as long as the slice is used, and nothing else uses them.
pub(crate) unsafe fn slice_mut<'a, T>(pointer: *mut T, len: usize) -> Result<&'a mut [T], Status> {
    if extent(pointer, len)? == 0 {
        return Ok(&mut []);
    }
    // SAFETY: not null, aligned, of a possible size, and the caller says that it may be written and is used by nothing
    // else.
    Ok(unsafe { core::slice::from_raw_parts_mut(pointer, len) })
}

/// Writes a result to where C wants it.
///
/// # Safety
/// `to` may be written, if it is not null.
pub(crate) unsafe fn write<T>(to: *mut T, value: T) -> Result<(), Status> {
    check(to)?;
    // SAFETY: not null, aligned, and the caller says that it may be written.
    unsafe { to.write(value) };
    Ok(())
}

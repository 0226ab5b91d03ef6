//! Memory in use: what the linker laid out, and how deep the stack went.

unsafe extern "C" {
    static __sdata: u32;
    static __edata: u32;
    static __sidata: u32;
    static __sheap: u32;
    static _stack_start: u32;
}

/// What free memory is painted with.
const PAINT: u32 = 0x7a11_0c8d;
/// Room left unpainted below the painter's own frame, in words.
const MARGIN: usize = 64;

/// The stack, painted below where it was.
#[derive(Debug)]
pub struct Stack(());

impl Stack {
    /// Paints the memory between the static variables and the stack.
    pub fn paint() -> Self {
        let here = 0u32;
        let top = (&raw const here).wrapping_sub(MARGIN);
        let mut word = (&raw const __sheap).cast_mut();
        while word.cast_const() < top {
            // SAFETY: nothing lies there: static variables end below, the stack ends above.
            unsafe { word.write_volatile(PAINT) };
            word = word.wrapping_add(1);
        }
        Self(())
    }

    /// Bytes of the stack that were in use at most, the painter's callers included.
    pub fn used(&self) -> usize {
        let mut word = &raw const __sheap;
        // SAFETY: up to the stack's start there is memory.
        while word < &raw const _stack_start && unsafe { word.read_volatile() } == PAINT {
            word = word.wrapping_add(1);
        }
        (&raw const _stack_start).addr() - word.addr()
    }
}

/// Bytes of static variables.
pub(crate) fn static_bytes() -> usize {
    (&raw const __sheap).addr() - (&raw const __sdata).addr()
}

/// Bytes of code, constants and initial values, from the start of flash.
pub(crate) fn flash_bytes(flash: usize) -> usize {
    let data = (&raw const __edata).addr() - (&raw const __sdata).addr();
    (&raw const __sidata).addr() + data - flash
}

//! The machine timer of QEMU's virt machine, and the counter of instructions.

/// `mtimecmp` of hart 0, and `mtime`, which counts at 10 MHz.
const MTIMECMP: *mut u32 = 0x0200_4000 as *mut u32;
const MTIME: *const u32 = 0x0200_bff8 as *const u32;
/// Ticks from frame to frame: more than the model needs for a step.
const PERIOD: u32 = 1 << 20;

/// Sets the time of the next interrupt.
pub fn again() {
    // SAFETY: registers of the timer. Runs are short: the upper half of the time stays 0.
    unsafe {
        let now = MTIME.read_volatile();
        MTIMECMP.add(1).write_volatile(0);
        MTIMECMP.write_volatile(now.wrapping_add(PERIOD));
    }
}

/// Starts it, with its interrupt.
pub fn start() {
    again();
    // SAFETY: the handler is in place.
    unsafe {
        riscv::register::mie::set_mtimer();
        riscv::interrupt::enable();
    }
}

/// Instructions executed so far; differences wrap.
pub fn instructions() -> u32 {
    riscv::register::minstret::read() as u32
}

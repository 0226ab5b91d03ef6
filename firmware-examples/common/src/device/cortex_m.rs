//! Cortex-M: SysTick brings the frames and counts instructions.

use core::sync::atomic::{AtomicU32, Ordering};
use cortex_m::peripheral::SYST;
use cortex_m::peripheral::syst::SystClkSource;

/// Ticks from frame to frame: more than any of these models needs for a step on any of these boards.
const PERIOD: u32 = 1 << 20;

/// SysTick, on a machine on which time is the number of instructions (QEMU with `-icount shift=0`: one a nanosecond).
pub struct SysTick {
    nanoseconds: u32,
    interrupts: AtomicU32,
}

impl SysTick {
    /// For a core clock whose ticks are `nanoseconds` apart.
    pub const fn new(nanoseconds: u32) -> Self {
        Self { nanoseconds, interrupts: AtomicU32::new(0) }
    }

    /// Starts it, with its interrupt.
    pub fn start(&self, mut timer: SYST) {
        timer.set_clock_source(SystClkSource::Core);
        timer.set_reload(PERIOD - 1);
        timer.clear_current();
        timer.enable_counter();
        timer.enable_interrupt();
    }

    /// To be called by the interrupt.
    pub fn tick(&self) {
        self.interrupts.store(self.interrupts.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// Instructions executed so far; differences wrap.
    pub fn instructions(&self) -> u32 {
        loop {
            let before = self.interrupts.load(Ordering::Relaxed);
            let left = SYST::get_current();
            if self.interrupts.load(Ordering::Relaxed) == before {
                // The interrupt comes when 0 is reached, one tick before the counter is reloaded.
                let ticks = before.wrapping_mul(PERIOD).wrapping_add((PERIOD - left) % PERIOD);
                return ticks.wrapping_mul(self.nanoseconds);
            }
        }
    }
}

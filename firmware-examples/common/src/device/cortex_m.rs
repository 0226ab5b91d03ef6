//! Cortex-M: SysTick brings the frames and counts instructions; the programs of all boards with such a core.

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

/// The firmware of a board: `kernels` step the case that is in its flash, which begins at `flash`; ticks of its core are
/// `nanoseconds` apart.
#[macro_export]
macro_rules! cortex_m_firmware {
    (kernels: $kernels:expr, flash: $flash:expr, nanoseconds: $nanoseconds:expr) => {
        use cortex_m_rt::{entry, exception};
        use sarit_firmware::cortex_m::SysTick;
        use sarit_firmware::{Board, Frames, Source, Stack, run};
        use static_cell::ConstStaticCell;

        sarit_firmware::case!();

        static SOURCE: Source<{ case::WIDTH }> = Source::new();
        static TIMER: SysTick = SysTick::new($nanoseconds);

        struct ThisBoard;

        impl Board for ThisBoard {
            const FLASH: usize = $flash;

            fn instructions(&self) -> u32 {
                TIMER.instructions()
            }

            fn wait(&self) {
                cortex_m::asm::wfi();
            }
        }

        #[exception]
        fn SysTick() {
            TIMER.tick();
            SOURCE.tick();
        }

        #[entry]
        fn main() -> ! {
            static QUEUE: ConstStaticCell<Frames<{ case::WIDTH }>> = ConstStaticCell::new(Frames::new());
            let stack = Stack::paint();
            let case = case();
            let mut frames = SOURCE.start(case.frames, QUEUE.take());
            if let Some(peripherals) = cortex_m::Peripherals::take() {
                TIMER.start(peripherals.SYST);
            }
            let verdict = run(&case, $kernels, lend(), &SOURCE, &mut frames, &ThisBoard, &stack);
            semihosting::process::exit(verdict as i32)
        }

        #[panic_handler]
        fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
            semihosting::process::exit(101)
        }
    };
}

/// The program that compares `kernels` with the definitions, on a board whose ticks are `nanoseconds` apart.
#[macro_export]
macro_rules! cortex_m_kernels {
    (kernels: $kernels:expr, nanoseconds: $nanoseconds:expr) => {
        use cortex_m_rt::{entry, exception};
        use sarit_firmware::cortex_m::SysTick;
        use sarit_firmware::kernels::{Memory, check};
        use static_cell::ConstStaticCell;

        static TIMER: SysTick = SysTick::new($nanoseconds);

        #[exception]
        fn SysTick() {
            TIMER.tick();
        }

        #[entry]
        fn main() -> ! {
            static MEMORY: ConstStaticCell<Memory> = ConstStaticCell::new(Memory::new());
            if let Some(peripherals) = cortex_m::Peripherals::take() {
                TIMER.start(peripherals.SYST);
            }
            let differing =
                check(&$kernels, MEMORY.take(), || TIMER.instructions(), &mut sarit_firmware::Console);
            semihosting::process::exit(differing as i32)
        }

        #[panic_handler]
        fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
            semihosting::println!("{info}");
            semihosting::process::exit(101)
        }
    };
}

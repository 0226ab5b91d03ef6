//! Keyword spotting on a Cortex-M33.
#![no_std]
#![no_main]

use cortex_m_rt::{entry, exception};
use sarit_firmware::cortex_m::SysTick;
use sarit_firmware::{Board, Frames, Source, Stack, run};
use sarit_mcu::Dsp;
use static_cell::ConstStaticCell;

sarit_firmware::case!();

static SOURCE: Source<{ case::WIDTH }> = Source::new();
/// The core runs at 20 MHz.
static TIMER: SysTick = SysTick::new(50);

struct Mps2;

impl Board for Mps2 {
    const FLASH: usize = 0x1000_0000;

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
    let verdict = run(&case, Dsp, lend(), &SOURCE, &mut frames, &Mps2, &stack);
    semihosting::process::exit(verdict as i32)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    semihosting::process::exit(101)
}

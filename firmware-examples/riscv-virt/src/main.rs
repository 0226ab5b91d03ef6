//! Keyword spotting on RV32IMAC.
#![no_std]
#![no_main]

mod timer;

use riscv::interrupt::Interrupt;
use sarit_firmware::{Board, Frames, Source, Stack, run};
use sarit_mcu::Soft;
use static_cell::ConstStaticCell;

sarit_firmware::case!();

static SOURCE: Source<{ case::WIDTH }> = Source::new();

struct Virt;

impl Board for Virt {
    const FLASH: usize = 0x8000_0000;

    fn instructions(&self) -> u32 {
        timer::instructions()
    }

    fn wait(&self) {
        riscv::asm::wfi();
    }
}

#[riscv_rt::core_interrupt(Interrupt::MachineTimer)]
fn tick() {
    timer::again();
    SOURCE.tick();
}

#[riscv_rt::entry]
fn main() -> ! {
    static QUEUE: ConstStaticCell<Frames<{ case::WIDTH }>> = ConstStaticCell::new(Frames::new());
    let stack = Stack::paint();
    let case = case();
    let mut frames = SOURCE.start(case.frames, QUEUE.take());
    timer::start();
    let verdict = run(&case, Soft, lend(), &SOURCE, &mut frames, &Virt, &stack);
    semihosting::process::exit(verdict as i32)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    semihosting::process::exit(101)
}

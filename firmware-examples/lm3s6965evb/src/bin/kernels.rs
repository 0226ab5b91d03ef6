//! The kernels of this core against the definitions.
#![no_std]
#![no_main]

use cortex_m_rt::{entry, exception};
use sarit_firmware::cortex_m::SysTick;
use sarit_firmware::kernels::{Memory, check};
use sarit_mcu::Soft;
use static_cell::ConstStaticCell;

static TIMER: SysTick = SysTick::new(80);

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
    let differing = check(&Soft, MEMORY.take(), || TIMER.instructions(), &mut sarit_firmware::Console);
    semihosting::process::exit(differing as i32)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    semihosting::println!("{info}");
    semihosting::process::exit(101)
}

//! The kernels of this core against the definitions.
#![no_std]
#![no_main]

use riscv::register::minstret;
use sarit_firmware::kernels::{Memory, check};
use sarit_mcu::Soft;
use static_cell::ConstStaticCell;

#[riscv_rt::entry]
fn main() -> ! {
    static MEMORY: ConstStaticCell<Memory> = ConstStaticCell::new(Memory::new());
    let differing = check(&Soft, MEMORY.take(), || minstret::read() as u32, &mut sarit_firmware::Console);
    semihosting::process::exit(differing as i32)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    semihosting::println!("{info}");
    semihosting::process::exit(101)
}

//! The motion classifier on a Cortex-M3 at 12.5 MHz.
#![no_std]
#![no_main]

sarit_firmware::cortex_m_firmware!(kernels: sarit_mcu::Soft, flash: 0, nanoseconds: 80);

//! Keyword spotting on a Cortex-M33 at 20 MHz.
#![no_std]
#![no_main]

sarit_firmware::cortex_m_firmware!(kernels: sarit_mcu::Dsp, flash: 0x1000_0000, nanoseconds: 50);

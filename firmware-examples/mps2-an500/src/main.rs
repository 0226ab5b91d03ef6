//! Keyword spotting on a Cortex-M7 at 25 MHz.
#![no_std]
#![no_main]

sarit_firmware::cortex_m_firmware!(kernels: sarit_mcu::Dsp, flash: 0, nanoseconds: 40);

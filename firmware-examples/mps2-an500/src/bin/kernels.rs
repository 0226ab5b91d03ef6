//! The kernels of this core against the definitions.
#![no_std]
#![no_main]

sarit_firmware::cortex_m_kernels!(kernels: sarit_mcu::Dsp, nanoseconds: 40);

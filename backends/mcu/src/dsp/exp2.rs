//! Exponentials of eight numbers at a time: what `sarit_core::math` does, in the same steps.
//!
//! `VMLA` rounds the product and then the sum, as the contract asks, but adds to a register that must hold the
//! polynomial's next coefficient before. So the coefficients lie in memory eight times each, and one `VLDM` fetches
//! them for eight numbers.

use sarit_core::math::{self, ROUND};

/// Numbers worked on together.
pub(super) const BLOCK: usize = 8;

/// The polynomial's coefficients in the order in which [`polynomial`] reads them: all but the highest once for every
/// number of a block.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Coefficients {
    second: [f32; BLOCK],
    highest: f32,
    others: [[f32; BLOCK]; 5],
}

impl Coefficients {
    /// Of a polynomial, highest power first.
    pub(super) const fn new(all: &[f32; math::EXP2.len()]) -> Self {
        Self { second: [all[1]; BLOCK], highest: all[0], others: repeated(2, all) }
    }
}

/// What the loops read, in this order.
#[repr(C)]
pub(super) struct Constants {
    /// What `exp` needs besides: factors, and [`ROUND`].
    scalars: [f32; 4],
    /// Added to a small number, it rounds that to an integer, which then stands in the low bits.
    round: [f32; BLOCK],
    pub(super) coefficients: Coefficients,
    /// The same for `ln_1p`.
    pub(super) ln_1p: [[f32; BLOCK]; 4],
}

/// A block of zeros.
pub(super) static ZEROS: [f32; BLOCK] = [0.0; BLOCK];

pub(super) static CONSTANTS: Constants = Constants {
    scalars: [core::f32::consts::LOG2_E, math::LN_2_HIGH, math::LN_2_LOW, ROUND],
    round: [ROUND; BLOCK],
    coefficients: Coefficients::new(&math::EXP2),
    ln_1p: repeated(0, &math::LN_1P),
};

/// Coefficients from `first` on, each once for every number of a block.
const fn repeated<const N: usize>(first: usize, coefficients: &[f32]) -> [[f32; BLOCK]; N] {
    let mut all = [[0.0; BLOCK]; N];
    let mut i = 0;
    while i < N {
        all[i] = [coefficients[first + i]; BLOCK];
        i += 1;
    }
    all
}

/// `s16..=s23 = 2^f` for `f` in `s0..=s7` (`$op` = `vmla`), or `2^-f` (`vmls`); uses `s8..=s15` and `$ptr`, which
/// points to [`Coefficients`] and is moved behind them.
macro_rules! polynomial {
    ($op:literal, $ptr:literal) => {
        concat!(
            "vldmia ", $ptr, "!, {{s8-s16}}\n",
            polynomial!(@by_highest $op, "s8", "s0"), polynomial!(@by_highest $op, "s9", "s1"),
            polynomial!(@by_highest $op, "s10", "s2"), polynomial!(@by_highest $op, "s11", "s3"),
            polynomial!(@by_highest $op, "s12", "s4"), polynomial!(@by_highest $op, "s13", "s5"),
            polynomial!(@by_highest $op, "s14", "s6"), polynomial!(@by_highest $op, "s15", "s7"),
            polynomial!(@to_high $op, $ptr), polynomial!(@to_low $op, $ptr), polynomial!(@to_high $op, $ptr),
            polynomial!(@to_low $op, $ptr), polynomial!(@to_high $op, $ptr),
        )
    };
    (@by_highest $op:literal, $sum:literal, $f:literal) => {
        concat!($op, ".f32 ", $sum, ", ", $f, ", s16\n")
    };
    (@to_high $op:literal, $ptr:literal) => {
        concat!(
            "vldmia ", $ptr, "!, {{s16-s23}}\n",
            $op, ".f32 s16, s0, s8\n", $op, ".f32 s17, s1, s9\n", $op, ".f32 s18, s2, s10\n",
            $op, ".f32 s19, s3, s11\n", $op, ".f32 s20, s4, s12\n", $op, ".f32 s21, s5, s13\n",
            $op, ".f32 s22, s6, s14\n", $op, ".f32 s23, s7, s15\n",
        )
    };
    (@to_low $op:literal, $ptr:literal) => {
        concat!(
            "vldmia ", $ptr, "!, {{s8-s15}}\n",
            $op, ".f32 s8, s0, s16\n", $op, ".f32 s9, s1, s17\n", $op, ".f32 s10, s2, s18\n",
            $op, ".f32 s11, s3, s19\n", $op, ".f32 s12, s4, s20\n", $op, ".f32 s13, s5, s21\n",
            $op, ".f32 s14, s6, s22\n", $op, ".f32 s15, s7, s23\n",
        )
    };
}
pub(super) use polynomial;

/// The same instruction on eight registers (or triples of them).
macro_rules! eight {
    ($op:literal: $($operands:literal)*) => {
        concat!($($op, " ", $operands, "\n"),*)
    };
}
pub(super) use eight;

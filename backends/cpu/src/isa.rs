//! Instruction sets: their names, which of them this build may use, and which this CPU has.

use core::fmt;
use core::str::FromStr;

#[cfg(all(any(sarit_backend = "avx2", sarit_backend = "avx512"), not(target_arch = "x86_64")))]
compile_error!("this sarit_backend needs an x86-64 target");
#[cfg(all(
    any(sarit_backend = "neon", sarit_backend = "dotprod", sarit_backend = "i8mm"),
    not(target_arch = "aarch64")
))]
compile_error!("this sarit_backend needs an AArch64 target");

/// An instruction set that [`Cpu`](crate::Cpu) has kernels for; later ones are faster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// The definitions of `sarit-core`, compiled for the target's baseline.
    Scalar,
    /// x86-64 with AVX2 and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI.
    Avx512,
    /// AArch64 with NEON.
    Neon,
    /// AArch64 with NEON and the dot products of codes (`sdot`).
    DotProd,
    /// AArch64 with NEON, `sdot` and the matrix products of codes (`smmla`).
    I8mm,
}

/// The only instruction set this build uses, where `--cfg sarit_backend="…"` names one.
const FORCED: Option<Isa> = if cfg!(sarit_backend = "scalar") {
    Some(Isa::Scalar)
} else if cfg!(sarit_backend = "avx2") {
    Some(Isa::Avx2)
} else if cfg!(sarit_backend = "avx512") {
    Some(Isa::Avx512)
} else if cfg!(sarit_backend = "neon") {
    Some(Isa::Neon)
} else if cfg!(sarit_backend = "dotprod") {
    Some(Isa::DotProd)
} else if cfg!(sarit_backend = "i8mm") {
    Some(Isa::I8mm)
} else {
    None
};

impl Isa {
    /// All of them, those of an architecture slowest first.
    pub const ALL: [Isa; 6] = [Self::Scalar, Self::Avx2, Self::Avx512, Self::Neon, Self::DotProd, Self::I8mm];

    /// Name as on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
            Self::DotProd => "dotprod",
            Self::I8mm => "i8mm",
        }
    }

    /// Those that this CPU has and this build may use, slowest first, so that the last is the best.
    pub fn available() -> impl Iterator<Item = Isa> {
        Self::ALL.into_iter().filter(|&isa| Level::new(isa).is_some())
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No instruction set has this name. Returned by [`Isa::from_str`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the instruction set must be scalar, avx2, avx512, neon, dotprod or i8mm")]
pub struct UnknownIsa;

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(name: &str) -> Result<Self, UnknownIsa> {
        Self::ALL.into_iter().find(|isa| isa.name() == name).ok_or(UnknownIsa)
    }
}

/// An instruction set with the proof that the CPU has it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Level {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2(crate::x86::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(crate::x86::Avx512),
    #[cfg(target_arch = "aarch64")]
    Neon(crate::arm::Neon),
    #[cfg(target_arch = "aarch64")]
    DotProd(crate::arm::DotProd),
    #[cfg(target_arch = "aarch64")]
    I8mm(crate::arm::I8mm),
}

impl Level {
    /// `None` where this CPU lacks `isa` or the build is forced to another one.
    pub(crate) fn new(isa: Isa) -> Option<Self> {
        if FORCED.is_some_and(|forced| forced != isa) {
            return None;
        }
        match isa {
            Isa::Scalar => Some(Self::Scalar),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => crate::x86::Avx2::new().map(Self::Avx2),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => crate::x86::Avx512::new().map(Self::Avx512),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => None,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => crate::arm::Neon::new().map(Self::Neon),
            #[cfg(target_arch = "aarch64")]
            Isa::DotProd => crate::arm::DotProd::new().map(Self::DotProd),
            #[cfg(target_arch = "aarch64")]
            Isa::I8mm => crate::arm::I8mm::new().map(Self::I8mm),
            #[cfg(not(target_arch = "aarch64"))]
            Isa::Neon | Isa::DotProd | Isa::I8mm => None,
        }
    }

    pub(crate) fn isa(self) -> Isa {
        match self {
            Self::Scalar => Isa::Scalar,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => Isa::Avx2,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => Isa::Avx512,
            #[cfg(target_arch = "aarch64")]
            Self::Neon(_) => Isa::Neon,
            #[cfg(target_arch = "aarch64")]
            Self::DotProd(_) => Isa::DotProd,
            #[cfg(target_arch = "aarch64")]
            Self::I8mm(_) => Isa::I8mm,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed() {
        for isa in Isa::ALL {
            assert_eq!(isa.name().parse(), Ok(isa));
        }
        assert_eq!("AVX2".parse::<Isa>(), Err(UnknownIsa));
    }

    #[test]
    fn a_forced_build_has_that_one_only() {
        let available: Vec<Isa> = Isa::available().collect();
        match FORCED {
            Some(isa) => assert!(available.iter().all(|&a| a == isa)),
            None => assert_eq!(available[0], Isa::Scalar),
        }
    }
}

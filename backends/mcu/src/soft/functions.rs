//! Elementary functions: the steps of `sarit_core::math` on [`super::float`]'s sums and products. Rounding to an integer
//! and scaling by a power of two need no arithmetic on floats here.

use super::float::{add, mul};
use sarit_core::math::{self, EXP2, LN_2_HIGH, LN_2_LOW};

/// Exponents that [`split`] takes are below 2^6.
const FAR: u32 = 127 + 6;

/// Integer nearest to `x` (ties to even), as an integer and as what it leaves of `x`; `None` for `|x| >= 64`.
#[inline(always)]
fn split(x: f32) -> Option<(i32, f32)> {
    let bits = x.to_bits();
    let exponent = (bits >> 23) & 255;
    if exponent < 126 {
        return Some((0, x));
    }
    if exponent >= FAR {
        return None;
    }
    // |x| = significand / 2^shift, and 18 <= shift <= 24.
    let shift = 150 - exponent;
    let significand = (bits & 0x007f_ffff) | 0x0080_0000;
    let nearest = (significand + (1 << (shift - 1)) - 1 + ((significand >> shift) & 1)) >> shift;
    let rest = significand.wrapping_sub(nearest << shift).cast_signed();
    let negative = bits >> 31 != 0;
    let n = nearest.cast_signed();
    Some((if negative { -n } else { n }, from_int(rest, shift, negative)))
}

/// `±int / 2^shift` for an integer of at most 24 bits.
#[inline(always)]
pub(super) fn from_int(int: i32, shift: u32, negate: bool) -> f32 {
    if int == 0 {
        return 0.0;
    }
    let zeros = int.unsigned_abs().leading_zeros();
    let sign = u32::from((int < 0) != negate) << 31;
    // The leading bit, at bit 23 then, adds 1 to the exponent.
    let significand = int.unsigned_abs() << zeros >> 8;
    f32::from_bits(sign | (((127 + 30 - zeros - shift) << 23) + significand))
}

/// `2^(n + f)`.
#[inline(always)]
fn exp2_parts(n: i32, f: f32) -> f32 {
    let p = EXP2[1..].iter().fold(EXP2[0], |p, c| add(mul(f, p), *c));
    f32::from_bits(p.to_bits().wrapping_add_signed(n << 23))
}

/// [`math::exp2`].
#[inline(always)]
pub(super) fn exp2(x: f32) -> f32 {
    match split(x) {
        Some((n, f)) => exp2_parts(n, f),
        None => math::exp2(x),
    }
}

/// [`math::exp`].
pub(super) fn exp(x: f32) -> f32 {
    match split(mul(x, core::f32::consts::LOG2_E)) {
        Some((n, _)) => {
            let minus_n = from_int(n, 0, true);
            let r = add(add(x, mul(minus_n, LN_2_HIGH)), mul(minus_n, LN_2_LOW));
            exp2_parts(n, mul(r, core::f32::consts::LOG2_E))
        }
        None => math::exp(x),
    }
}

/// [`math::silu`].
pub(super) fn silu(x: f32) -> f32 {
    x / add(1.0, exp(-x))
}

/// [`math::softplus`].
pub(super) fn softplus(x: f32) -> f32 {
    let negative = x < 0.0;
    let e = exp(if negative { x } else { -x });
    let s = e / add(2.0, e);
    let z = mul(s, s);
    let q = math::LN_1P[1..].iter().fold(math::LN_1P[0], |q, c| add(mul(z, q), *c));
    let ln = add(add(s, s), mul(s, mul(z, q)));
    add(if negative { 0.0 } else { x }, ln)
}

/// `x · inverse` rounded to an integer, ties to even, for `|x · inverse|` up to 127.
#[inline(always)]
pub(super) fn encode(x: f32, inverse: f32) -> i8 {
    let bits = mul(x, inverse).to_bits();
    let exponent = (bits >> 23) & 255;
    if exponent < 126 {
        return 0;
    }
    let shift = 150 - exponent;
    let significand = (bits & 0x007f_ffff) | 0x0080_0000;
    let nearest = (significand + (1 << (shift - 1)) - 1 + ((significand >> shift) & 1)) >> shift;
    if bits >> 31 != 0 { (nearest as i8).wrapping_neg() } else { nearest as i8 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_those_of_the_definitions() {
        let floats = (0..=u32::MAX).step_by(4099).map(f32::from_bits);
        let near = (-2_000_000..2_000_000).map(|i| i as f32 * 1e-4);
        for x in floats.chain(near) {
            let same = |name: &str, got: f32, want: f32| {
                assert!(
                    got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                    "{name}({x:e}): {got:e} {want:e}"
                );
            };
            same("exp2", exp2(x), math::exp2(x));
            same("exp", exp(x), math::exp(x));
            same("silu", silu(x), math::silu(x));
            same("softplus", softplus(x), math::softplus(x));
        }
    }
}

//! Products and sums of floats in integer arithmetic, for cores without a floating-point unit.
//!
//! What these take is what a step is made of: normal numbers and zeros whose result is normal or zero. All else goes
//! to the operators, which the compiler's run-time library implements. The bits are those of the operators.

const SIGN: u32 = 1 << 31;
/// The leading bit of a significand, which a float does not hold.
const LEADING: u32 = 1 << 23;

/// `a · b`.
#[inline(always)]
pub(super) fn mul(a: f32, b: f32) -> f32 {
    let (x, y) = (a.to_bits(), b.to_bits());
    let sign = (x ^ y) & SIGN;
    let (ex, ey) = ((x >> 23) & 255, (y >> 23) & 255);
    if is_normal(ex) && is_normal(ey) {
        // 2^54 ..= 2^56: brought to 2^55 at least, so that the upper word is the significand.
        let mut product = u64::from((x << 8) | SIGN) * u64::from((y & (LEADING - 1)) | LEADING);
        let mut exponent = (ex + ey).wrapping_sub(127);
        if product >> 55 == 0 {
            product <<= 1;
            exponent = exponent.wrapping_sub(1);
        }
        // To the nearest, ties to even. The significand's leading bit adds 1 to the exponent.
        let rounded = product + 0x7fff_ffff + ((product >> 32) & 1);
        if exponent.wrapping_sub(1) < 252 {
            return f32::from_bits(sign | ((exponent << 23) + (rounded >> 32) as u32));
        }
    } else if x << 1 == 0 && ey < 255 || y << 1 == 0 && ex < 255 {
        return f32::from_bits(sign);
    }
    a * b
}

/// `a + b`.
#[inline(always)]
pub(super) fn add(a: f32, b: f32) -> f32 {
    let (x, y) = (a.to_bits(), b.to_bits());
    // The one of larger magnitude first.
    let (x, y) = if x << 1 < y << 1 { (y, x) } else { (x, y) };
    let (ex, ey) = ((x >> 23) & 255, (y >> 23) & 255);
    if !is_normal(ex) || !is_normal(ey) {
        return if y << 1 == 0 && is_normal(ex) { f32::from_bits(x) } else { a + b };
    }
    let distance = ex - ey;
    if distance > 25 {
        return f32::from_bits(x);
    }
    // Seven bits below the significand, the lowest of which says whether anything was lost.
    let large = ((x & (LEADING - 1)) | LEADING) << 7;
    let small = ((y & (LEADING - 1)) | LEADING) << 7;
    let shifted = (small >> distance) | u32::from(small << (31 - distance) << 1 != 0);
    let (sum, exponent) = if (x ^ y) & SIGN == 0 {
        let sum = large + shifted;
        // 2^30 ..= 2^32: brought below 2^31.
        let carry = sum >> 31;
        ((sum >> carry) | (sum & carry), ex + carry)
    } else {
        let sum = large - shifted;
        if sum == 0 {
            return 0.0;
        }
        let zeros = sum.leading_zeros() - 1;
        (sum << zeros, ex.wrapping_sub(zeros))
    };
    let significand = (sum + 0x3f + ((sum >> 7) & 1)) >> 7;
    if exponent.wrapping_sub(1) < 252 {
        return f32::from_bits((x & SIGN) | (((exponent - 1) << 23) + significand));
    }
    a + b
}

fn is_normal(exponent: u32) -> bool {
    exponent.wrapping_sub(1) < 254
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    /// Numbers with awkward exponents and significands.
    fn numbers() -> impl Iterator<Item = f32> {
        let mut x = 0x2545_f491_u32;
        core::iter::repeat_with(move || {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            let bits = match x % 8 {
                0 => x & 0xff80_0007,
                1 => x | 0x007f_fff8,
                2..=4 => 0x3f00_0000 ^ (x & 0x81ff_ffff),
                5 => 0x3f80_0000 ^ (x & 0x8000_0fff),
                _ => x,
            };
            f32::from_bits(bits)
        })
        .chain([0.0, -0.0, f32::MAX, f32::MIN_POSITIVE, f32::INFINITY, f32::NAN])
    }

    #[test]
    fn bits_are_those_of_the_operators() {
        let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        let special = [0.0, -0.0, 1.0, -1.0, f32::MAX, f32::MIN_POSITIVE, 1e-45, f32::INFINITY, f32::NAN];
        let pairs = numbers().zip(numbers().skip(1)).take(4_000_000);
        let all = pairs.chain(numbers().take(10_000).flat_map(|a| special.map(|b| (a, b))));
        for (a, b) in all.flat_map(|(a, b)| [(a, b), (b, a), (a, a), (a, -a)]) {
            assert!(same(mul(a, b), a * b), "{a:e} * {b:e}: {:e}", mul(a, b));
            assert!(same(add(a, b), a + b), "{a:e} + {b:e}: {:e}", add(a, b));
        }
    }
}

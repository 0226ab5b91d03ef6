//! Elementary functions, one definition for every target: only `+ - * /`, comparisons and bit moves, each rounded
//! as IEEE-754 binary32 asks, so the bits are the same wherever they run. Branch-free, so loops over them become
//! vector code. Errors are in units in the last place (ULP) against f64 and are measured by the tests of this file.

/// `1.5 · 2^23`: added to a float of small magnitude, it rounds that to an integer (ties to even), which then stands
/// in the low bits.
pub const ROUND: f32 = 12_582_912.0;

const LOG2_E: f32 = core::f32::consts::LOG2_E;
/// ln 2 in two parts; multiples of the first by integers below 2^14 are exact.
pub const LN_2_HIGH: f32 = 0.693_359_4;
/// The second part.
pub const LN_2_LOW: f32 = -2.121_944_4e-4;

/// `2^f` for `f` in about -0.5..=0.5 as a polynomial through the Chebyshev nodes, highest power first (relative error
/// 9.2e-9).
pub const EXP2: [f32; 7] = [
    0.000_154_531_63,
    0.001_339_086_3,
    0.009_618_083,
    0.055_503_57,
    0.240_226_5,
    core::f32::consts::LN_2,
    1.0,
];

/// `x`, but at most `high`; NaN stays NaN.
#[inline(always)]
pub(crate) fn at_most(x: f32, high: f32) -> f32 {
    if x > high { high } else { x }
}

/// `x`, but at least `low`; NaN stays NaN.
#[inline(always)]
pub(crate) fn at_least(x: f32, low: f32) -> f32 {
    if x < low { low } else { x }
}

/// `2^(n + f)` where `rounded` is `n + ROUND`: [`EXP2`] by Horner's rule, scaled by adding `n` to its exponent.
#[inline(always)]
fn exp2_parts(rounded: f32, f: f32) -> f32 {
    let mut p = EXP2[0];
    for c in &EXP2[1..] {
        p = f * p + c;
    }
    p * f32::from_bits((rounded.to_bits() << 23).wrapping_add(0x3f80_0000))
}

/// `2^x`, at most 1.1 ULP off for -126 <= x <= 127.4; 0 below, 2^127.4 above.
#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    let t = at_least(at_most(x, 127.4), -126.0);
    let rounded = t + ROUND;
    let y = exp2_parts(rounded, t - (rounded - ROUND));
    if x < -126.0 { 0.0 } else { y }
}

/// `e^x`, at most 1.4 ULP off for -87.33 <= x <= 88.3; 0 below, about 2.2e38 above.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let t = at_least(at_most(x, 88.3), -87.33);
    let rounded = t * LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (t - n * LN_2_HIGH) - n * LN_2_LOW;
    let y = exp2_parts(rounded, r * LOG2_E);
    if x < -87.33 { 0.0 } else { y }
}

/// `2 atanh(s) = 2 s + s · s² · P(s²)` for `s` up to 1/3: the odd series, fitted; highest power of P first.
pub const LN_1P: [f32; 4] = [0.268_515, 0.282_366_2, 0.400_075_6, 0.666_666_4];

/// `ln(1 + t)` for 0 <= t <= 1: `2 atanh(t / (2 + t))`.
#[inline(always)]
pub fn ln_1p(t: f32) -> f32 {
    let s = t / (2.0 + t);
    let z = s * s;
    let mut q = LN_1P[0];
    for c in &LN_1P[1..] {
        q = z * q + c;
    }
    (s + s) + s * (z * q)
}

/// `ln(1 + e^x)`, at most 2.5 ULP off for x >= -87.33; 0 below.
#[inline(always)]
pub fn softplus(x: f32) -> f32 {
    let magnitude = if x < 0.0 { -x } else { x };
    at_least(x, 0.0) + ln_1p(exp(-magnitude))
}

/// `x / (1 + e^-x)`, at most 2.1 ULP off for x >= -87.33; below, where that is almost 0, `x / 2.2e38`.
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// `1 / sqrt(x)`, at most 2.7 ULP off for normal x > 0: an estimate from the exponent's bits, three Newton steps.
#[inline(always)]
pub fn rsqrt(x: f32) -> f32 {
    let mut y = f32::from_bits(0x5f37_5a86_u32.wrapping_sub(x.to_bits() >> 1));
    let half = 0.5 * x;
    for _ in 0..3 {
        y *= 1.5 - (half * y) * y;
    }
    y
}

/// `1 / (1 + e^-x)`, at most 2.4 ULP off for |x| <= 87.33.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `x · Φ(x)` with the error function (Hendrycks & Gimpel 2016); off by at most 4e-7 of |x| or 2e-7.
///
/// `erfc(z) = t · exp(-z² + P(t))` for `z >= 0`, `t = 1 / (1 + z / 2)`, `P` of degree 9 fitted to 0.94 ULP.
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    let magnitude = if x < 0.0 { -x } else { x };
    let z = magnitude * core::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * z);
    let p = t * 0.142_181_5 + -0.665_614_5;
    let p = t * p + 1.120_250_9;
    let p = t * p + -0.646_610_6;
    let p = t * p + -0.122_402_98;
    let p = t * p + 0.024_314_61;
    let p = t * p + 0.026_498_143;
    let p = t * p + 0.388_400_64;
    let p = t * p + 0.998_419_3;
    let p = t * p + -1.265_437;
    let tail = 0.5 * t * exp(p - z * z);
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

/// GELU through tanh, `x / 2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`, which is `x` times a sigmoid.
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    const TWICE_SQRT_2_PI: f32 = 1.595_769;
    x * sigmoid(TWICE_SQRT_2_PI * (x + 0.044_715 * (x * x * x)))
}

/// Sine and cosine of an angle in turns, given as a fraction of 2^64: at most 1.6 ULP off where the value is not
/// small, absolutely within 1.2e-7. An angle in turns wraps around exactly, however long the text.
#[inline(always)]
pub fn sin_cos(turns: u64) -> (f32, f32) {
    // Nearest quarter turn, and what is left: -1/8..=1/8 of a turn.
    let quarter = turns.wrapping_add(1 << 61) >> 62;
    let rest = turns.wrapping_sub(quarter << 62).cast_signed();
    let r = (rest >> 32) as i32 as f32 * (1.0 / 4_294_967_296.0);
    let z = r * r;
    let s = z * 41.472_83 + -76.697_87;
    let s = z * s + 81.605_2;
    let s = z * s + -41.341_7;
    let s = z * s + core::f32::consts::TAU;
    let s = r * s;
    let c = z * 59.220_17 + -85.442_85;
    let c = z * c + 64.939_316;
    let c = z * c + -19.739_208;
    let c = z * c + 1.0;
    match quarter & 3 {
        0 => (s, c),
        1 => (c, -s),
        2 => (-s, -c),
        _ => (-c, s),
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    /// Largest error in ULP of the exact result over every float with a stride through `low..=high`.
    fn worst(low: f32, high: f32, got: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64) -> f64 {
        // Odd, so that all low bit patterns occur; about 2 million samples over the whole range of floats.
        const STRIDE: usize = 2003;
        let floats =
            (0..=u32::MAX).step_by(STRIDE).map(f32::from_bits).chain([low, high, 0.0, -0.0, 1.0, -1.0]);
        let mut worst = 0.0f64;
        for x in floats.filter(|x| (low..=high).contains(x)) {
            let want = exact(f64::from(x));
            let ulp = (f64::from((want as f32).abs().next_up()) - f64::from((want as f32).abs())).max(1e-45);
            let error = (f64::from(got(x)) - want).abs() / ulp;
            assert!(error < 1e6, "x = {x}: {} instead of {want}", got(x));
            worst = worst.max(error);
        }
        worst
    }

    #[test]
    fn errors_are_as_stated() {
        let of = |name: &str, bound: f64, error: f64| {
            std::println!("{name}: {error:.3} ULP, stated {bound}");
            assert!(error <= bound, "{name} is {error} ULP off, {bound} stated");
        };
        of("exp2", 1.1, worst(-126.0, 127.4, exp2, f64::exp2));
        of("exp", 1.4, worst(-87.33, 88.3, exp, f64::exp));
        of("softplus", 2.5, worst(-87.33, f32::MAX, softplus, |x| x.max(0.0) + (-x.abs()).exp().ln_1p()));
        of("silu", 2.1, worst(-87.33, f32::MAX, silu, |x| x / (1.0 + (-x).exp())));
        of("sigmoid", 2.4, worst(-87.33, 87.33, sigmoid, |x| 1.0 / (1.0 + (-x).exp())));
        of("rsqrt", 2.7, worst(f32::MIN_POSITIVE, f32::MAX, rsqrt, |x| 1.0 / x.sqrt()));
    }

    #[test]
    fn absolute_errors_are_as_stated() {
        let steps = || (-2000..=2000).map(|i| i as f32 * 0.005);
        for x in steps() {
            let exact = f64::from(x) * normal(f64::from(x));
            let error = (f64::from(gelu(x)) - exact).abs();
            assert!(error <= (4e-7 * f64::from(x).abs()).max(2e-7), "gelu({x}) = {}, not {exact}", gelu(x));
            let d = f64::from(x);
            let tanh = (0.797_884_560_802_865_4 * (d + 0.044_715 * d * d * d)).tanh();
            let error = (f64::from(gelu_tanh(x)) - 0.5 * d * (1.0 + tanh)).abs();
            assert!(error <= (4e-7 * d.abs()).max(2e-7), "gelu_tanh({x})");
        }
        let mut worst = 0.0f64;
        for i in 0..100_003u64 {
            let turns = i.wrapping_mul(u64::MAX / 100_003);
            let angle = turns as f64 / 2f64.powi(64) * std::f64::consts::TAU;
            let (s, c) = sin_cos(turns);
            worst = worst.max((f64::from(s) - angle.sin()).abs()).max((f64::from(c) - angle.cos()).abs());
        }
        std::println!("sin, cos: {worst:.2e}");
        assert!(worst <= 1.2e-7, "{worst}");
    }

    /// The normal distribution function, integrated by Simpson's rule.
    fn normal(x: f64) -> f64 {
        let density = |t: f64| (-0.5 * t * t).exp() / std::f64::consts::TAU.sqrt();
        let (low, n) = (-12.0, 4000);
        let h = (x - low) / f64::from(n);
        let inner: f64 =
            (1..n).map(|i| density(low + h * f64::from(i)) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
        (density(low) + inner + density(x)) * h / 3.0
    }

    #[test]
    fn ends_of_the_ranges() {
        assert_eq!(exp2(-126.1), 0.0);
        assert_eq!(exp(-88.0), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp2(0.0), 1.0);
        assert!(exp(f32::INFINITY).is_finite() && exp(1e30) == exp(88.3));
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(softplus(-1000.0), 0.0);
        assert_eq!(softplus(1000.0), 1000.0);
        assert!(silu(-1e30).abs() < 1.0e-7 && silu(-100.0).abs() < 5.0e-37);
        assert!(exp(f32::NAN).is_nan() && softplus(f32::NAN).is_nan() && silu(f32::NAN).is_nan());
    }
}

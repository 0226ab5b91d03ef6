// Elementary functions: sarit-core's `math.rs`, operation by operation. Plain operators are right here and in all
// other files: they are compiled without contraction (--fmad=false), with subnormals and IEEE division.
#pragma once
#ifdef SARIT_EMULATOR
#include "emulator.h"
#else
#include "device.cuh"
#endif

#define ROUND 12582912.0f  // 1.5 · 2^23: rounds a small float to an integer, which then stands in the low bits
#define NO_CODE (ROUND - 256.0f)  // less than ROUND plus any code, with the bits of code 0
#define LOG2_E 1.44269504088896340736f
#define MINUS_INFINITY __uint_as_float(0xff800000u)

__device__ INLINE float at_most(float x, float high) { return x > high ? high : x; }
__device__ INLINE float at_least(float x, float low) { return x < low ? low : x; }

// Floats in f16: what is too large for it becomes the largest number of f16.
__device__ INLINE float within_halves(float x) { return fmaxf(fminf(x, 65504.0f), -65504.0f); }
__device__ INLINE u32 to_halves(float low, float high) { return rounded_halves(within_halves(low), within_halves(high)); }
__device__ INLINE u16 to_half(float x) { return (u16)to_halves(x, 0.0f); }

// 2^(n + f), `rounded` being n + ROUND.
__device__ INLINE float exp2_parts(float rounded, float f) {
    float p = f * 0.00015453163f + 0.0013390863f;
    p = f * p + 0.009618083f;
    p = f * p + 0.05550357f;
    p = f * p + 0.2402265f;
    p = f * p + 0.693147180559945309417f;
    p = f * p + 1.0f;
    return p * __uint_as_float((__float_as_uint(rounded) << 23) + 0x3f800000u);
}

__device__ INLINE float exp2_core(float x) {
    float t = at_least(at_most(x, 127.4f), -126.0f);
    float rounded = t + ROUND;
    float y = exp2_parts(rounded, t - (rounded - ROUND));
    return x < -126.0f ? 0.0f : y;
}

__device__ INLINE float exp_core(float x) {
    float t = at_least(at_most(x, 88.3f), -87.33f);
    float rounded = t * LOG2_E + ROUND;
    float n = rounded - ROUND;
    float r = (t - n * 0.6933594f) - n * -2.1219444e-4f;
    float y = exp2_parts(rounded, r * LOG2_E);
    return x < -87.33f ? 0.0f : y;
}

// `s` is t / (2 + t), where t is exp(-|x|).
__device__ INLINE float softplus_of(float x, float s) {
    float z = s * s;
    float q = z * 0.268515f + 0.2823662f;
    q = z * q + 0.4000756f;
    q = z * q + 0.6666664f;
    return at_least(x, 0.0f) + ((s + s) + s * (z * q));
}

__device__ INLINE float softplus(float x) {
    float t = exp_core(x < 0.0f ? x : -x);
    return softplus_of(x, t / (2.0f + t));
}

__device__ INLINE float silu(float x) { return x / (1.0f + exp_core(-x)); }

// Not the contract's.
__device__ INLINE float silu_near(float x) { return x * inverse_near(1.0f + exp2_near(-x * LOG2_E)); }

__device__ INLINE float sigmoid(float x) { return 1.0f / (1.0f + exp_core(-x)); }

// 1 / sqrt(x)
__device__ INLINE float rsqrt_core(float x) {
    float y = __uint_as_float(0x5f375a86u - (__float_as_uint(x) >> 1));
    float half = 0.5f * x;
    for (int i = 0; i < 3; i++) y *= 1.5f - (half * y) * y;
    return y;
}

__device__ INLINE float gelu(float x) {
    float magnitude = x < 0.0f ? -x : x;
    float z = magnitude * 0.707106781186547524400f;
    float t = 1.0f / (1.0f + 0.5f * z);
    float p = t * 0.1421815f + -0.6656145f;
    p = t * p + 1.1202509f;
    p = t * p + -0.6466106f;
    p = t * p + -0.12240298f;
    p = t * p + 0.02431461f;
    p = t * p + 0.026498143f;
    p = t * p + 0.38840064f;
    p = t * p + 0.9984193f;
    p = t * p + -1.265437f;
    float tail = 0.5f * t * exp_core(p - z * z);
    return x * (x < 0.0f ? tail : 1.0f - tail);
}

__device__ INLINE float gelu_tanh(float x) { return x * sigmoid(1.595769f * (x + 0.044715f * (x * x * x))); }

__device__ INLINE float relu(float x) { return x > 0.0f ? x : 0.0f; }

// Sine and cosine of an angle in turns, given as a fraction of 2^64.
__device__ INLINE void sin_cos(u64 turns, float& sine, float& cosine) {
    u64 quarter = (turns + (1ull << 61)) >> 62;
    i64 rest = (i64)(turns - (quarter << 62));
    float r = (float)(int)(rest >> 32) * (1.0f / 4294967296.0f);
    float z = r * r;
    float s = z * 41.47283f + -76.69787f;
    s = z * s + 81.6052f;
    s = z * s + -41.3417f;
    s = z * s + 6.28318530717958647693f;
    s = r * s;
    float c = z * 59.22017f + -85.44285f;
    c = z * c + 64.939316f;
    c = z * c + -19.739208f;
    c = z * c + 1.0f;
    switch (quarter & 3) {
        case 0: sine = s, cosine = c; break;
        case 1: sine = c, cosine = -s; break;
        case 2: sine = -s, cosine = -c; break;
        default: sine = -c, cosine = s;
    }
}

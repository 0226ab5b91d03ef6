// What results of a token of each of several sequences go through where they are made.
#pragma once
#include "row.cuh"

// `step`, softplus of the raw time step, as dt within its bounds, and the decay.
__device__ INLINE void bound_step(const TimeStep& p, float step, float a_log2, float& dt, float& decay) {
    dt = step < p.min ? p.min : step;
    dt = dt > p.max ? p.max : dt;
    decay = p.per_element ? 0.0f : exp2_core(dt * a_log2);
}

// A raw time step as dt, and the decay where it is one per head; `bias` and `a_log2` are the head's, if it has them.
__device__ INLINE void time_step(const TimeStep& p, float raw, float bias, float a_log2, float& dt, float& decay) {
    if (p.sigmoid) {
        decay = sigmoid(-raw);
        dt = 1.0f;
        return;
    }
    bound_step(p, softplus(raw + bias), a_log2, dt, decay);
}

// What a thread loads for its results of one number, of up to `WIDE` rows that are 8 apart: for the convolution, or for a step of time.
template <u32 WIDE>
struct EarlyThrough {
    float weight[TAPS], window[WIDE][TAPS], bias, a_log2;

    // Of result `i` of `rows` rows from `first` on.
    __device__ void ask(Run run, const Through& p, u32 first, u32 rows, u32 i) {
        const Conv& c = p.conv;
        u32 channel = i - p.first, head = channel - c.channels;
        *this = {};
        if (i >= p.first && channel < c.channels) {
#pragma unroll
            for (u32 j = 0; j < TAPS; j++)
                if (j < c.width) weight[j] = load_float(run.weights(c.weight) + (u64)j * c.channels + channel);
#pragma unroll
            for (u32 k = 0; k < WIDE; k++)
#pragma unroll
                for (u32 j = 0; j + 1 < TAPS; j++)
                    if (j + 1 < c.width && first + 8 * k < rows)
                        window[k][j] = load_float(run.state(first + 8 * k, c.window) + (u64)j * c.channels + channel);
            bias = c.bias == NONE ? 0.0f : load_float(run.weights(c.bias) + channel);
        } else if (i >= p.first && head < p.heads && !p.time.sigmoid) {
            bias = load_float(run.weights(p.time.bias) + head);
            a_log2 = load_float(run.weights(p.time.a_log2) + head);
        }
    }
    // Result `i` of row `row`, the `k`-th of those: what it has become where codes are made of it.
    __device__ float finish(Run run, const Through& p, const Target& to, u32 row, u32 k, u32 i, float v) const {
        const Conv& c = p.conv;
        u32 channel = i - p.first, head = channel - c.channels;
        v = biased(run, to, row, i, v);
        if (i >= p.first && channel < c.channels) {
            Taps taps;
#pragma unroll
            for (u32 j = 0; j < TAPS; j++) taps.weight[j] = weight[j], taps.window[j] = window[k][j];
            taps.bias = bias;
            float y = apply_taps(c, taps, v);
            run.at(p.y, row)[channel] = y;
            shift_channel(c, run.state(row, c.window) + channel, taps.window, v);
            return y;
        }
        if (i >= p.first && head < p.heads) time_step(p.time, v, bias, a_log2, run.at(p.dt, row)[head], run.at(p.decay, row)[head]);
        else run.at(to.y, row)[i] = v;
        return v;
    }
};

// State-space blocks: convolution, time steps, and what all scans use.
#pragma once
#include "product.cuh"

#define CONV_TOKENS 8   // of a sequence that a thread convolves together
#define CONV_STREAMS 2  // that have a token each, of which it convolves these together

// Rows in f16, two channels by a thread, and floats of the last tokens, which are held.
__device__ OUTLINED void convolve_halves(Run run, u32 passed, const Convolve& p) {
    const Conv& c = p.conv;
    u32 count = run.p().count, pairs = c.channels / 2, parts = div_up(count, CONV_TOKENS);
    auto pair_at = [](const float* x) { return Pair{load_float(x), load_float(x + 1)}; };
    auto halves_at = [](const u16* x) {
        u32 both = *(const u32*)x;
        return Pair{half_to_float((u16)both), half_to_float((u16)(both >> 16))};
    };
    // Rows are numbered in 32 bits, and there are fewer pairs of them.
    u32 all = run.p().sequence_count * parts * pairs;
    for (u32 n = (u32)grid_thread(run, passed); n < all; n += (u32)grid_threads()) {
        u32 i = n % pairs * 2, part = n / pairs, sequence = part / parts, first = part % parts * CONV_TOKENS;
        Pair weight[TAPS] = {}, bias = {};
        const float* weights = run.weights(c.weight) + i;
#pragma unroll
        for (u32 j = 0; j < TAPS; j++)
            if (j < c.width) weight[j] = pair_at(weights + j * c.channels);
        if (c.bias != NONE) bias = pair_at(run.weights(c.bias) + i);
        // Of those before the tokens, which the window has if these are the first, and of the tokens; where there is none, the last one.
        Pair x[CONV_TOKENS + TAPS - 1];
#pragma unroll
        for (u32 k = 0; k < CONV_TOKENS + TAPS - 1; k++) {
            if (k >= CONV_TOKENS + c.width - 1) break;
            u32 after = first + k, t = after < c.width - 1 ? 0 : after - (c.width - 1);
            x[k] = halves_at(run.half_row(c.x, (u64)sequence * count + (t < count ? t : count - 1)) + i);
            if (after < c.width - 1) x[k] = pair_at(run.state(sequence, c.window) + after * c.channels + i);
        }
#pragma unroll
        for (u32 k = 0; k < CONV_TOKENS; k++) {
            if (first + k >= count) break;
            Pair y = bias;
#pragma unroll
            for (u32 j = 0; j < TAPS; j++)
                if (j < c.width) y.x += weight[j].x * x[k + j].x, y.y += weight[j].y * x[k + j].y;
            if (c.silu) y.x = silu_near(y.x), y.y = silu_near(y.y);
            u64 row = (u64)sequence * count + first + k;
            *(u32*)((u16*)run.at(p.halves, row) + i) = to_halves(y.x, y.y);
            if (first + k + HELD >= count) run.at(p.y, row)[i] = y.x, run.at(p.y, row)[i + 1] = y.y;
        }
    }
}

// A token of each sequence, and the windows after it.
__device__ INLINE void convolve_steps(Run run, u32 passed, const Convolve& p) {
    const Conv& c = p.conv;
    // Scratch has room for a float of each channel of all rows, so they are numbered in 32 bits.
    u32 count = run.p().sequence_count, all = div_up(count, CONV_STREAMS) * c.channels;
    for (u32 n = (u32)grid_thread(run, passed); n < all; n += (u32)grid_threads()) {
        u32 i = n % c.channels, first = n / c.channels * CONV_STREAMS;
        Taps taps[CONV_STREAMS];
        float x[CONV_STREAMS];
#pragma unroll
        for (u32 k = 0; k < CONV_STREAMS; k++) {
            // Where there is none, the last one again, as in `op_convolve`.
            u32 sequence = first + k < count ? first + k : count - 1;
            load_taps(run, c, sequence, i, 0, taps[k]);
            x[k] = conv_input(run, c, sequence, 0, 0, i);
        }
#pragma unroll
        for (u32 k = 0; k < CONV_STREAMS; k++) {
            if (first + k >= count) break;
            run.at(p.y, first + k)[i] = apply_taps(c, taps[k], x[k]);
            shift_channel(c, run.state(first + k, c.window) + i, taps[k].window, x[k]);
        }
    }
}

__device__ OUTLINED void op_convolve(Run run, u32 passed, const Convolve& p) {
    const Conv& c = p.conv;
    if (p.halves.start != NONE) return convolve_halves(run, passed, p);
    if (p.shifts) return convolve_steps(run, passed, p);
    u32 count = run.p().count, parts = div_up(count, CONV_TOKENS);
    if (c.width > TAPS) {
        u64 all = (u64)run.shared().rows * c.channels;
        for (u64 n = grid_thread(run, passed); n < all; n += grid_threads()) {
            u32 row = n / c.channels, i = n % c.channels;
            run.at(p.y, row)[i] = convolved(run, c, row, i);
        }
        return;
    }
    u64 all = (u64)run.p().sequence_count * parts * c.channels;
    for (u64 n = grid_thread(run, passed); n < all; n += grid_threads()) {
        u32 i = n % c.channels, sequence = n / c.channels / parts, first = n / c.channels % parts * CONV_TOKENS;
        Taps taps;
        load_taps(run, c, sequence, i, 0, taps);
        // Of those before the tokens, which the window has if these are the first, and of the tokens.
        float x[CONV_TOKENS + TAPS - 1];
#pragma unroll
        for (u32 k = 0; k < CONV_TOKENS + TAPS - 1; k++) {
            u32 after = first + k, t = after > c.width - 1 ? after - (c.width - 1) : 0;
            // Where there is none, the last one again: a load that depends on nothing waits for no other.
            x[k] = conv_input(run, c, sequence, t < count ? t : count - 1, 0, i);
            if (after + 1 < c.width) x[k] = taps.window[k];
        }
#pragma unroll
        for (u32 k = 0; k < CONV_TOKENS; k++) {
            if (first + k >= count) break;
#pragma unroll
            for (u32 j = 0; j < TAPS - 1; j++) taps.window[j] = j + 1 < c.width ? x[k + j] : 0.0f;
            run.at(p.y, (u64)sequence * count + first + k)[i] = apply_taps(c, taps, x[k + c.width - 1]);
        }
    }
}

// The last inputs of the convolution become its window.
template <bool MANY>
__device__ OUTLINED void op_window(Run run, u32 passed, const Convolve& p) {
    if constexpr (!MANY) return shift_window(run, p.conv, grid_thread(run, passed), grid_threads());
    u64 all = (u64)run.p().sequence_count * p.conv.channels;
    for (u64 n = grid_thread(run, passed); n < all; n += grid_threads()) {
        u32 sequence = n / p.conv.channels, i = n % p.conv.channels, before = p.conv.width - 1;
        float* window = run.state(sequence, p.conv.window) + i;
        // Row j is not read again once it is written: later rows come from rows further on.
        for (u32 j = 0; j < before; j++)
            window[(u64)j * p.conv.channels] =
                conv_input(run, p.conv, sequence, run.p().count - 1, before - 1 - j, i, p.halves.start != NONE);
    }
}

__device__ OUTLINED void op_times(Run run, u32 passed, const Times& p) {
    u64 all = (u64)run.shared().rows * p.heads;
    for (u64 n = grid_thread(run, passed); n < all; n += grid_threads()) {
        u32 row = n / p.heads, head = n % p.heads;
        float bias = p.time.sigmoid ? 0.0f : run.weights(p.time.bias)[head];
        float a_log2 = p.time.sigmoid || p.time.per_element ? 0.0f : run.weights(p.time.a_log2)[head];
        float raw = p.halves ? half_to_float(run.half_row(p.raw, row)[head]) : run.at(p.raw, row)[head];
        time_step(p.time, raw, bias, a_log2, run.at(p.dt, row)[head], run.at(p.decay, row)[head]);
    }
}

// Normed `[dt | B | C]` of Mamba-1 in shared memory, and the codes of dt; the thread's first element has come. All threads of
// the block.
__device__ INLINE void scan_select(Run run, const Scan& p, float first) {
    u32 bc = p.n_groups * p.d_state, starts[3] = {0, p.rank, p.rank + bc}, lens[3] = {p.rank, bc, bc};
    const Norm* norms[3] = {&p.dt_norm, &p.b_norm, &p.c_norm};
    float* row = run.shared().row;
    for (u32 i = run.thread; i < p.rank + 2 * bc; i += THREADS) row[i] = i == run.thread ? first : value_at(run, p.select, 0, i);
    sync_block();
#pragma unroll
    for (u32 part = 0; part < 3; part++) {
        float* x = row + starts[part];
        const Norm& norm = *norms[part];
        if (norm.kind == IDENTITY) continue;
        norm_sums(run, norm, x, lens[part]);
        for (u32 i = run.thread; i < lens[part]; i += THREADS)
            x[i] = normed(run, norm, run.shared().sums, x[i], lens[part], i, norm_weight(run, norm, i, 0));
        sync_block();
    }
    if (is_quantized(p.dt_proj)) {
        quantize(run, p.rank, shared_codes(run), [&](u32 i) { return row[i]; });
        sync_block();
    }
}

// What a thread has of some groups of one row of quantized weights, one for each lane of the sum over groups: two threads have half the
// words of a group each.
struct EarlyRow {
    u32 words[4], scale;
};

__device__ INLINE void ask_row(Run run, const Matrix& w, u32 row, u32 first_group, EarlyRow& early) {
    early = {};
    u32 g = first_group + run.half_lane() / 2, count = w.dtype == Q8 ? 4 : 2;
    if (!is_quantized(w) || g >= div_up(w.cols, GROUP)) return;
    const u16* scales;
    const u8* codes;
    tile_row_at(run.p().model, w, row / 16, scales, codes);
    codes = settled(codes + (u64)g * tile_bytes(w) + row % 16 * 4 + run.half_lane() % 2 * count * 64);
#pragma unroll
    for (u32 j = 0; j < 4; j++)
        if (j < count) early.words[j] = load_codes(codes + j * 64);
    early.scale = load_half(scales + g * 16 + row % 16);
}

// One row of `w · in` by a half-warp; all its threads get it. Every thread of the warp takes part, with a row each half, whose first
// groups have been asked for.
__device__ INLINE float row_product(Run run, const Matrix& w, const Input& in, u32 row, EarlyRow early) {
    float sum = 0.0f;
    if (!is_quantized(w)) {
        const u8* weights = run.p().model + (u64)w.data * 64;
        u64 start = (u64)row * w.cols;
        for (u32 i = run.half_lane(); i < w.cols; i += 16) {
            float weight = w.dtype == F32 ? ((const float*)weights)[start + i]
                                          : half_to_float(((const u16*)weights)[start + i]);
            sum += weight * in.floats[i];
        }
        return fold16(sum);
    }
    u32 groups = div_up(w.cols, GROUP), k = run.half_lane() / 2, part = run.half_lane() % 2;
    for (u32 base = 0; base < groups; base += GROUP_LANES) {
        bool has = base + k < groups;
        u32 g = has ? base + k : 0;
        int dot = words_dot(w.dtype, early.words, in.codes.of_group(g) + part * 4);
        dot += __shfl_xor_sync(FULL, dot, 1);
        if (w.dtype == Q4) dot -= 8 * in.codes.sums[(u64)g * in.codes.stride];
        float scale = half_to_float((u16)early.scale) * in.codes.scales[(u64)g * in.codes.stride];
        if (has) sum += (float)dot * scale;
        if (base + GROUP_LANES < groups) ask_row(run, w, row, base + GROUP_LANES, early);
    }
    // The lanes as `fold8` adds them.
    for (int half = 8; half > 1; half /= 2) sum += __shfl_xor_sync(FULL, sum, half);
    return sum;
}

// Element `e` of a thread's part of a row of `d_state` elements.
__device__ INLINE u32 element(Run run, u32 e) { return run.half_lane() + 16 * e; }

#define ELEMENTS_MOST 16

// `each(e, i)` for a thread's elements `i` of a row of `n`.
template <int ELEMENTS = ELEMENTS_MOST, class Each>
__device__ INLINE void for_elements(Run run, u32 n, Each each) {
#pragma unroll
    for (int e = 0; e < ELEMENTS; e++) {
        // At 1, 2, 4 and 8: shorter rows take fewer instructions.
        if ((e & (e - 1)) == 0 && n <= 16u * e) break;
        if (element(run, e) < n) each(e, element(run, e));
    }
}

// So many elements for each thread of a half-warp.
template <int ELEMENTS>
struct PerThread {
    static constexpr int COUNT = ELEMENTS;
};

// `each(PerThread)` for the fewest that states of `n` elements take.
template <class Each>
__device__ INLINE void for_states(u32 n, Each each) {
    if (n <= 16) each(PerThread<1>{});
    else if (n <= 64) each(PerThread<4>{});
    else if (n <= 128) each(PerThread<8>{});
    else each(PerThread<16>{});
}

// Channels that a block scans at once, all of one group.
struct Unit {
    u32 group, first, end;

    // Channel `i` of the unit; the last one where it has no more.
    __device__ u32 channel(u32 i) const { return i < end - first ? first + i : end - 1; }
};

__device__ INLINE u32 group_channels(const Scan& p) { return p.heads * p.head_dim / p.n_groups; }

// Number of units of up to `most` channels, and one of them.
__device__ INLINE u32 unit_count(const Scan& p, u32 most) { return div_up(group_channels(p), most) * p.n_groups; }

__device__ INLINE Unit unit_of(const Scan& p, u32 most, u32 index) {
    u32 channels = group_channels(p), units = div_up(channels, most), group = index / units;
    u32 first = group * channels + index % units * most, end = (group + 1) * channels;
    // Without a comparison where all units have as many.
    return {group, first, channels % most == 0 || first + most < end ? first + most : end};
}

// The held token in row `place` of the state: `[dt · x | B | decay]`.
struct HeldToken {
    float *u, *b, *decay;
};

template <class Of>
__device__ INLINE HeldToken held_token(Run run, const Scan& p, Of sequence, u32 place) {
    u32 channels = p.heads * p.head_dim, bc = p.n_groups * p.d_state;
    float* token = run.state(sequence, p.held) + (u64)place * (channels + bc + p.heads);
    return {token, token + channels, token + channels + bc};
}

// Channels that a block scans at once, `most` at most: as few as make use of all blocks.
__device__ INLINE u32 channels_at_once(const Scan& p, u32 sequences, u32 most) {
    u32 groups = p.n_groups * sequences, of_group = blocks() > groups ? blocks() / groups : 1;
    u32 few = div_up(group_channels(p), of_group);
    return few < most ? few : most;
}

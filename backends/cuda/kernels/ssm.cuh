// State-space blocks: convolution, time steps, selective scan.
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

// Whether the window takes a token in as soon as it is convolved: of sequences that have one each.
__device__ INLINE bool shifts_at_once(Run run, const Convolve& p) {
    return run.p().count == 1 && p.conv.width <= TAPS && p.halves.start == NONE;
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
    if (shifts_at_once(run, p)) return convolve_steps(run, passed, p);
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

// The last inputs of the convolution become its window, if they have not yet.
template <bool MANY>
__device__ OUTLINED void op_window(Run run, u32 passed, const Convolve& p) {
    if (shifts_at_once(run, p)) return;
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

// `step`, softplus of the raw time step, as dt within its bounds, and the decay.
__device__ INLINE void bound_step(const TimeStep& p, float step, float a_log2, float& dt, float& decay) {
    dt = step < p.min ? p.min : step;
    dt = dt > p.max ? p.max : dt;
    decay = p.per_element ? 0.0f : exp2_core(dt * a_log2);
}

// silu(x), silu(z) and softplus(raw) for a half-warp: a quarter of its threads makes the exponential and the quotient of each, which
// all get.
__device__ INLINE void activate_together(Run run, float& x, float& z, float& raw) {
    u32 part = run.half_lane() % 4, first = run.lane() & 16;
    float v = part == 0 ? x : part == 1 ? z : raw;
    bool is_step = part >= 2;
    float t = exp_core(is_step && v < 0.0f ? v : -v);
    float quotient = (is_step ? t : v) / ((is_step ? 2.0f : 1.0f) + t);
    x = __shfl_sync(FULL, quotient, first);
    z = __shfl_sync(FULL, quotient, first + 1);
    raw = softplus_of(raw, __shfl_sync(FULL, quotient, first + 2));
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

// Normed `[dt | B | C]` of Mamba-1 in shared memory, and the codes of dt; the thread's first element has been asked for. All threads of
// the block.
__device__ INLINE void scan_select(Run run, const Scan& p, Posted first) {
    u32 bc = p.n_groups * p.d_state, starts[3] = {0, p.rank, p.rank + bc}, lens[3] = {p.rank, bc, bc};
    const Norm* norms[3] = {&p.dt_norm, &p.b_norm, &p.c_norm};
    float* row = run.shared().row;
    for (u32 i = run.thread; i < p.rank + 2 * bc; i += THREADS) row[i] = i == run.thread ? come(run, p.select, i, 0, first) : value_at(run, p.select, 0, i);
    __syncthreads();
#pragma unroll
    for (u32 part = 0; part < 3; part++) {
        float* x = row + starts[part];
        const Norm& norm = *norms[part];
        if (norm.kind == IDENTITY) continue;
        norm_sums(run, norm, x, lens[part]);
        for (u32 i = run.thread; i < lens[part]; i += THREADS)
            x[i] = normed(run, norm, run.shared().sums, x[i], lens[part], i, norm_weight(run, norm, i, 0));
        __syncthreads();
    }
    if (is_quantized(p.dt_proj)) {
        quantize(run, p.rank, shared_codes(run), [&](u32 i) { return row[i]; });
        __syncthreads();
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
        const u32* x = in.codes.codes + g * 8 + part * 4;
        int dot = 0;
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            if (w.dtype == Q8) {
                dot = __dp4a((int)early.words[j], (int)x[j], dot);
            } else if (j < 2) {
                dot = __dp4a((int)(early.words[j] & 0x0f0f0f0fu), (int)x[2 * j], dot);
                dot = __dp4a((int)(early.words[j] >> 4 & 0x0f0f0f0fu), (int)x[2 * j + 1], dot);
            }
        }
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

// Channels that a block scans at once, all of one group.
struct Unit {
    u32 group, first, end;

    // Channel `i` of the unit; the last one where it has no more.
    __device__ u32 channel(u32 i) const { return first + i < end ? first + i : end - 1; }
};

__device__ INLINE u32 group_channels(const Scan& p) { return p.heads * p.head_dim / p.n_groups; }

// Number of units of up to `most` channels, and one of them.
__device__ INLINE u32 unit_count(const Scan& p, u32 most) { return div_up(group_channels(p), most) * p.n_groups; }

__device__ INLINE Unit unit_of(const Scan& p, u32 most, u32 index) {
    u32 channels = group_channels(p), units = div_up(channels, most), group = index / units;
    u32 first = group * channels + index % units * most, end = (group + 1) * channels;
    return {group, first, first + most < end ? first + most : end};
}

// The held token in row `place` of the state: `[dt · x | B | decay]`.
struct HeldToken {
    float *u, *b, *decay;
};

__device__ INLINE HeldToken held_token(Run run, const Scan& p, u32 sequence, u32 place) {
    u32 channels = p.heads * p.head_dim, bc = p.n_groups * p.d_state;
    float* token = run.state(sequence, p.held) + (u64)place * (channels + bc + p.heads);
    return {token, token + channels, token + channels + bc};
}

#define SCAN_CHANNELS 16  // of a unit, and of a block of tokens; half-warps that have a channel each

// Tokens of a block of `HELD`, each in its place, with what the unit's channels need of them.
struct Tokens {
    float u[HELD][SCAN_CHANNELS], keep[HELD][SCAN_CHANNELS];  // dt · x, and the decay
    // `sum_n C · h` of the channels, then with a decay per head `sum_n C · B` of the tokens.
    float sums[HELD][SCAN_CHANNELS + HELD];
    // What is left of the tokens' u and of the state after the last token of a block.
    float left_u[HELD][SCAN_CHANNELS], left[SCAN_CHANNELS];
};

__device__ INLINE Tokens& tokens_of(Run run) {
    static_assert(sizeof(Tokens) == TOKENS * sizeof(float), "no room for tokens");
    return *(Tokens*)run.shared().tokens;
}

// The state of a channel takes in a whole block; `b(j, own_b)` loads the thread's elements of B of token `j`.
template <int ELEMENTS, class B>
__device__ INLINE void take_in(Run run, const Tokens& tokens, u32 channel, u32 n, float (&h)[ELEMENTS], B b) {
    float left = tokens.left[channel];
    for_elements<ELEMENTS>(run, n, [&](int e, u32) { h[e] *= left; });
#pragma unroll 2
    for (u32 j = 0; j < HELD; j++) {
        float u = tokens.left_u[j][channel], own_b[ELEMENTS];
        b(j, own_b);
        for_elements<ELEMENTS>(run, n, [&](int e, u32) { h[e] += u * own_b[e]; });
    }
}

#define EARLY_DECAYS 4  // of a thread's elements

// What a thread has asked for before the barrier: a row of the state or of the held tokens, the convolutions, and weights of its dt.
// Zeros as in `EarlyProduct`.
struct EarlyScan {
    float row[16], decay[EARLY_DECAYS], u, keep;
    Taps x, bc;
    EarlyRow step;
    float bias, a_log2, d;
};

// Channels that a block scans at once, `most` at most: as few as make use of all blocks.
__device__ INLINE u32 channels_at_once(const Scan& p, u32 sequences, u32 most) {
    u32 groups = p.n_groups * sequences, of_group = blocks() > groups ? blocks() / groups : 1;
    u32 few = div_up(group_channels(p), of_group);
    return few < most ? few : most;
}

// Those of one row: not fewer than half the half-warps have, so that fewer blocks ask for the same numbers. With a decay per head
// the other half-warps have a held token each.
__device__ INLINE u32 scan_channels(const Scan& p) {
    u32 few = channels_at_once(p, 1, p.time.per_element ? HALVES : SCAN_CHANNELS);
    return few < SCAN_CHANNELS ? SCAN_CHANNELS : few;
}

// Asks for what a unit of the scan of one row needs and no operation before it makes. What is held in the place of the
// row itself, and in those behind it, comes too and is not used.
__device__ INLINE void ask_unit(Run run, const Scan& p, const Unit& unit, EarlyScan& early) {
    u32 n = p.d_state, channel = unit.channel(run.half_warp()), head = channel / p.head_dim;
    const float* row = run.state(0, p.state) + (u64)channel * n;
    bool has_token = !p.time.per_element && run.half_warp() >= SCAN_CHANNELS;
    if (!p.time.per_element) {
        HeldToken token = held_token(run, p, 0, run.half_warp() % HELD);
        if (has_token) {
            row = token.b + unit.group * n;
        } else {
            u32 own = unit.channel(run.half_lane());
            early.u = load_float(token.u + own);
            early.keep = load_float(token.decay + own / p.head_dim);
        }
    }
    bool has_channel = !has_token && unit.first + run.half_warp() < unit.end;
    if (!has_channel && !has_token) return;
    const float* a_log2 = run.weights(p.time.a_log2) + (u64)head * n;
    row = settled(row + run.half_lane()), a_log2 = settled(a_log2 + run.half_lane());
    for_elements(run, n, [&](int e, u32) {
        early.row[e] = load_float(row + 16 * e);
        if (e < EARLY_DECAYS && p.time.per_element) early.decay[e] = load_float(a_log2 + 16 * e);
    });
    if (!has_channel) return;
    if (p.dt_proj.data != NONE) ask_row(run, p.dt_proj, head, 0, early.step);
    if (p.conv.width <= TAPS) load_taps(run, p.conv, 0, channel, 0, early.x);
    if (!p.time.sigmoid) {
        early.bias = load_float(run.weights(p.time.bias) + head);
        if (!p.time.per_element) early.a_log2 = load_float(run.weights(p.time.a_log2) + head);
    }
    early.d = load_float(run.weights(p.d) + channel);
}

// A thread's number among those that convolve B and C: first come those of the half-warps that have no channel.
__device__ INLINE u32 mixer(Run run) { return (run.thread + THREADS / 2) % THREADS; }

// Whether a thread convolves an element of B or C whose taps come early.
__device__ INLINE bool mixes(Run run, const Scan& p) {
    return p.dt_proj.data == NONE && p.conv.width <= TAPS && mixer(run) < 2 * p.n_groups * p.d_state;
}

// What the operations before have made for a unit: a thread's x, z and raw dt, of the first unit its element of B or C too, or of the
// row that these come from.
struct ScanInput {
    Posted x, z, dt, mixed;
};

// Whether a warp has channels of a unit.
__device__ INLINE bool scans(Run run, const Scan& p) { return run.warp() * 2 < scan_channels(p); }

__device__ INLINE ScanInput ask_input(Run run, const Scan& p, const Unit& unit, bool is_first) {
    u32 channel = unit.channel(run.half_warp()), bc = p.n_groups * p.d_state;
    bool has_select = p.dt_proj.data != NONE;
    ScanInput input = {};
    if (scans(run, p)) {
        input.x = ask(run, p.conv.x, channel);
        if (p.z.start != NONE) input.z = ask(run, p.z, channel);
        if (!has_select) input.dt = ask(run, p.dt, channel / p.head_dim);
    }
    if (is_first && has_select && run.thread < p.rank + 2 * bc) input.mixed = ask(run, p.select, run.thread);
    if (is_first && mixes(run, p)) input.mixed = ask(run, p.conv.x, p.heads * p.head_dim + mixer(run));
    return input;
}

__device__ INLINE void ask_scan(Run run, u32 passed, const Scan& p, EarlyScan& early) {
    ask_unit(run, p, unit_of(p, scan_channels(p), first_unit(passed)), early);
    if (mixes(run, p)) load_taps(run, p.conv, 0, mixer(run), p.heads * p.head_dim, early.bc);
}

// The scan of one row: what is read between two barriers is asked for first. With a decay per head a half-warp makes
// `C · h` of a channel or `C · B` of a token, and the row becomes a held token: its place is read by nobody meanwhile.
__device__ INLINE void scan_one(Run run, u32 passed, const Scan& p, EarlyScan& early, ScanInput input) {
    u32 channels = p.heads * p.head_dim, most = scan_channels(p), units = unit_count(p, most), n = p.d_state;
    u32 bc = p.n_groups * n, place = run.position(0) % HELD;
    bool has_select = p.dt_proj.data != NONE, few_taps = p.conv.width <= TAPS, by_head = !p.time.per_element;
    Tokens& tokens = tokens_of(run);
    // With the last of `HELD` tokens a unit's rows are needed to its end; else the next unit's are asked for before.
    bool takes_in = by_head && place == HELD - 1;
    for (u32 round = 0; round < div_up(units, blocks()); round++) {
        u32 index = first_unit(passed) + round * blocks();
        if (index >= units) break;
        bool is_first = round == 0, has_token = by_head && run.half_warp() >= SCAN_CHANNELS;
        Unit unit = unit_of(p, most, index);
        if (!is_first) {
            if (takes_in) input = ask_input(run, p, unit, false), ask_unit(run, p, unit, early);
            // The tokens of the unit before have been read.
            __syncthreads();
        }
        u32 channel = unit.channel(run.half_warp()), head = channel / p.head_dim;
        bool has_channel = !has_token && unit.first + run.half_warp() < unit.end;
        bool has_bc = is_first && mixes(run, p), has_z = p.z.start != NONE;
        float x = 0.0f, z = 0.0f, dt = 0.0f, decay = 0.0f, bc_raw = 0.0f;
        if (scans(run, p)) {
            x = come(run, p.conv.x, channel, 0, input.x);
            if (has_z) z = come(run, p.z, channel, 0, input.z);
            if (!has_select) dt = come(run, p.dt, head, 0, input.dt);
        }
        if (has_bc) bc_raw = come(run, p.conv.x, channels + mixer(run), 0, input.mixed);
        if (is_first && has_select) scan_select(run, p, input.mixed);
        // Warps without a channel have nothing to do with dt and x.
        if (scans(run, p)) {
            if (has_select) dt = row_product(run, p.dt_proj, {shared_codes(run), run.shared().row}, head, early.step);
            if (few_taps && p.conv.silu && has_z && !p.time.sigmoid) {
                x = tap_sum(p.conv, early.x, x), dt += early.bias;
                activate_together(run, x, z, dt);
                bound_step(p.time, dt, early.a_log2, dt, decay);
            } else {
                x = few_taps ? apply_taps(p.conv, early.x, x) : convolved(run, p.conv, 0, channel);
                time_step(p.time, dt, early.bias, early.a_log2, dt, decay);
                if (has_z) z = silu(z);
            }
        }
        float u = dt * x;
        if (by_head && !has_token) {
            if (run.half_warp() != place) {
                tokens.u[run.half_warp()][run.half_lane()] = early.u;
                tokens.keep[run.half_warp()][run.half_lane()] = early.keep;
            }
            if (run.half_lane() == 0) tokens.u[place][run.half_warp()] = u, tokens.keep[place][run.half_warp()] = decay;
        }
        if (has_bc) run.shared().row[mixer(run)] = apply_taps(p.conv, early.bc, bc_raw);
        if (is_first && !has_select)
            for (u32 i = mixer(run) + (few_taps ? THREADS : 0); i < 2 * bc; i += THREADS)
                run.shared().row[i] = convolved(run, p.conv, 0, channels + i);
        if (by_head || (is_first && !has_select)) __syncthreads();
        const float* b = run.shared().row + (has_select ? p.rank : 0) + unit.group * n;
        const float* c = b + bc;
        float sum = 0.0f;
        auto state = [&] { return run.state(0, p.state) + (u64)channel * n; };
        bool is_new = has_token && run.half_warp() - SCAN_CHANNELS == place;
        // B of all tokens, for the state that takes them in.
        float* held_b = run.shared().row + (has_select ? p.rank : 0) + 2 * bc;
        if (is_new) for_elements(run, n, [&](int e, u32 i) { early.row[e] = b[i]; });
        if (takes_in && has_token)
            for_elements(run, n, [&](int e, u32 i) { held_b[(run.half_warp() - SCAN_CHANNELS) * n + i] = early.row[e]; });
        for_elements(run, n, [&](int e, u32 i) {
            float& h = early.row[e];
            if (!by_head) {
                float a = e < EARLY_DECAYS ? early.decay[e] : run.weights(p.time.a_log2)[(u64)head * n + i];
                h = exp2_core(dt * a) * h + u * b[i];
                if (has_channel) state()[i] = h;
            }
            sum += c[i] * h;
        });
        sum = fold16(sum);
        float d = early.d;
        if (!takes_in && round + 1 < div_up(units, blocks()) && index + blocks() < units) {
            Unit next = unit_of(p, most, index + blocks());
            input = ask_input(run, p, next, false), ask_unit(run, p, next, early);
        }
        if (by_head) {
            // What is left, after this row, of the state and of the token whose number is the lane's; as `read_held` has it.
            float left = 1.0f, own_left = 0.0f, own_u = 0.0f;
            if (has_token) {
                if (run.half_lane() == 0) tokens.sums[place][run.half_warp()] = sum;
            } else {
                own_u = tokens.u[run.half_lane()][run.half_warp()];
                float keep[HELD];
#pragma unroll
                for (u32 j = 0; j < HELD; j++) keep[j] = tokens.keep[j][run.half_warp()];
#pragma unroll
                for (int j = HELD - 1; j >= 0; j--) {
                    if (j == (int)run.half_lane()) own_left = left;
                    if (j <= (int)place) left *= keep[j];
                }
            }
            __syncthreads();
            if (!has_token) {
                float part = own_left * tokens.sums[place][SCAN_CHANNELS + run.half_lane()] * own_u;
                sum = left * sum;
#pragma unroll
                for (u32 j = 0; j < HELD; j++) {
                    float other = __shfl_sync(FULL, part, (run.lane() & 16) + j);
                    if (j <= place) sum += other;
                }
                if (takes_in) {
                    if (run.half_lane() == 0) tokens.left[run.half_warp()] = left;
                    tokens.left_u[run.half_lane()][run.half_warp()] = own_left * own_u;
                }
            }
        }
        if (has_channel && run.half_lane() == 0) {
            float y = sum + d * x;
            if (has_z) y *= z;
            put(run, p.y, 0, channel, y);
        }
        if (by_head) {
            if (has_channel && run.half_lane() == 0) {
                HeldToken own = held_token(run, p, 0, place);
                own.u[channel] = u;
                if (channel % p.head_dim == 0) own.decay[head] = decay;
            }
            if (unit.first % group_channels(p) == 0)
                for (u32 i = run.thread; i < n; i += THREADS) held_token(run, p, 0, place).b[unit.group * n + i] = b[i];
            if (takes_in) {
                __syncthreads();
                if (has_channel) {
                    take_in(run, tokens, run.half_warp(), n, early.row, [&](u32 j, float(&own_b)[ELEMENTS_MOST]) {
                        for_elements(run, n, [&](int e, u32 i) { own_b[e] = held_b[j * n + i]; });
                    });
                    for_elements(run, n, [&](int e, u32 i) { state()[i] = early.row[e]; });
                }
            }
        }
    }
}

// Inputs of products: gathered, normed, and as codes.
#pragma once
#include "block.cuh"

// What the convolution sees of channel `i`, `back` tokens before token `t` of the sequence.
__device__ INLINE float conv_input(Run run, const Conv& c, u32 sequence, u32 t, u32 back, u32 i, bool halves = false) {
    if (back > t) return run.state(sequence, c.window)[(u64)(c.width - 1 + t - back) * c.channels + i];
    u64 row = (u64)sequence * run.p().count + t - back;
    if (halves) return half_to_float(run.half_row(c.x, row)[i]);
    float x = value_at(run, c.x, row, i);
    return c.factor.start == NONE ? x : run.at(c.factor, row)[i] * x;
}

#define TAPS 4  // of a convolution that are loaded together

// Weights, window and bias of one channel's convolution.
struct Taps {
    float weight[TAPS], window[TAPS], bias;
};

// Of channel `i + offset`, which no operation makes: constants apart from what depends on the thread, as in all that is loaded early.
template <class Of>
__device__ INLINE void load_taps(Run run, const Conv& c, Of sequence, u32 i, u32 offset, Taps& taps) {
    const float* weight = settled(run.weights(c.weight) + i) + offset;
    const float* window = settled(run.state(sequence, c.window) + i) + offset;
#pragma unroll
    for (u32 j = 0; j < TAPS; j++) {
        taps.weight[j] = j < c.width ? load_float(weight + (u64)j * c.channels) : 0.0f;
        taps.window[j] = j + 1 < c.width ? load_float(window + (u64)j * c.channels) : 0.0f;
    }
    taps.bias = c.bias == NONE ? 0.0f : load_float(settled(run.weights(c.bias) + i) + offset);
}

// The convolution of the input `x` after the window, before its activation.
__device__ INLINE float tap_sum(const Conv& c, const Taps& taps, float x) {
    float sum = taps.bias;
#pragma unroll
    for (u32 j = 0; j < TAPS; j++)
        if (j < c.width) sum += taps.weight[j] * (j + 1 == c.width ? x : taps.window[j]);
    return sum;
}

__device__ INLINE float apply_taps(const Conv& c, const Taps& taps, float x) {
    float sum = tap_sum(c, taps, x);
    return c.silu ? silu(sum) : sum;
}

__device__ OUTLINED float convolved(Run run, const Conv& c, u32 row, u32 i) {
    if (c.width <= TAPS && run.time(row) == 0) {
        float x = conv_input(run, c, run.sequence(row), 0, 0, i);
        Taps taps;
        load_taps(run, c, run.sequence(row), i, 0, taps);
        return apply_taps(c, taps, x);
    }
    float sum = c.bias == NONE ? 0.0f : run.weights(c.bias)[i];
    const float* weight = run.weights(c.weight) + i;
#pragma unroll 4
    for (u32 j = 0; j < c.width; j++) {
        float x = conv_input(run, c, run.sequence(row), run.time(row), c.width - 1 - j, i);
        sum += weight[(u64)j * c.channels] * x;
    }
    return c.silu ? silu(sum) : sum;
}

// The window of a convolution takes in the one row that there is: channel `i` and those `stride` further on.
__device__ INLINE void shift_window(Run run, const Conv& c, u64 i, u64 stride) {
    for (; i < c.channels; i += stride) {
        float* window = run.state(Only(), c.window) + i;
        float x = conv_input(run, c, 0, 0, 0, i);
#pragma unroll 4
        for (u32 j = 1; j < c.width; j++) window[(u64)(j - 1) * c.channels] = j + 1 < c.width ? window[(u64)j * c.channels] : x;
    }
}

// The same of one channel, whose `window` was loaded before, as was its input `x`.
__device__ INLINE void shift_channel(const Conv& c, float* to, const float (&window)[TAPS], float x) {
#pragma unroll
    for (u32 j = 1; j < TAPS; j++)
        if (j < c.width) to[(u64)(j - 1) * c.channels] = j + 1 < c.width ? window[j] : x;
}

// For that of the one row, of a convolution without factor, what it takes having been asked for.
struct EarlyShift {
    float window[TAPS];
    Posted x;
};

__device__ INLINE void ask_shift(Run run, const Conv& c, u32 i, EarlyShift& early) {
    early = {};
    if (i >= c.channels) return;
    const float* window = settled((const float*)run.state(Only(), c.window) + i);
#pragma unroll
    for (u32 j = 1; j < TAPS; j++)
        if (j + 1 < c.width) early.window[j] = load_float(window + (u64)j * c.channels);
    early.x = ask(run, c.x, i);
}

// Once its input has come, as `x.value`.
__device__ INLINE void shift_channel(Run run, const Conv& c, u32 i, const EarlyShift& early) {
    if (i < c.channels) shift_channel(c, run.state(Only(), c.window) + i, early.window, early.x.value);
}

// Element `i` of a row before its norm.
__device__ OUTLINED float gather_any(Run run, const Source& s, u32 row, u32 i) {
    switch (s.kind) {
        case SUM: return run.at(s.a, row)[i] + run.at(s.b, row)[i];
        case CONCAT: return i < s.split ? run.at(s.a, row)[i] : run.at(s.b, row)[i - s.split];
        case ACTIVATE: {
            float a = run.at(s.a, row)[i];
            return s.b.start == NONE ? activate(s.activation, a) : a * activate(s.activation, run.at(s.b, row)[i]);
        }
        case CONVOLVED: return convolved(run, s.conv, row, i);
        case IN_HALVES: return half_to_float(run.half_row(s.a, row)[i]);
        default: return run.at(s.a, row)[i];
    }
}

__device__ INLINE float gather(Run run, const Source& s, u32 row, u32 i, u32 offset) {
    if (s.kind != PLAIN) return gather_any(run, s, row, i + offset);
    if (s.a.is_posted()) return come(run, s.a, i, offset, ask(run, s.a, i, offset));
    return load_float(settled((const float*)run.at(s.a, row) + i) + offset);
}

#define ROW_ELEMENTS 10  // of a row that a thread keeps in registers: rows of up to 5,120 elements
#define ROW_MOST (ROW_ELEMENTS * THREADS)

// The elements of a thread in rows of up to `ROW_MOST`: a warp has whole groups.
__device__ INLINE u32 row_element(Run run, u32 k) { return run.thread + k * THREADS; }

// 1 / sqrt(mean(x²) + eps) of each of `parts` equal parts of `x` into `scales`. All threads of the block.
__device__ INLINE void inverse_rms(Run run, const float* x, u32 part_len, u32 parts, float eps, float* scales) {
    for (u32 base = 0; base < parts; base += HALVES) {
        u32 part = base + run.half_warp();
        float sum = 0.0f;
        if (part < parts) {
            const float* own = x + (u64)part * part_len;
#pragma unroll 16
            for (u32 i = run.half_lane(); i < part_len; i += 16) sum += own[i] * own[i];
        }
        sum = fold16(sum);
        if (part < parts && run.half_lane() == 0) scales[part] = rsqrt_core(sum / (float)part_len + eps);
    }
    sync_block();
}

// Distance in shared memory between the lanes of a sum over `len`, so that four threads' fours lie in different banks.
__device__ INLINE u32 lane_stride(u32 len) { return (len / 64 | 1) * 4; }

// Whether a norm is one sum of squares, of whole fours in every lane.
__device__ INLINE bool is_one_sum(const Source& s) { return s.norm.kind == RMS && s.norm.groups == 1 && s.len % 64 == 0; }

// 1 / sqrt(mean(x²) + eps) of the first `rows` rows whose elements, a thread's `own`, are in registers: into `sums`. All threads of the
// block.
template <u32 ROWS, u32 ELEMENTS>
__device__ INLINE void inverse_rms_short(Run run, u32 len, float eps, const float (&own)[ROWS][ELEMENTS], u32 rows = ROWS) {
    float* squares = run.shared().row;    // [ROWS][16 lanes][lane_stride]
#pragma unroll
    for (u32 r = 0; r < ROWS && r < rows; r++)
#pragma unroll
        for (u32 k = 0; k < ELEMENTS && k * THREADS < len; k++)
            if (row_element(run, k) < len)
                squares[(r * 16 + run.half_lane()) * lane_stride(len) + run.thread / 16 + k * HALVES] = own[r][k] * own[r][k];
    sync_block();
    if (run.warp() < rows) {
        const Floats* fours = (const Floats*)(squares + (run.warp() * 16 + run.half_lane()) * lane_stride(len));
        float sum = 0.0f;
        // Each is on its way while those before it are added.
        Floats ahead[4];
#pragma unroll
        for (u32 e = 0; e < 4; e++)
            if (e < len / 64) ahead[e] = fours[e];
#pragma unroll 5
        for (u32 first = 0; first < len / 64; first += 4) {
#pragma unroll
            for (u32 e = 0; e < 4; e++) {
                if (first + e >= len / 64) break;
                Floats four = ahead[e];
                if (first + e + 4 < len / 64) ahead[e] = fours[first + e + 4];
                sum += four.x;
                sum += four.y;
                sum += four.z;
                sum += four.w;
            }
        }
        sum = rsqrt_core(fold16(sum) / (float)len + eps);
        if (run.lane() == 0) run.shared().sums[run.warp()] = sum;
    }
    sync_block();
}

// Norms `x` `[len]` in shared memory but for the last steps, which `normed` does. All threads of the block.
__device__ INLINE void norm_sums(Run run, const Norm& n, float* x, u32 len) {
    float* sums = run.shared().sums;
    if (n.kind == LAYER) {
        float sum = 0.0f;
        if (run.half_warp() == 0)
            for (u32 i = run.half_lane(); i < len; i += 16) sum += x[i];
        sum = fold16(sum);
        if (run.thread == 0) sums[0] = sum / (float)len;
        sync_block();
        for (u32 i = run.thread; i < len; i += THREADS) x[i] -= sums[0];
        sync_block();
    }
    inverse_rms(run, x, len / n.groups, n.groups, n.eps, sums);
}

// Where the codes of one row go.
struct RowCodes {
    u32* codes;        // eight words of 4 codes for each group, `stride` times that apart
    float* scales;     // one per group, `stride` apart, as the next
    int* sums;         // or none
    u32 stride;
    bool paired;       // see `Codes`

    __device__ u32* of_group(u32 group) const { return codes + (u64)group * stride * 8; }
    // Code `i` of a group.
    __device__ signed char& code(u32 group, u32 i) const {
        u32 word = i / 4, place = paired ? word % 4 * 2 + word / 4 : word;
        return ((signed char*)of_group(group))[place * 4 + i % 4];
    }
};

__device__ INLINE RowCodes shared_codes(Run run) {
    float* start = run.row_codes_start();
    u32 groups = run.p().shared_groups;
    return {(u32*)start, start + 8 * groups, (int*)(start + 9 * groups), 1, false};
}

// Groups of all rows lie together, so that who multiplies several rows with a group of weights finds them side by side.
__device__ INLINE RowCodes scratch_codes(Run run, const Codes& c, u64 row) {
    float* scratch = run.p().scratch;
    return {(u32*)(scratch + c.codes) + row * 8, scratch + c.scales + row, (int*)(scratch + c.sums) + row, c.stride, c.paired != 0};
}

// The largest magnitude among a number of each lane of a warp: bits of numbers that are not negative are in the order of the numbers.
// NaN counts as 0.
__device__ INLINE float warp_largest(float v) {
    return __uint_as_float(__reduce_max_sync(FULL, __float_as_uint(larger(v < 0.0f ? -v : v, 0.0f))));
}

// The scale of a group, or its inverse; where all are near 0 that of a group without codes, which both are 0.
__device__ INLINE float code_quotient(float largest, bool is_scale) {
    return largest < 1e-36f ? 0.0f : (is_scale ? largest : 127.0f) / (is_scale ? 127.0f : largest);
}

__device__ INLINE int code_of(float v, float inverse) { return (int)(signed char)__float_as_uint(larger(v * inverse + ROUND, NO_CODE)); }

// Codes of a row of `len` of which a thread has elements `v`; a warp has every sixteenth group. Ties round to even,
// NaN has code 0.
template <u32 ELEMENTS>
__device__ INLINE void quantize_short(Run run, u32 len, const RowCodes& to, const float (&v)[ELEMENTS]) {
    u32 groups = div_up(len, GROUP), k_own = run.lane() % 16, g_own = run.warp() + k_own * WARPS;
    if (run.warp() >= groups) return;
    float most = 0.0f;
    int sum = 0;
#pragma unroll
    for (u32 k = 0; k < ELEMENTS && k * THREADS < len; k++) {
        float largest = warp_largest(v[k]);
        if (k_own == k) most = largest;
    }
    // Lane k divides 127 by the largest of group k, and lane 16 + k that by 127.
    bool is_scale = run.lane() >= 16, has = k_own * THREADS < len && g_own < groups;
    float quotient = code_quotient(most, is_scale);
#pragma unroll
    for (u32 k = 0; k < ELEMENTS && k * THREADS < len; k++) {
        int code = code_of(v[k], __shfl_sync(FULL, quotient, k));
        if (to.sums) {
            int all = __reduce_add_sync(FULL, code);
            if (k_own == k) sum = all;
        }
        if (run.warp() + k * WARPS < groups) to.code(run.warp() + k * WARPS, run.lane()) = (signed char)code;
    }
    if (has && is_scale) to.scales[(u64)g_own * to.stride] = quotient;
    if (to.sums && has && !is_scale) to.sums[(u64)g_own * to.stride] = sum;
}

// Codes of group `group` of a row, of which each lane of the warp has a number.
__device__ INLINE void quantize_group(Run run, const RowCodes& to, u32 group, float v) {
    float quotient = code_quotient(warp_largest(v), run.lane() >= 16);
    int code = code_of(v, __shfl_sync(FULL, quotient, 0)), sum = __reduce_add_sync(FULL, code);
    to.code(group, run.lane()) = (signed char)code;
    if (run.lane() == 16) to.scales[(u64)group * to.stride] = quotient;
    if (to.sums && run.lane() == 0) to.sums[(u64)group * to.stride] = sum;
}

// `value(i)` of `[len]` as codes.
template <class Value>
__device__ INLINE void quantize(Run run, u32 len, const RowCodes& to, Value value) {
    for (u32 start = 0; start < len; start += ROW_MOST) {
        float v[ROW_ELEMENTS];
#pragma unroll
        for (u32 k = 0; k < ROW_ELEMENTS; k++) {
            u32 i = start + row_element(run, k);
            v[k] = i < len ? value(i) : 0.0f;
        }
        u32 first = start / GROUP;
        RowCodes part = {to.of_group(first), to.scales + (u64)first * to.stride, to.sums ? to.sums + (u64)first * to.stride : nullptr, to.stride, to.paired};
        quantize_short(run, len - start < ROW_MOST ? len - start : ROW_MOST, part, v);
    }
}

__device__ INLINE float norm_weight(Run run, const Norm& n, u32 i, u32 offset) {
    return n.weight == NONE ? 1.0f : load_float(settled(run.weights(n.weight) + i) + offset);
}

// The last steps of a norm for `v`, element `i` of `len`, whose weight is `weight`; `sums` are the row's.
__device__ INLINE float normed(Run run, const Norm& n, const float* sums, float v, u32 len, u32 i, float weight) {
    if (n.kind != IDENTITY) v *= sums[n.groups == 1 ? 0 : i / (len / n.groups)];
    if (n.weight != NONE) v *= weight;
    if (n.bias != NONE) v += run.weights(n.bias)[i];
    return v;
}

__device__ INLINE float finished(Run run, const Source& s, const float* sums, u32 row, float v, u32 i, float weight) {
    v = normed(run, s.norm, sums, v, s.len, i, weight);
    return s.after.start == NONE ? v : v * silu(value_at(run, s.after, row, i));
}

#define HALF_DEPTH 64  // columns that lie together

// Where element `i` of a row in f16 lies: `[columns / 64][rows][64]`, so that what is multiplied at once lies together. Eights of a row are where a
// warp that reads those of eight rows finds them in different banks. Rows 8 apart lie alike.
__device__ INLINE u32 half_place(u32 rows, u32 row, u32 i) {
    return (i / HALF_DEPTH * rows + row) * HALF_DEPTH + ((i % HALF_DEPTH / 8) ^ (row % 8)) * 8 + i % 8;
}

// Length of a row of `len` in f16.
__device__ INLINE u32 half_len(u32 len) { return div_up(len, HALF_DEPTH) * HALF_DEPTH; }

// A row in f16, or none.
struct HalfRow {
    u16* start;
    u32 rows, row;

    __device__ u16* at(u32 i) const { return start + half_place(rows, row, i); }
    __device__ explicit operator bool() const { return start; }
};

// Where a prepared row goes, each of which may be absent: as codes, as floats, in f16.
struct RowPlaces {
    const RowCodes* codes;
    float* floats;
    HalfRow halves;
};

// Zeros up to the end of a row in f16.
__device__ INLINE void pad_halves(Run run, u32 len, const HalfRow& halves) {
    u32 i = len + run.thread;
    if (halves && i < half_len(len)) *halves.at(i) = 0;
}

// One row of a source: normed, gated; to `to`. All threads of the block; `raw(k)` is the thread's element `k` before the norm, and
// `weight(k)` the norm's.
template <class Raw, class Weight>
__device__ INLINE void prepare_short(Run run, const Source& s, u32 row, const RowPlaces& to, Raw raw, Weight weight) {
    float *x = run.shared().row, own[1][ROW_ELEMENTS];
#pragma unroll
    for (u32 k = 0; k < ROW_ELEMENTS; k++) {
        own[0][k] = row_element(run, k) < s.len ? raw(k) : 0.0f;
    }
    if (is_one_sum(s)) {
        inverse_rms_short(run, s.len, s.norm.eps, own);
    } else if (s.norm.kind != IDENTITY) {
#pragma unroll
        for (u32 k = 0; k < ROW_ELEMENTS && k * THREADS < s.len; k++)
            if (row_element(run, k) < s.len) x[row_element(run, k)] = own[0][k];
        sync_block();
        norm_sums(run, s.norm, x, s.len);
    }
#pragma unroll
    for (u32 k = 0; k < ROW_ELEMENTS && k * THREADS < s.len; k++) {
        u32 i = row_element(run, k);
        if (i >= s.len) continue;
        // The mean has been taken from what lies in shared memory.
        own[0][k] = finished(run, s, run.shared().sums, row, s.norm.kind == LAYER ? x[i] : own[0][k], i, weight(k));
        if (to.floats) to.floats[i] = own[0][k];
        if (to.halves) *to.halves.at(i) = to_half(own[0][k]);
    }
    pad_halves(run, s.len, to.halves);
    if (to.codes) quantize_short(run, s.len, *to.codes, own[0]);
    sync_block();
}

// The same for rows of any length.
__device__ INLINE void prepare_long(Run run, const Source& s, u32 row, const RowPlaces& to) {
    float* x = run.shared().row;
    bool has_norm = s.norm.kind != IDENTITY;
    auto raw = [&](u32 i) { return gather(run, s, row, i, 0); };
    if (has_norm) {
#pragma unroll 2
        for (u32 i = run.thread; i < s.len; i += THREADS) x[i] = raw(i);
        sync_block();
        norm_sums(run, s.norm, x, s.len);
    }
    auto value = [&](u32 i) {
        return finished(run, s, run.shared().sums, row, has_norm ? x[i] : raw(i), i, norm_weight(run, s.norm, i, 0));
    };
    if (to.codes) quantize(run, s.len, *to.codes, value);
    // In place where `floats` is `x`, so after the codes.
    sync_block();
    if (to.floats)
        for (u32 i = run.thread; i < s.len; i += THREADS) to.floats[i] = value(i);
    if (to.halves)
        for (u32 i = run.thread; i < s.len; i += THREADS) *to.halves.at(i) = to_half(value(i));
    pad_halves(run, s.len, to.halves);
    sync_block();
}

// The same with nothing loaded before, for rows of any length.
__device__ INLINE void prepare_row(Run run, const Source& s, u32 row, const RowPlaces& to) {
    if (s.len > ROW_MOST) return prepare_long(run, s, row, to);
    prepare_short(run, s, row, to, [&](u32 k) { return gather(run, s, row, run.thread, k * THREADS); },
                  [&](u32 k) { return norm_weight(run, s.norm, run.thread, k * THREADS); });
}

#define PREPARE_ROWS 4      // that a block prepares at once, if there are so many
#define PREPARE_ELEMENTS 4  // of each that a thread has: rows of up to 2,048 elements

// Whether rows go to f16 alone and are no more than one vector of fours, normed.
__device__ INLINE bool is_plain_in_halves(const Prepare& p) {
    const Source& s = p.source;
    bool only_halves = p.to.halves != NONE && p.to.codes == NONE && p.to.floats.start == NONE;
    return only_halves && !p.head && p.multiple == 1 && (s.kind == PLAIN || s.kind == IN_HALVES) && is_one_sum(s) && s.len % 128 == 0 && s.a.stride % 4 == 0 &&
           s.norm.weight != NONE && s.norm.bias == NONE && s.after.start == NONE;
}

// A row by a warp, with its sum in any order.
__device__ INLINE void prepare_halves(Run run, u32 passed, const Prepare& p) {
    const Source& s = p.source;
    const float* weights = run.weights(s.norm.weight) + run.lane() * 4;
    for (u32 row = first_unit(passed) * WARPS + run.warp(); row < run.shared().rows; row += blocks() * WARPS) {
        const float* from = run.at(s.a, row);
        auto four = [&](u32 i) {
            u32 own = run.lane() * 4 + i;
            if (s.kind == PLAIN) return load_floats(from + own);
            u64 halves = *(const u64*)((const u16*)from + own);
            auto one = [&](u32 k) { return half_to_float((u16)(halves >> 16 * k)); };
            return Floats{one(0), one(1), one(2), one(3)};
        };
        HalfRow to = {run.halves(p.to.halves), p.to.half_rows, row};
        float sum = 0.0f;
#pragma unroll 12
        for (u32 i = 0; i < s.len; i += 128) {
            Floats v = four(i);
            sum += v.x * v.x + v.y * v.y + (v.z * v.z + v.w * v.w);
        }
        sum += __shfl_xor_sync(FULL, sum, 16);
        float scale = rsqrt_core(fold16(sum) / (float)s.len + s.norm.eps);
#pragma unroll 6
        for (u32 i = 0; i < s.len; i += 128) {
            Floats v = four(i), w = load_floats(weights + i);
            u32 halves[2] = {to_halves(v.x * scale * w.x, v.y * scale * w.y), to_halves(v.z * scale * w.z, v.w * scale * w.w)};
            *(u64*)to.at(run.lane() * 4 + i) = halves[0] | (u64)halves[1] << 32;
        }
    }
}

__device__ OUTLINED void op_prepare(Run run, u32 passed, const Prepare& p) {
    const Source& s = p.source;
    if (is_plain_in_halves(p)) return prepare_halves(run, passed, p);
    u32 rows = p.head ? run.p().head_count : run.shared().rows * p.multiple, row_start = p.head ? run.p().head_row : 0;
    auto floats_of = [&](u32 row) { return p.to.floats.start == NONE ? nullptr : run.at(p.to.floats, row); };
    auto halves_of = [&](u32 row) { return HalfRow{p.to.halves == NONE ? nullptr : run.halves(p.to.halves), p.to.half_rows, row}; };
    if (rows == 1 || !is_one_sum(s) || s.len > PREPARE_ELEMENTS * THREADS) {
        for (u32 row = first_unit(passed); row < rows; row += blocks()) {
            RowCodes codes = scratch_codes(run, p.to, row);
            prepare_row(run, s, row_start + row, {p.to.codes == NONE ? nullptr : &codes, floats_of(row), halves_of(row)});
        }
        return;
    }
    float weights[PREPARE_ELEMENTS];
#pragma unroll
    for (u32 k = 0; k < PREPARE_ELEMENTS; k++)
        weights[k] = row_element(run, k) < s.len ? norm_weight(run, s.norm, run.thread, k * THREADS) : 0.0f;
    u32 few = div_up(rows, blocks()), at_once = few < PREPARE_ROWS ? few : PREPARE_ROWS;
    for (u32 first = first_unit(passed) * at_once; first < rows; first += blocks() * at_once) {
        // Zeros as in `EarlyProduct`.
        float own[PREPARE_ROWS][PREPARE_ELEMENTS] = {};
        u32 count = rows - first < at_once ? rows - first : at_once;
#pragma unroll
        for (u32 r = 0; r < PREPARE_ROWS && r < count; r++)
#pragma unroll
            for (u32 k = 0; k < PREPARE_ELEMENTS; k++)
                own[r][k] = row_element(run, k) < s.len ? gather(run, s, row_start + first + r, run.thread, k * THREADS) : 0.0f;
        inverse_rms_short(run, s.len, s.norm.eps, own, count);
#pragma unroll
        for (u32 r = 0; r < PREPARE_ROWS && r < count; r++) {
            float* floats = floats_of(first + r);
            HalfRow halves = halves_of(first + r);
#pragma unroll
            for (u32 k = 0; k < PREPARE_ELEMENTS && k * THREADS < s.len; k++) {
                u32 i = row_element(run, k);
                if (i >= s.len) continue;
                own[r][k] = finished(run, s, run.shared().sums + r, row_start + first + r, own[r][k], i, weights[k]);
                if (floats) floats[i] = own[r][k];
                if (halves) *halves.at(i) = to_half(own[r][k]);
            }
            pad_halves(run, s.len, halves);
            if (p.to.codes != NONE) quantize_short(run, s.len, scratch_codes(run, p.to, first + r), own[r]);
        }
    }
}

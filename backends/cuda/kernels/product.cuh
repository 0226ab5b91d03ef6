// Matrix products: rows of weights times one row of activations (dp4a), or many (int8 tensor cores). Integer dots are
// exact in any order; sums over groups run in 8 lanes, over elements in 16, as sarit-core has them.
#pragma once
#include "row.cuh"

struct Input {
    RowCodes codes;
    const float* floats;
};

__device__ INLINE bool is_quantized(const Matrix& w) { return w.dtype >= Q8; }

// Rows that a block takes at once in `unit_product`: half the rows of a tile, or as many as there are half-warps.
__device__ INLINE u32 unit_rows(const Matrix& w) { return is_quantized(w) ? 8 : HALVES; }

__device__ INLINE u32 tile_bytes(const Matrix& w) { return w.dtype == Q8 ? 512 : 256; }

// Scales `[tile_row][group][16]` (f16) and codes `[tile_row][group][tile_bytes]` of a tile row.
__device__ INLINE void tile_row_at(const u8* model, const Matrix& w, u32 tile_row, const u16*& scales, const u8*& codes) {
    u64 groups = div_up(w.cols, GROUP);
    u64 scale_bytes = (div_up(w.rows, 16) * groups * 32 + 63) / 64 * 64;
    const u8* data = model + (u64)w.data * 64;
    scales = (const u16*)data + tile_row * groups * 16;
    codes = data + scale_bytes + tile_row * groups * tile_bytes(w);
}

// Groups whose weights a thread loads before it uses them.
#define LOADS 4

// Unit `unit` of `w · in`: `each(row, value)` is called by one thread a row. All threads of the block; `flip` is the
// number of calls so far, and what `each` writes is visible to the block after the next barrier.
//
// Quantized: warp = lane of the sum over groups; in a warp, 8 rows by 4 pairs of words of a group.
template <class Each>
__device__ INLINE void unit_product(Run run, const Matrix& w, const Input& in, u32 unit, u32 flip, Each each) {
    if (!is_quantized(w)) {
        u32 row = unit * HALVES + run.half_warp();
        float sum = 0.0f;
        if (row < w.rows) {
            const u8* weights = run.p().model + (u64)w.data * 64;
            u64 start = (u64)row * w.cols;
#pragma unroll 4
            for (u32 i = run.half_lane(); i < w.cols; i += 16) {
                float weight = w.dtype == F32 ? ((const float*)weights)[start + i]
                                              : half_to_float(((const u16*)weights)[start + i]);
                sum += weight * in.floats[i];
            }
        }
        sum = fold16(sum);
        if (row < w.rows && run.half_lane() == 0) each(row, sum);
        return;
    }
    u32 r = run.lane() % 8, j = run.lane() / 8, groups = div_up(w.cols, GROUP);
    const u16* scales;
    const u8* codes;
    tile_row_at(run.p().model, w, unit / 2, scales, codes);
    u32 row_in_tile = unit % 2 * 8 + r;
    scales += row_in_tile;
    codes += row_in_tile * 4 + j * 64;
    float sum = 0.0f;
    for (u32 first = run.warp(); run.warp() < GROUP_LANES && first < groups; first += GROUP_LANES * LOADS) {
        u32 low[LOADS], high[LOADS];
        u16 scale[LOADS];
#pragma unroll
        for (u32 k = 0; k < LOADS; k++) {
            u32 g = first + k * GROUP_LANES;
            if (g >= groups) break;
            const u8* tile = codes + (u64)g * tile_bytes(w);
            low[k] = load_word(tile);
            if (w.dtype == Q8) high[k] = load_word(tile + 256);
            scale[k] = __ldg(scales + g * 16);
        }
#pragma unroll
        for (u32 k = 0; k < LOADS; k++) {
            u32 g = first + k * GROUP_LANES;
            if (g >= groups) break;
            const u32* x = in.codes.codes + g * 8;
            int dot;
            if (w.dtype == Q8) {
                dot = __dp4a((int)low[k], (int)x[j], __dp4a((int)high[k], (int)x[j + 4], 0));
            } else {
                dot = __dp4a((int)(low[k] & 0x0f0f0f0fu), (int)x[2 * j], 0);
                dot = __dp4a((int)(low[k] >> 4 & 0x0f0f0f0fu), (int)x[2 * j + 1], dot);
            }
            dot += __shfl_xor_sync(FULL, dot, 8);
            dot += __shfl_xor_sync(FULL, dot, 16);
            if (w.dtype == Q4) dot -= 8 * in.codes.sums[(u64)g * in.codes.stride];
            sum += (float)dot * (half_to_float(scale[k]) * in.codes.scales[(u64)g * in.codes.stride]);
        }
    }
    float* lanes = run.shared().sums + flip % 2 * 64;
    if (j == 0 && run.warp() < GROUP_LANES) lanes[run.warp() * 8 + r] = sum;
    __syncthreads();
    u32 row = unit * 8 + run.thread;
    if (run.thread < 8 && row < w.rows) each(row, fold8(lanes + run.thread, 8));
}

#define AHEAD 4         // steps whose weights are under way in registers, and of a batch

// What a thread has of a group of a unit: two words of four rows (in q4 both in `low`), and the scale of one of the rows.
struct StepWeights {
    Words low, high;
    u32 scale;
};

#define EARLY_TAPS 4    // of the elements of a row, whose convolution comes early

// What a thread has asked for before the barrier after which it is used: weights of a product, and of the norm or the
// convolution that makes its input, and what its first result is added to; and after the barrier, elements of that input. What is
// not loaded is zero: a register that some threads do not write would be kept for them from operation to operation.
struct EarlyProduct {
    StepWeights weights[AHEAD];
    union {
        float norm[ROW_ELEMENTS];
        Taps taps[EARLY_TAPS];
    };
    Posted x[ROW_ELEMENTS];
    Posted y;
    EarlyShift shift;
};

// Whether the weights of the convolution that makes a product's input come early.
__device__ INLINE bool has_taps(const Source& s) {
    return s.kind == CONVOLVED && s.norm.kind == IDENTITY && s.conv.width <= TAPS && s.conv.factor.start == NONE;
}

// Whether elements of one row are all that a product's input is made of, which are then asked for together.
__device__ INLINE bool is_asked_for(const Product& p) {
    return p.input == FUSED && p.source.len <= ROW_MOST && (has_taps(p.source) || p.source.kind == PLAIN);
}

__device__ INLINE Vector asked_row(const Source& s) { return has_taps(s) ? s.conv.x : s.a; }

__device__ INLINE void ask_input(Run run, const Product& p, EarlyProduct& early) {
    if (!is_asked_for(p)) return;
#pragma unroll
    for (u32 k = 0; k < ROW_ELEMENTS; k++) {
        early.x[k] = {};
        if (row_element(run, k) < p.source.len) early.x[k] = ask(run, asked_row(p.source), run.thread, k * THREADS);
    }
}

#define STEP_PAIRS (WARPS / 2)                    // pairs of warps, which take a step each
#define STEPS_AT_ONCE (PARTIALS / 64 / STEP_PAIRS)  // of a pair, for which there is room in shared memory
static_assert(STEPS_AT_ONCE % AHEAD == 0, "a batch lies in one part");

// Room in shared memory for what each thread of a block loads of a step, and a thread's part of it.
#define LINE_BYTES (THREADS * 36)
struct Line {
    Words *low, *high;
    u32* scales;
};

__device__ INLINE Line own_line(Run run, u32 line) {
    u32 floats = (run.p().shared_floats + run.p().shared_groups * 10 + 3) / 4 * 4;
    u8* start = (u8*)(run.shared().row + floats) + line * LINE_BYTES;
    Words* low = (Words*)start + run.thread;
    return {low, low + THREADS, (u32*)(start + THREADS * 32) + run.thread};
}

// How a block takes a quantized product with one row: in steps of 8 rows by 8 groups, one for each lane of the sum over groups. Its units of
// 8 rows lie as many blocks apart as there are; their steps, one after another, go round its pairs of warps. A warp has 4 of the lanes, and
// for each 4 threads that share the words of a group, by the two fours of rows.
template <u32 DTYPE>
struct Steps {
    static constexpr u32 WORD_BYTES = 64, TILE_BYTES = DTYPE == Q8 ? 512 : 256;

    u32 first, groups, of_unit, count;  // `first` unit of the block; steps of a unit, and of the block
    u32 most;                           // steps of a pair, at most
    u32 pair, lane, four, word;         // of a thread; its four rows of a unit, and its words of them; in the end it has the row `word`

    __device__ Steps(Run run, u32 passed, const Matrix& w)
        : first(first_unit(passed)), groups(div_up(w.cols, GROUP)), of_unit(div_up(groups, GROUP_LANES)), pair(run.warp() / 2),
          lane(run.warp() % 2 * 4 + run.lane() / 8), four(run.lane() / 4 % 2), word(run.lane() % 4) {
        u32 units = div_up(w.rows, 8);
        count = first < units ? div_up(units - first, blocks()) * of_unit : 0;
        most = div_up(div_up(units, blocks()) * of_unit, STEP_PAIRS);
    }

    // Step `k` of the thread's pair.
    __device__ u32 step(u32 k) const { return k * STEP_PAIRS + pair; }
    // Whether units may have steps in two parts of the block's.
    __device__ bool cuts() const { return most > STEPS_AT_ONCE; }
    // Steps of a pair whose weights come to shared memory: those after the first in registers, in batches.
    __device__ u32 in_lines(Run run) const {
        u32 more = most > AHEAD ? div_up(most - AHEAD, AHEAD) * AHEAD : 0;
        return run.p().line_steps < more ? run.p().line_steps : more;
    }

    __device__ u32 group(u32 step) const { return step % of_unit * GROUP_LANES + lane; }
    // Row `n` of a unit of the block.
    __device__ u32 row(u32 unit, u32 n) const { return (first + unit * blocks()) * 8 + n; }

    // Calls `with(codes, scale)` with the places of the thread's first word and scale of step `k`, if it has any there.
    template <class With>
    __device__ void weights_at(Run run, const Matrix& w, u32 k, With with) const {
        u32 group = this->group(step(k)), own = row(step(k) / of_unit, four * 4);
        if (step(k) >= count || group >= groups) return;
        const u16* scales;
        const u8* codes;
        tile_row_at(run.p().model, w, own / 16, scales, codes);
        with(settled(codes + group * TILE_BYTES + own % 16 * 4 + (DTYPE == Q8 ? 2 : 1) * word * WORD_BYTES), scales + group * 16 + own % 16 + word);
    }

    __device__ void load(Run run, const Matrix& w, u32 k, StepWeights& to) const {
        weights_at(run, w, k, [&](const u8* codes, const u16* scale) {
            to.low = load_words(codes);
            if (DTYPE == Q8) to.high = load_words(codes + WORD_BYTES);
            to.scale = load_half(scale);
        });
    }

    // The same on its way to a line of shared memory, which a thread has to itself.
    __device__ void copy(Run run, const Matrix& w, u32 k, Line to) const {
        weights_at(run, w, k, [&](const u8* codes, const u16* scale) {
            copy_async(to.low, codes);
            if (DTYPE == Q8) copy_async(to.high, codes + WORD_BYTES);
            copy_word_async(to.scales, (const u32*)(scale - word % 2));
        });
    }
    __device__ StepWeights from(Line line) const { return {*line.low, *line.high, *line.scales >> word % 2 * 16}; }

    // What step `k` adds to the thread's lane and row, from the words of its four rows in each of the threads that share the group.
    __device__ float term(const StepWeights& w, const RowCodes& x, u32 k) const {
        // Of what there is not, nothing is added.
        u32 g = group(step(k)) < groups ? group(step(k)) : 0;
        u64 codes = *(const u64*)(x.codes + g * 8 + 2 * word);
        int low = (int)codes, high = (int)(codes >> 32);
        auto dot = [&](u32 first, u32 second) {
            if (DTYPE == Q4) second = first >> 4 & 0x0f0f0f0fu, first &= 0x0f0f0f0fu;
            return __dp4a((int)first, low, __dp4a((int)second, high, 0));
        };
        int d[4] = {dot(w.low.x, w.high.x), dot(w.low.y, w.high.y), dot(w.low.z, w.high.z), dot(w.low.w, w.high.w)};
        bool upper = word & 2, odd = word & 1;
        int a = (upper ? d[2] : d[0]) + __shfl_xor_sync(FULL, upper ? d[0] : d[2], 2);
        int b = (upper ? d[3] : d[1]) + __shfl_xor_sync(FULL, upper ? d[1] : d[3], 2);
        int sum = (odd ? b : a) + __shfl_xor_sync(FULL, odd ? a : b, 1);
        if (DTYPE == Q4) sum -= 8 * x.sums[(u64)g * x.stride];
        return (float)sum * (half_to_float((u16)w.scale) * x.scales[(u64)g * x.stride]);
    }
};

// Adds up the steps from `base` to `end` of a block, in order; those of a unit may be cut in two. A warp has a unit, a thread a row and two
// lanes, four apart.
template <u32 DTYPE>
__device__ INLINE void add_steps(Run run, const Product& p, const Steps<DTYPE>& steps, u32 base, u32 end, const EarlyProduct& early) {
    u32 r = run.lane() % 8, lane = run.lane() / 8, start = base / steps.of_unit, skipped = (run.warp() + WARPS - start % WARPS) % WARPS;
    for (u32 unit = start + skipped; unit * steps.of_unit < end; unit += WARPS) {
        u32 unit_start = unit * steps.of_unit, from = 0, to = steps.of_unit;
        float *carried = run.shared().carried + lane * 8 + r, sums[2] = {};
        const float* terms = run.shared().partials + (int)(unit_start - base) * 64 + lane * 8 + r;
        if (steps.cuts() && unit_start < base) from = base - unit_start, sums[0] = carried[0], sums[1] = carried[32];
        if (steps.cuts() && unit_start + to > end) to = end - unit_start;
#pragma unroll 8
        for (u32 n = from; n < to; n++)
#pragma unroll
            for (u32 half = 0; half < 2; half++)
                if (steps.groups % GROUP_LANES == 0 || n * GROUP_LANES + half * 4 + lane < steps.groups) sums[half] += terms[n * 64 + half * 32];
        if (to < steps.of_unit) {
            carried[0] = sums[0], carried[32] = sums[1];
            continue;
        }
        // As `fold8`.
        float sum = sums[0] + sums[1];
        sum += __shfl_xor_sync(FULL, sum, 16);
        sum += __shfl_xor_sync(FULL, sum, 8);
        u32 i = steps.row(unit, r);
        if (lane > 0 || i >= p.w.rows) continue;
        if (p.settled && unit == run.warp()) finish(run, p.to, 0, i, sum, come(run, p.to.before, i, 0, early.y));
        else finish(run, p.to, 0, i, sum);
    }
}

// `w · in` for one row; the first weights have been asked for. Registers of those that are done get what comes after the lines.
template <u32 DTYPE>
__device__ INLINE void product_one(Run run, u32 passed, const Product& p, const Input& in, EarlyProduct& early) {
    Steps<DTYPE> steps(run, passed, p.w);
    u32 lines = steps.in_lines(run), base = 0;  // `base`: the first step of the block that has not been added up
    for (u32 first = 0; first * STEP_PAIRS < steps.count; first += AHEAD) {
        float terms[AHEAD];
        if (first == 0 || first >= AHEAD + lines) {
#pragma unroll
            for (u32 j = 0; j < AHEAD; j++) {
                if (j >= steps.most) break;
                terms[j] = steps.term(early.weights[j], in.codes, first + j);
                if (steps.most > AHEAD) steps.load(run, p.w, (first == 0 ? lines : first) + AHEAD + j, early.weights[j]);
            }
        } else {
            if (first == AHEAD) await_copies();
#pragma unroll
            for (u32 j = 0; j < AHEAD; j++) terms[j] = steps.term(steps.from(own_line(run, first - AHEAD + j)), in.codes, first + j);
        }
#pragma unroll
        for (u32 j = 0; j < AHEAD; j++)
            if (j < steps.most && steps.step(first + j) < steps.count)
                run.shared().partials[(steps.step(first + j) - base) * 64 + steps.lane * 8 + steps.four * 4 + steps.word] = terms[j];
        u32 end = (first + AHEAD) * STEP_PAIRS;
        bool is_last = end >= steps.count;
        if (!is_last && end - base < STEPS_AT_ONCE * STEP_PAIRS) continue;
        __syncthreads();
        add_steps(run, p, steps, base, is_last ? steps.count : end, early);
        if (!is_last) __syncthreads();
        base = end;
    }
}

template <u32 DTYPE>
__device__ INLINE void ask_steps(Run run, u32 passed, const Product& p, EarlyProduct& early) {
    Steps<DTYPE> steps(run, passed, p.w);
#pragma unroll
    for (u32 k = 0; k < AHEAD; k++) {
        early.weights[k] = {};
        steps.load(run, p.w, k, early.weights[k]);
    }
    for (u32 k = 0; k < steps.in_lines(run); k++) steps.copy(run, p.w, AHEAD + k, own_line(run, k));
    // The result that the thread finishes first.
    u32 i = steps.row(run.warp(), run.lane() % 8);
    early.y = {};
    if (p.settled && i < p.w.rows) early.y = ask(run, p.to.before, 0, i);
}

// Asks for the first weights of a product with one row, and for what its input is normed with.
__device__ INLINE void ask_product(Run run, u32 passed, const Product& p, EarlyProduct& early) {
    if (p.w.dtype == Q8) ask_steps<Q8>(run, passed, p, early);
    else if (p.w.dtype == Q4) ask_steps<Q4>(run, passed, p, early);
    if (p.input != FUSED || p.source.len > ROW_MOST) return;
#pragma unroll
    for (u32 k = 0; k < ROW_ELEMENTS && k * THREADS < p.source.len; k++) {
        bool has = row_element(run, k) < p.source.len;
        if (!has_taps(p.source)) early.norm[k] = has ? norm_weight(run, p.source.norm, run.thread, k * THREADS) : 0.0f;
        if (!has_taps(p.source) || k >= EARLY_TAPS) continue;
        early.taps[k] = {};
        if (has) load_taps(run, p.source.conv, 0, run.thread, k * THREADS, early.taps[k]);
    }
}

// The input of row `row` of a product, made by `make(from, codes, floats)` or before.
template <class Make>
__device__ INLINE Input product_input(Run run, const Product& p, u32 row, Make make) {
    Codes c = p.codes;
    if (p.input == PREPARED) {
        RowCodes codes = {nullptr, nullptr, nullptr, 0};
        if (is_quantized(p.w)) codes = scratch_codes(run, c, p.w.cols, row);
        return {codes, run.at(c.floats, row)};
    }
    RowCodes codes = shared_codes(run);
    bool quantized = is_quantized(p.w);
    // What is posted is the input of one product.
    if (p.source.a.is_posted() && p.w.dtype == Q8) codes.sums = nullptr;
    if (p.input == FUSED)
        make(p.head ? run.p().head_row + row : row, quantized ? &codes : nullptr, quantized ? nullptr : run.shared().row);
    return {codes, run.shared().row};
}

// The same for the one row, with what was asked for.
__device__ INLINE Input early_input(Run run, const Product& p, const EarlyProduct& early) {
    return product_input(run, p, 0, [&](u32 from, const RowCodes* codes, float* floats) {
        const Source& s = p.source;
        RowPlaces to = {codes, floats, {}};
        if (s.len > ROW_MOST) return prepare_long(run, s, from, to);
        auto raw = [&](u32 k) {
            if (!is_asked_for(p)) return gather(run, s, from, run.thread, k * THREADS);
            float v = come(run, asked_row(s), run.thread, k * THREADS, early.x[k]);
            if (!has_taps(s)) return v;
            if (k < EARLY_TAPS) return apply_taps(s.conv, early.taps[k], v);
            Taps taps;
            load_taps(run, s.conv, 0, run.thread, k * THREADS, taps);
            return apply_taps(s.conv, taps, v);
        };
        prepare_short(run, s, from, to, raw, [&](u32 k) { return early.norm[k]; });
    });
}

// All units of the product with one row.
__device__ INLINE void product_units(Run run, u32 passed, const Product& p, const Input& in, u32 row) {
    u32 units = div_up(p.w.rows, unit_rows(p.w)), flip = 0;
    for (u32 unit = first_unit(passed); unit < units; unit += blocks())
        unit_product(run, p.w, in, unit, flip++, [&](u32 i, float v) { finish(run, p.to, row, i, v); });
}

__device__ INLINE void product_rows(Run run, u32 passed, const Product& p, u32 rows) {
    auto make = [&](u32 from, const RowCodes* codes, float* floats) { prepare_row(run, p.source, from, {codes, floats, {}}); };
    for (u32 row = 0; row < rows; row++) product_units(run, passed, p, product_input(run, p, row, make), row);
}

#define MMA_WEIGHTS 64  // rows of weights by rows of activations / 8 that a unit has for each of `WIDE`
#define MMA_COLUMNS 4   // most tiles of 8 rows of activations that a warp multiplies its weights with

// What a thread of a warp has of a group of 32 rows of weights: of four rows two words (in q4 both in `low`) and the scales.
struct MmaWeights {
    Words low, high;
    u64 scales;
};

// And of 8 rows of activations: two words of one, and the scales of its two results.
struct MmaRows {
    u64 codes, scales;
};

// Codes 0..15 of nibbles to -8..7, byte by byte: no byte borrows from its neighbour.
__device__ INLINE u32 centred(u32 nibbles) { return (((nibbles & 0x0f0f0f0fu) | 0x80808080u) - 0x08080808u) ^ 0x80808080u; }

// A unit: two warps for each lane of the sum over groups, with 32 rows of weights and `WIDE` tiles of 8 rows of activations. They have
// other weights and the same tiles, or, where that is less to load, the same weights and other tiles.
template <u32 WIDE>
struct MmaUnit {
    static constexpr u32 WEIGHTS = WIDE < 4 ? MMA_WEIGHTS / 2 : MMA_WEIGHTS, PARTS = MMA_WEIGHTS / WEIGHTS, ROWS = 8 * WIDE * PARTS;

    __device__ static u32 columns(const Matrix& w) { return div_up(w.rows, WEIGHTS); }
    __device__ static u32 count(const Matrix& w, u32 rows) { return columns(w) * div_up(rows, ROWS); }
    // About the time of all, in that of a tile: weights and the fold take two.
    __device__ static u32 time(const Matrix& w, u32 rows) { return div_up(count(w, rows), blocks()) * (WIDE + 2); }
};

// Tensor cores: a warp has a lane of the sum over groups, so all warps go through the groups by themselves; then the lanes are
// folded in shared memory. What comes next is asked for as soon as its place is free; the first weights before the barrier.
//
// Which of its words a thread multiplies first does not matter, nor do the numbers of rows: four of weights lie side by side.
// The accumulator of a group starts at the bits of 1.5 · 2^23, so the sum of products, below 2^22, comes out as a float.
template <u32 WIDE, class Wait>
__device__ INLINE void product_mma(Run run, u32 passed, const Product& p, u32 rows, Wait wait) {
    using Unit = MmaUnit<WIDE>;
    // Numbers of a lane in shared memory, of 8 rows of activations, which lie 4 apart.
    constexpr u32 LANE = 8 * (MMA_WEIGHTS + 4), PLACE = GROUP_LANES * LANE;
    // Room beyond the partial sums is asked for by the host.
    static_assert(MMA_COLUMNS * PLACE <= PARTIALS + 13312, "no room for lanes");
    // Groups on their way: one with few tiles takes less time than its loads.
    constexpr u32 GROUPS_AHEAD = WIDE == 1 ? 3 : 1;
    u32 groups = div_up(p.w.cols, GROUP), tile_rows = div_up(p.w.rows, 16), columns = Unit::columns(p.w), units = Unit::count(p.w, rows);
    u32 sum_lane = run.warp() % GROUP_LANES, half = run.warp() / GROUP_LANES;
    // The first of its rows of weights, and of its tiles.
    u32 r = run.lane() / 4, j = run.lane() % 4, own = half * 32 + r / 4 * 16 + r % 4 * 4, tiles = Unit::PARTS == 1 ? 0 : half * 8 * WIDE;
    u32 own_row = Unit::PARTS == 1 ? own : own - half * 32;
    const float* row_scales = run.p().scratch + p.codes.scales;
    const u32* codes = (const u32*)(run.p().scratch + p.codes.codes);
    auto load_weights = [&](u32 unit, u32 g, MmaWeights& to) {
        u32 tile = unit % columns * (Unit::WEIGHTS / 16) + own_row / 16;
        const u16* s;
        const u8* c;
        tile_row_at(run.p().model, p.w, tile < tile_rows ? tile : tile_rows - 1, s, c);
        c = settled(c + (u64)g * tile_bytes(p.w) + own_row % 16 * 4 + (p.w.dtype == Q8 ? 2 * j : j) * 64);
        to.low = load_words(c);
        if (p.w.dtype == Q8) to.high = load_words(c + 64);
        to.scales = __ldg((const u64*)(s + g * 16 + own_row % 16));
    };
    // Where a thread's of a group and a unit's first tile are, and how many rows there are from there on.
    struct Rows {
        const u32* codes;
        const float* scales;
        u32 count;
    };
    auto rows_at = [&](u32 unit, u32 g) {
        u32 first = unit / columns * Unit::ROWS + tiles;
        bool has_rows = unit < units && (Unit::PARTS == 1 || first < rows);
        return Rows{settled(codes + ((first + r) * groups + g) * 8 + 2 * j),
                    settled(row_scales + (g * p.codes.stride + first + 2 * j)), has_rows ? rows - first : 0};
    };
    auto load_rows = [&](const Rows& from, u32 k, MmaRows& to) {
        // Of the last tile there is room for whole 8 rows.
        if (8 * k >= from.count) return;
        to.codes = *(const u64*)(from.codes + k * 64 * groups);
        to.scales = *(const u64*)(from.scales + k * 8);
    };
    auto number = [](u64 two, u32 which) { return __uint_as_float((u32)(two >> 32 * which)); };
    u32 unit = first_unit(passed);
    MmaWeights weights[GROUPS_AHEAD] = {};
    MmaRows acts[GROUPS_AHEAD][WIDE] = {};
    auto group = [&](u32 n) { return sum_lane + n * GROUP_LANES; };
    // Of the first groups of the first unit.
    auto has_early = [&](u32 n) { return unit < units && group(n) < groups; };
#pragma unroll
    for (u32 n = 0; n < GROUPS_AHEAD; n++)
        if (has_early(n)) load_weights(unit, group(n), weights[n]);
    wait();
#pragma unroll
    for (u32 n = 0; n < GROUPS_AHEAD; n++) {
        if (!has_early(n)) break;
        Rows from = rows_at(unit, group(n));
#pragma unroll
        for (u32 k = 0; k < WIDE; k++) load_rows(from, k, acts[n][k]);
    }
    for (; unit < units; unit += blocks()) {
        float sums[2][WIDE][4] = {};
        for (u32 start = sum_lane; start < groups; start += GROUPS_AHEAD * GROUP_LANES) {
#pragma unroll
            for (u32 n = 0; n < GROUPS_AHEAD; n++) {
                u32 g = start + n * GROUP_LANES;
                if (g >= groups) break;
                // What takes the place of this group: one so many further on, or one of the first of the next unit.
                u32 g_after = g + GROUPS_AHEAD * GROUP_LANES;
                bool is_last = g_after >= groups;
                u32 unit_after = is_last ? unit + blocks() : unit;
                g_after = is_last ? group(n) : g_after;
                MmaWeights w = weights[n];
                Rows from = rows_at(unit_after, g_after);
                if (unit_after < units) load_weights(unit_after, g_after, weights[n]);
                u32 a[2][4] = {{w.low.x, w.low.y, w.high.x, w.high.y}, {w.low.z, w.low.w, w.high.z, w.high.w}};
                float scales[4];
#pragma unroll
                for (u32 m = 0; m < 2; m++) {
                    if (p.w.dtype == Q4) {
                        a[m][2] = centred(a[m][0] >> 4), a[m][3] = centred(a[m][1] >> 4);
                        a[m][0] = centred(a[m][0]), a[m][1] = centred(a[m][1]);
                    }
                    scales[2 * m] = half_to_float((u16)(w.scales >> 32 * m));
                    scales[2 * m + 1] = half_to_float((u16)(w.scales >> (32 * m + 16)));
                }
                // Beyond the last row what was there before is multiplied, and goes nowhere.
#pragma unroll
                for (u32 k = 0; k < WIDE; k++) {
                    u32 b[2] = {(u32)acts[n][k].codes, (u32)(acts[n][k].codes >> 32)};
#pragma unroll
                    for (u32 m = 0; m < 2; m++) {
                        int dot[4];
                        mma_i8(dot, a[m], b, 0x4b400000);
#pragma unroll
                        for (u32 e = 0; e < 4; e++)
                            sums[m][k][e] += (__int_as_float(dot[e]) - ROUND) * (scales[2 * m + e / 2] * number(acts[n][k].scales, e % 2));
                    }
                    load_rows(from, k, acts[n][k]);
                }
            }
        }
        // Of the results whose lanes the thread folds.
        u32 n = run.thread / MMA_WEIGHTS, slot = run.thread % MMA_WEIGHTS, i = unit % columns * Unit::WEIGHTS + slot % Unit::WEIGHTS;
        u32 first = unit / columns * Unit::ROWS + slot / Unit::WEIGHTS * 8 * WIDE + n;
        auto has_result = [&](u32 k) { return first + k * 8 < rows && i < p.w.rows; };
        float before[WIDE];
#pragma unroll
        for (u32 k = 0; k < WIDE; k++) before[k] = p.to.kind == ADD && has_result(k) ? value_at(run, p.to.before, first + k * 8, i) : 0.0f;
        // Those of the unit before have been read.
        __syncthreads();
        float* lanes = run.shared().partials;
#pragma unroll
        for (u32 k = 0; k < WIDE; k++)
#pragma unroll
            for (u32 e = 0; e < 2; e++)
                *(Floats*)(lanes + k * PLACE + sum_lane * LANE + (2 * j + e) * (MMA_WEIGHTS + 4) + own) =
                    Floats{sums[0][k][e], sums[0][k][e + 2], sums[1][k][e], sums[1][k][e + 2]};
        __syncthreads();
        float results[WIDE];
#pragma unroll
        for (u32 k = 0; k < WIDE; k++) results[k] = fold8(lanes + k * PLACE + n * (MMA_WEIGHTS + 4) + slot, LANE);
#pragma unroll
        for (u32 k = 0; k < WIDE; k++)
            if (has_result(k)) finish(run, p.to, first + k * 8, i, results[k], before[k]);
    }
}

template <class Wait>
__device__ INLINE void product_mma(Run run, u32 passed, const Product& p, u32 rows, Wait wait) {
    u32 wide = MmaUnit<4>::time(p.w, rows), middle = MmaUnit<2>::time(p.w, rows), narrow = MmaUnit<1>::time(p.w, rows);
    if (wide <= middle && wide <= narrow) product_mma<4>(run, passed, p, rows, wait);
    else if (middle <= narrow) product_mma<2>(run, passed, p, rows, wait);
    else product_mma<1>(run, passed, p, rows, wait);
}

// `wait` ends when the operations before the barrier have: a `Wait`.
template <bool MANY, class Wait>
__device__ INLINE void op_product(Run run, u32 passed, const Product& p, Wait wait) {
    u32 rows = p.head ? run.p().head_count : run.shared().rows;
    if constexpr (MANY) {
        if (is_quantized(p.w)) return product_mma(run, passed, p, rows, wait);
        wait();
        product_rows(run, passed, p, rows);
    } else {
        // Blocks that have units: only they may read what is posted, for the others nobody waits, and they shift the window when all
        // of the input has come, so that all have read it.
        u32 units = div_up(p.w.rows, unit_rows(p.w)), owners = units < blocks() ? units : blocks();
        bool is_owner = first_unit(passed) < owners, shifts = p.shift.window != NONE && is_owner;
        bool early_shift = shifts && p.shift.width <= TAPS;
        u32 channel = first_unit(passed) * THREADS + run.thread;
        if (p.source.a.is_posted() && !is_owner) {
            // Whatever comes next, all threads of a block are at one operation or at two side by side.
            __syncthreads();
            return wait();
        }
        EarlyProduct early;
        ask_product(run, passed, p, early);
        if (early_shift) ask_shift(run, p.shift, channel, early.shift);
        wait();
        ask_input(run, p, early);
        Input in = early_input(run, p, early);
        // All that is read of what others write anew when they have this block's results, before these are there.
        if (early_shift && channel < p.shift.channels) early.shift.x.value = come(run, p.shift.x, channel, 0, early.shift.x);
        if (shifts) shift_window(run, p.shift, channel + (early_shift ? owners * THREADS : 0), owners * THREADS);
        if (shifts && !is_quantized(p.w)) __syncthreads();
        if (p.w.dtype == Q8) product_one<Q8>(run, passed, p, in, early);
        else if (p.w.dtype == Q4) product_one<Q4>(run, passed, p, in, early);
        else product_units(run, passed, p, in, 0);
        if (early_shift) shift_channel(run, p.shift, channel, early.shift);
    }
}

// Matrix products: rows of weights times one row of activations (dp4a), or many (int8 tensor cores). Integer dots are
// exact in any order; sums over groups run in 8 lanes, over elements in 16, as sarit-core has them.
#pragma once
#include "ring.cuh"
#include "through.cuh"

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
            const u32* x = in.codes.of_group(g);
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
    sync_block();
    u32 row = unit * 8 + run.thread;
    if (run.thread < 8 && row < w.rows) each(row, fold8(lanes + run.thread, 8));
}

#define AHEAD 6         // loads of weights under way
#define AHEAD_MOST 8    // and of a long product, except the head
#define EARLY_TAPS 4    // of the elements of a row, whose convolution comes early

// What a thread has asked for before the barrier after which it is used: weights of a product, and of the norm or the
// convolution that makes its input, and what its first result is added to; and after the barrier, elements of that input. What is
// not loaded is zero: a register that some threads do not write would be kept for them from operation to operation.
struct EarlyProduct {
    Words codes[AHEAD_MOST];
    u32 scales[AHEAD_MOST];
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

// How a block takes a quantized product with one row: units of 8 rows, of which a warp makes some lanes of the sum over
// groups, so that a unit is `8 / LANES` warps. In a warp a load is of 4 rows, and the threads of a lane are the two
// fours of rows by the words of a group.
template <u32 DTYPE>
struct Split {
    static constexpr u32 LANES = DTYPE == Q8 ? 2 : 4, WORDS = 8 / (LANES / 2), UNIT_WARPS = GROUP_LANES / LANES;
    static constexpr u32 SLOTS = WARPS / UNIT_WARPS, ROUNDS = PARTIALS / (64 * SLOTS), TILE_BYTES = DTYPE == Q8 ? 512 : 256;

    // Of a thread.
    u32 slot, four, word, sum_lane, row;  // `row` of a unit whose sum it has in the end

    __device__ Split(u32 thread) {
        u32 warp = thread / 32, lane = thread % 32;
        slot = warp / UNIT_WARPS, four = lane % 2, word = lane / 2 % WORDS;
        sum_lane = warp % UNIT_WARPS * LANES + lane / (2 * WORDS);
        row = four * 4 + word % 2 * 2 + word / 2 % 2;
    }
};

// What a thread loads of a product: in units an even number of blocks apart, the groups of its lane, one after another. The slots have a
// unit each, or, where that makes fewer loads, all the same one and a share of its lanes' groups each (`shared`).
template <u32 DTYPE>
struct Loads {
    using S = Split<DTYPE>;
    S own;
    u32 first, units, groups, per_unit, rounds;  // `rounds`: units of a block, at most
    bool shared;
    u32 of_unit, count;  // loads of a unit, and of all
    u32 ahead;           // those under way
    u32 unit;            // the first unit of the thread
    const u8* codes;
    const u16* scales;

    __device__ Loads(Run run, u32 passed, const Product& p)
        : own(run.thread), first(first_unit(passed)), units(div_up(p.w.rows, 8)), groups(div_up(p.w.cols, GROUP)),
          per_unit(div_up(groups, GROUP_LANES)), rounds(div_up(units, blocks())), shared(shares()),
          of_unit(shared ? div_up(per_unit, S::SLOTS) : per_unit),
          count(shared ? rounds * of_unit : div_up(rounds, S::SLOTS) * per_unit),
          ahead(count > 2 * AHEAD && !p.head ? AHEAD_MOST : AHEAD),
          unit(shared ? first : first + own.slot * blocks()) {
        tile_row_at(run.p().model, p.w, unit / 2, scales, codes);
        u32 group = own.sum_lane + (shared ? own.slot * GROUP_LANES : 0);
        codes = settled(codes + group * S::TILE_BYTES + own.word * 64 + unit % 2 * 32 + own.four * 16);
        scales = settled(scales + group * 16 + unit % 2 * 8 + own.row);
    }

    __device__ bool shares() const {
        bool is_less = rounds * div_up(per_unit, S::SLOTS) < div_up(rounds, S::SLOTS) * per_unit;
        return rounds * per_unit * 64 <= PARTIALS && (rounds == 1 || (is_less && blocks() % 2 == 0));
    }
    // Blocks between the units of a thread.
    __device__ u32 apart() const { return shared ? blocks() : S::SLOTS * blocks(); }
    // Row of the block's result `n`.
    __device__ u32 result(u32 n) const { return (first + n / 8 * blocks()) * 8 + n % 8; }
    // Number in its lane of the group that load `n` of a unit brings; and among all.
    __device__ u32 step(u32 n) const { return shared ? own.slot + n * S::SLOTS : n; }
    __device__ u32 group(u32 n) const { return own.sum_lane + step(n) * GROUP_LANES; }
    __device__ bool has_group(u32 n) const { return (!shared && groups % GROUP_LANES == 0) || group(n) < groups; }
};

// Goes through the loads of a thread by steps of constant length.
template <u32 DTYPE>
struct Cursor {
    using S = Split<DTYPE>;
    const u8* codes;
    const u16* scales;
    u32 unit, n;  // load of the unit

    // At load `at` of all.
    __device__ Cursor(const Loads<DTYPE>& loads, u32 at)
        : codes(loads.codes), scales(loads.scales), unit(loads.unit), n(0) {
        for (u32 round = 0; round < at / loads.of_unit; round++) next_unit(loads);
        n = at % loads.of_unit;
        codes += n * stride(loads) * S::TILE_BYTES, scales += n * stride(loads) * 16;
    }

    __device__ static u32 stride(const Loads<DTYPE>& loads) { return (loads.shared ? S::SLOTS : 1) * GROUP_LANES; }

    __device__ void next_unit(const Loads<DTYPE>& loads) {
        u64 tiles = (u64)(loads.apart() / 2) * loads.groups;
        codes += tiles * S::TILE_BYTES, scales += tiles * 16, unit += loads.apart();
    }

    __device__ void load(const Loads<DTYPE>& loads, Words& words, u32& scale) const {
        words = {0, 0, 0, 0}, scale = 0;
        if (unit >= loads.units || !loads.has_group(n)) return;
        words = load_words(codes);
        scale = load_half(scales);
    }

    __device__ void advance(const Loads<DTYPE>& loads) {
        codes += stride(loads) * S::TILE_BYTES, scales += stride(loads) * 16;
        if (++n < loads.of_unit) return;
        codes -= loads.of_unit * stride(loads) * S::TILE_BYTES, scales -= loads.of_unit * stride(loads) * 16, n = 0;
        next_unit(loads);
    }
};

// The dot of one group and row, from the words of 4 rows in each of the threads that share the group.
template <u32 DTYPE>
__device__ INLINE int group_dot(const Words& w, const RowCodes& x, u32 group, u32 word) {
    const u32* codes = x.of_group(group);
    int d[4];
    if (DTYPE == Q8) {
        int c = (int)codes[word];
        d[0] = __dp4a((int)w.x, c, 0), d[1] = __dp4a((int)w.y, c, 0);
        d[2] = __dp4a((int)w.z, c, 0), d[3] = __dp4a((int)w.w, c, 0);
    } else {
        int low = (int)codes[2 * word], high = (int)codes[2 * word + 1];
        auto dot = [&](u32 v) { return __dp4a((int)(v & 0x0f0f0f0fu), low, __dp4a((int)(v >> 4 & 0x0f0f0f0fu), high, 0)); };
        d[0] = dot(w.x), d[1] = dot(w.y), d[2] = dot(w.z), d[3] = dot(w.w);
    }
    bool upper = word & 1, odd = word & 2;
    int a = (upper ? d[2] : d[0]) + __shfl_xor_sync(FULL, upper ? d[0] : d[2], 2);
    int b = (upper ? d[3] : d[1]) + __shfl_xor_sync(FULL, upper ? d[1] : d[3], 2);
    a = (odd ? b : a) + __shfl_xor_sync(FULL, odd ? a : b, 4);
    if (DTYPE == Q8) a += __shfl_xor_sync(FULL, a, 8);
    return DTYPE == Q4 ? a - 8 * x.sums[(u64)group * x.stride] : a;
}

// `each(n, term, ends)` for what the groups of a thread add to their lanes, in order: load `n` of a unit brought the group, and it may
// be the unit's last; `pause(last)` for all threads of the block after at most `COUNT` of them, the last time with `last`. The first
// have been asked for; registers of those that are done get the one `COUNT` further on.
template <u32 DTYPE, u32 COUNT, class Each, class Pause>
__device__ INLINE void group_terms_ahead(const Loads<DTYPE>& loads, const Input& in, EarlyProduct& early, Each each, Pause pause) {
    Cursor<DTYPE> next(loads, COUNT);
    u32 n = 0;
    for (u32 base = 0; base < loads.count; base += COUNT) {
#pragma unroll
        for (u32 j = 0; j < COUNT; j++) {
            if (base + j >= loads.count) break;
            // What was not loaded, and units beyond the last, come to nothing that is used.
            u32 g = loads.has_group(n) ? loads.group(n) : 0;
            int dot = group_dot<DTYPE>(early.codes[j], in.codes, g, loads.own.word);
            float scales = half_to_float((u16)early.scales[j]) * in.codes.scales[(u64)g * in.codes.stride];
            if (loads.count > COUNT) {
                if (base + j + COUNT < loads.count) next.load(loads, early.codes[j], early.scales[j]);
                next.advance(loads);
            }
            bool ends = n + 1 == loads.of_unit;
            each(n, (float)dot * scales, ends);
            n = ends ? 0 : n + 1;
        }
        pause(base + COUNT >= loads.count);
    }
}

// The number of those under way is a constant, for each has its register.
template <u32 DTYPE, class Each, class Pause>
__device__ INLINE void group_terms(const Loads<DTYPE>& loads, const Input& in, EarlyProduct& early, Each each, Pause pause) {
    if (loads.ahead == AHEAD_MOST) group_terms_ahead<DTYPE, AHEAD_MOST>(loads, in, early, each, pause);
    else group_terms_ahead<DTYPE, AHEAD>(loads, in, early, each, pause);
}

// `w · in` for one row where all slots share a unit: what groups add to their lanes goes to shared memory `[unit][step][lane][row]`, and a
// warp adds up a unit's in order.
template <u32 DTYPE>
__device__ INLINE void product_shared(Run run, const Product& p, const Input& in, const Loads<DTYPE>& loads, EarlyProduct& early) {
    const Split<DTYPE>& own = loads.own;
    float* terms = run.shared().partials;
    u32 unit_len = loads.per_unit * 64;
    group_terms(loads, in, early, [&](u32 n, float term, bool ends) {
        if (loads.has_group(n) && own.word < 4) terms[(loads.step(n) * GROUP_LANES + own.sum_lane) * 8 + own.row] = term;
        if (ends) terms += unit_len;
    }, [](bool) {});
    sync_block();
    // A thread has a row and two lanes, four apart.
    u32 r = run.lane() % 8, lane = run.lane() / 8;
    for (u32 unit = run.warp(); unit < loads.rounds; unit += WARPS) {
        const float* of_unit = run.shared().partials + unit * unit_len;
        float sums[2] = {};
#pragma unroll 8
        for (u32 n = 0; n < loads.per_unit; n++)
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                u32 l = lane + half * 4;
                if (loads.groups % GROUP_LANES == 0 || n * GROUP_LANES + l < loads.groups) sums[half] += of_unit[(n * GROUP_LANES + l) * 8 + r];
            }
        // As `fold8`.
        float sum = sums[0] + sums[1];
        sum += __shfl_xor_sync(FULL, sum, 16);
        sum += __shfl_xor_sync(FULL, sum, 8);
        u32 i = loads.result(unit * 8 + r);
        if (lane > 0 || i >= p.w.rows) continue;
        finish_asked(run, p.to, i, sum, p.settled && unit == run.warp(), early.y);
    }
}

// `w · in` for one row; the first weights have been asked for.
template <u32 DTYPE>
__device__ INLINE void product_one(Run run, u32 passed, const Product& p, const Input& in, EarlyProduct& early) {
    using S = Split<DTYPE>;
    Loads<DTYPE> loads(run, passed, p);
    if (loads.shared) return product_shared(run, p, in, loads, early);
    const S& own = loads.own;
    float *partials = run.shared().partials, sum = 0.0f;
    u32 round = 0, done = 0;  // rounds of units: since the last pause with results, and before it
    group_terms(loads, in, early, [&](u32 n, float term, bool ends) {
        if (loads.has_group(n)) sum += term;
        if (!ends) return;
        if (own.word < 4) partials[(round * S::SLOTS + own.slot) * 64 + own.sum_lane * 8 + own.row] = sum;
        sum = 0.0f, round++;
    }, [&](bool last) {
        // While there is room for those that come until the next pause.
        if (!last && round + loads.ahead / loads.of_unit + 1 <= S::ROUNDS) return;
        sync_block();
        for (u32 n = run.thread; n < round * S::SLOTS * 8; n += THREADS) {
            u32 i = loads.result(done * S::SLOTS * 8 + n);
            if (i >= p.w.rows) continue;
            float v = fold8(partials + n / 8 * 64 + n % 8, 8);
            finish_asked(run, p.to, i, v, p.settled && done == 0 && n == run.thread, early.y);
        }
        done += round, round = 0;
        if (!last) sync_block();
    });
}

template <u32 DTYPE>
__device__ INLINE void ask_codes(Run run, u32 passed, const Product& p, EarlyProduct& early) {
    Loads<DTYPE> loads(run, passed, p);
#pragma unroll
    for (u32 j = 0; j < AHEAD_MOST; j++) {
        early.codes[j] = {0, 0, 0, 0}, early.scales[j] = 0;
        if (j < loads.ahead && j < loads.count) Cursor<DTYPE>(loads, j).load(loads, early.codes[j], early.scales[j]);
    }
    // The result that the thread finishes first.
    u32 i = loads.result(loads.shared ? run.warp() * 8 + run.lane() % 8 : run.thread);
    early.y = {};
    if (p.settled && i < p.w.rows) early.y = ask(run, p.to.before, 0, i);
}

// Asks for the first weights of a product with one row, and for what its input is normed with.
__device__ INLINE void ask_product(Run run, u32 passed, const Product& p, EarlyProduct& early) {
    if (comes_ahead(p)) early.y = ask_before(run, passed, p);
    else if (p.w.dtype == Q8) ask_codes<Q8>(run, passed, p, early);
    else if (p.w.dtype == Q4) ask_codes<Q4>(run, passed, p, early);
    if (p.input != FUSED || p.source.len > ROW_MOST) return;
#pragma unroll
    for (u32 k = 0; k < ROW_ELEMENTS && k * THREADS < p.source.len; k++) {
        bool has = row_element(run, k) < p.source.len;
        if (!has_taps(p.source)) early.norm[k] = has ? norm_weight(run, p.source.norm, run.thread, k * THREADS) : 0.0f;
        if (!has_taps(p.source) || k >= EARLY_TAPS) continue;
        early.taps[k] = {};
        if (has) load_taps(run, p.source.conv, Only(), run.thread, k * THREADS, early.taps[k]);
    }
}

// The input of row `row` of a product, made by `make(from, codes, floats)` or before.
template <class Make>
__device__ INLINE Input product_input(Run run, const Product& p, u32 row, Make make) {
    Codes c = p.codes;
    if (p.input == PREPARED) {
        RowCodes codes = {nullptr, nullptr, nullptr, 0, false};
        if (is_quantized(p.w)) codes = scratch_codes(run, c, row);
        return {codes, run.at(c.floats, row)};
    }
    RowCodes codes = shared_codes(run);
    bool quantized = is_quantized(p.w);
    // What is posted is the input of one product.
    if (p.source.a.is_posted() && (p.w.dtype == Q8 || comes_ahead(p))) codes.sums = nullptr;
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
            float v = early.x[k].value;
            if (!has_taps(s)) return v;
            if (k < EARLY_TAPS) return apply_taps(s.conv, early.taps[k], v);
            Taps taps;
            load_taps(run, s.conv, Only(), run.thread, k * THREADS, taps);
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

// Groups on their way: one with few tiles takes less time than its loads. `ONCE`: a block has one unit at most, of which all are.
template <u32 WIDE, bool ONCE>
struct MmaAhead {
    static constexpr u32 GROUPS = ONCE ? 6 : WIDE == 1 ? 3 : 1;
};

// Tensor cores: a warp has a lane of the sum over groups, so all warps go through the groups by themselves; then the lanes are
// folded in shared memory. What comes next is asked for as soon as its place is free; the first weights before the barrier.
//
// Which of its words a thread multiplies first does not matter, nor do the numbers of rows: four of weights lie side by side.
// The accumulator of a group starts at the bits of 1.5 · 2^23, so the sum of products, below 2^22, comes out as a float.
template <u32 WIDE, bool ONCE, class Wait>
__device__ INLINE void product_mma(Run run, u32 passed, const Product& p, u32 rows, Wait wait) {
    using Unit = MmaUnit<WIDE>;
    // Numbers of a lane in shared memory, of 8 rows of activations, which lie 4 apart.
    constexpr u32 LANE = 8 * (MMA_WEIGHTS + 4), PLACE = GROUP_LANES * LANE;
    // Room beyond the partial sums is asked for by the host.
    static_assert(MMA_COLUMNS * PLACE <= PARTIALS + 13312, "no room for lanes");
    constexpr u32 GROUPS_AHEAD = MmaAhead<WIDE, ONCE>::GROUPS;
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
        // A warp's load of words j is of whole lines, which one of words 2j is not.
        c = settled(c + (u64)g * tile_bytes(p.w) + own_row % 16 * 4 + (p.w.dtype == Q8 && !p.codes.paired ? 2 * j : j) * 64);
        to.low = load_words(c);
        if (p.w.dtype == Q8) to.high = load_words(c + (p.codes.paired ? 256 : 64));
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
        return Rows{settled(codes + (g * p.codes.stride + first + r) * 8 + 2 * j),
                    settled(row_scales + (g * p.codes.stride + first + 2 * j)), has_rows ? rows - first : 0};
    };
    auto load_rows = [&](const Rows& from, u32 k, MmaRows& to) {
        // Of the last tile there is room for whole 8 rows.
        if (8 * k >= from.count) return;
        to.codes = *(const u64*)(from.codes + k * 64);
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
                if (!ONCE && unit_after < units) load_weights(unit_after, g_after, weights[n]);
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
                    if (!ONCE) load_rows(from, k, acts[n][k]);
                }
            }
        }
        // Of the results whose lanes the thread folds.
        u32 n = run.thread / MMA_WEIGHTS, slot = run.thread % MMA_WEIGHTS, i = unit % columns * Unit::WEIGHTS + slot % Unit::WEIGHTS;
        u32 first = unit / columns * Unit::ROWS + slot / Unit::WEIGHTS * 8 * WIDE + n;
        auto has_result = [&](u32 k) { return first + k * 8 < rows && i < p.w.rows; };
        float before[WIDE];
        EarlyThrough<WIDE> early;
        if (p.through.first != NONE) early.ask(run, p.through, first, rows, i);
#pragma unroll
        for (u32 k = 0; k < WIDE; k++) before[k] = p.to.kind == ADD && has_result(k) ? value_at(run, p.to.before, first + k * 8, i) : 0.0f;
        // Those of the unit before have been read.
        sync_block();
        float* lanes = run.shared().partials;
#pragma unroll
        for (u32 k = 0; k < WIDE; k++)
#pragma unroll
            for (u32 e = 0; e < 2; e++)
                *(Floats*)(lanes + k * PLACE + sum_lane * LANE + (2 * j + e) * (MMA_WEIGHTS + 4) + own) =
                    Floats{sums[0][k][e], sums[0][k][e + 2], sums[1][k][e], sums[1][k][e + 2]};
        sync_block();
        float results[WIDE];
#pragma unroll
        for (u32 k = 0; k < WIDE; k++) results[k] = fold8(lanes + k * PLACE + n * (MMA_WEIGHTS + 4) + slot, LANE);
#pragma unroll
        for (u32 k = 0; k < WIDE; k++) {
            u32 row = first + k * 8;
            if (p.through.first == NONE) {
                if (has_result(k)) finish(run, p.to, row, i, results[k], before[k]);
                continue;
            }
            float v = has_result(k) ? early.finish(run, p.through, p.to, row, k, i, results[k]) : 0.0f;
            // A warp has a group of one row.
            u32 place = i - p.through.first, len = p.through.codes_len;
            if (p.through.codes.codes != NONE && row < rows && i >= p.through.first && place / GROUP < div_up(len, GROUP))
                quantize_group(run, scratch_codes(run, p.through.codes, row), place / GROUP, place < len ? v : 0.0f);
        }
    }
}

template <u32 WIDE, class Wait>
__device__ INLINE void product_mma(Run run, u32 passed, const Product& p, u32 rows, Wait wait) {
    if constexpr (WIDE == 1) {
        bool has_all = div_up(div_up(p.w.cols, GROUP), GROUP_LANES) <= MmaAhead<WIDE, true>::GROUPS;
        if (MmaUnit<WIDE>::count(p.w, rows) <= blocks() && has_all) return product_mma<WIDE, true>(run, passed, p, rows, wait);
    }
    product_mma<WIDE, false>(run, passed, p, rows, wait);
}

template <class Wait>
__device__ INLINE void product_mma(Run run, u32 passed, const Product& p, u32 rows, Wait wait) {
    u32 wide = MmaUnit<4>::time(p.w, rows), middle = MmaUnit<2>::time(p.w, rows), narrow = MmaUnit<1>::time(p.w, rows);
    if (wide <= middle && wide <= narrow) product_mma<4>(run, passed, p, rows, wait);
    else if (middle <= narrow) product_mma<2>(run, passed, p, rows, wait);
    else product_mma<1>(run, passed, p, rows, wait);
}

template <u32 DTYPE>
__device__ INLINE void product_quantized(Run run, u32 passed, const Product& p, const Input& in, EarlyProduct& early) {
    if (comes_ahead(p)) product_pieces<DTYPE>(run, passed, p, in, early.y);
    else product_one<DTYPE>(run, passed, p, in, early);
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
        u32 units = div_up(p.w.rows, comes_ahead(p) ? TILE_ROWS : unit_rows(p.w)), owners = units < blocks() ? units : blocks();
        bool is_owner = first_unit(passed) < owners, shifts = p.shift.window != NONE && is_owner;
        bool early_shift = shifts && p.shift.width <= TAPS;
        u32 channel = first_unit(passed) * THREADS + run.thread;
        if (p.source.a.is_posted() && !is_owner) {
            // Whatever comes next, all threads of a block are at one operation or at two side by side.
            sync_block();
            return wait();
        }
        EarlyProduct early;
        ask_product(run, passed, p, early);
        if (early_shift) ask_shift(run, p.shift, channel, early.shift);
        wait();
        ask_input(run, p, early);
        come_all(run, [&](auto visit) {
            // All that is read of what others write anew when they have this block's results, before these are there.
            if (early_shift && channel < p.shift.channels) visit(p.shift.x, channel, 0, early.shift.x);
            if (!is_asked_for(p)) return;
#pragma unroll
            for (u32 k = 0; k < ROW_ELEMENTS; k++)
                if (row_element(run, k) < p.source.len) visit(asked_row(p.source), run.thread, k * THREADS, early.x[k]);
        });
        Input in = early_input(run, p, early);
        if (shifts) shift_window(run, p.shift, channel + (early_shift ? owners * THREADS : 0), owners * THREADS);
        if (shifts && !is_quantized(p.w)) sync_block();
        if (p.w.dtype == Q8) product_quantized<Q8>(run, passed, p, in, early);
        else if (p.w.dtype == Q4) product_quantized<Q4>(run, passed, p, in, early);
        else product_units(run, passed, p, in, 0);
        if (early_shift) shift_channel(run, p.shift, channel, early.shift);
    }
}

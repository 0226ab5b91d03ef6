// Selective scans of a prompt.
#pragma once
#include "scan_one.cuh"

// What a token reads of its block, by head: what is left, after it, of the state and of the tokens up to it, and that times
// `C · B` of each.
struct alignas(16) HeadRead {
    float part[HELD], w[HELD], left, unused[3];
};

__device__ INLINE const HeadRead& head_read(Run run, const Scan& p, u64 row, u32 head) {
    return ((const HeadRead*)run.at(p.reads, row))[head];
}

// A row's token in its block.
struct InBlock {
    u32 sequence, row, time, place;

    __device__ InBlock(Run run, u32 row)
        : sequence(run.sequence(row)), row(row), time(run.time(row)), place((run.position(sequence) + time) % HELD) {}
    // Whether token `token` up to it was held before, and its row if not.
    __device__ bool held(u32 token) const { return place - token > time; }
    __device__ u32 row_of(u32 token) const { return row - (place - token); }
};

#define WEIGH_ROWS 4  // that a block weighs at once, if there are so many

// Heads `first` to `end`.
struct HeadSpan {
    u32 first, end;

    __device__ bool has(u32 head) const { return first <= head && head < end; }
};

// `HeadRead` of `count` rows from `first` on, by all threads: of heads `heads(k)` of the `k`-th of them, `most` at most, to `to(k, head)`. `room`:
// [count][n_groups][HELD] and [count][most][HELD] floats.
template <class Heads, class To>
__device__ INLINE void weigh_rows(Run run, const Scan& p, float* room, u32 first, u32 count, u32 most, Heads heads, To to) {
    float *dots = room, *keeps = dots + count * p.n_groups * HELD;
    u32 n = p.d_state, j = run.half_warp() % HELD, of_group = p.heads / p.n_groups;
    for (u32 k = run.half_warp() / HELD; k < count * p.n_groups; k += HALVES / HELD) {
        InBlock own(run, first + k / p.n_groups);
        u32 g = k % p.n_groups;
        HeadSpan span = heads(k / p.n_groups);
        if (g < span.first / of_group || g > (span.end - 1) / of_group) continue;
        const float* b = own.held(j) ? held_token(run, p, own.sequence, j).b : run.at(p.b, own.row_of(j));
        const float* c = run.at(p.c, own.row) + g * n;
        float sum = 0.0f;
#pragma unroll 8
        for (u32 i = run.half_lane(); j <= own.place && i < n; i += 16) sum += c[i] * b[g * n + i];
        sum = fold16(sum);
        if (run.half_lane() == 0) dots[k * HELD + j] = sum;
    }
    for (u32 i = run.thread; i < count * HELD * most; i += THREADS) {
        u32 token = i / most % HELD, k = i / most / HELD, head = heads(k).first + i % most;
        InBlock own(run, first + k);
        if (token > own.place || !heads(k).has(head)) continue;
        keeps[(k * most + i % most) * HELD + token] = own.held(token) ? held_token(run, p, own.sequence, token).decay[head]
                                                                      : run.at(p.decay, own.row_of(token))[head];
    }
    sync_block();
    for (u32 i = run.thread; i < count * most * (HELD + 1); i += THREADS) {
        // Number 0 is the state, the others are tokens.
        u32 number = i % (HELD + 1), place = i / (HELD + 1) % most, k = i / (HELD + 1) / most, head = heads(k).first + place;
        if (!heads(k).has(head)) continue;
        u32 tokens = InBlock(run, first + k).place + 1;
        float w = 1.0f;
#pragma unroll
        for (u32 t = HELD; t > 0; t--)
            if (t <= tokens && t > number) w *= keeps[(k * most + place) * HELD + t - 1];
        HeadRead& read = to(k, head);
        if (number == 0) {
            read.left = w;
        } else if (number <= tokens) {
            read.w[number - 1] = w;
            read.part[number - 1] = w * dots[(k * p.n_groups + head / of_group) * HELD + number - 1];
        }
    }
    // What is in `room` has been read.
    sync_block();
}

// The same of all rows and heads.
__device__ OUTLINED void op_weigh(Run run, u32 passed, const Scan& p) {
    u32 rows = run.shared().rows, few = div_up(rows, blocks()), at_once = few < WEIGH_ROWS ? few : WEIGH_ROWS;
    for (u32 first = first_unit(passed) * at_once; first < rows; first += blocks() * at_once) {
        u32 count = rows - first < at_once ? rows - first : at_once;
        auto to = [&](u32 k, u32 head) -> HeadRead& { return ((HeadRead*)run.at(p.reads, first + k))[head]; };
        weigh_rows(run, p, run.shared().row, first, count, p.heads, [&](u32) { return HeadSpan{0, p.heads}; }, to);
    }
}

// Each thread gives one half of its first `2 · kept` numbers to the thread `half` lanes away, and adds what it gets to the other.
template <int N>
__device__ INLINE void give_half(Run run, float (&v)[N], int kept, u32 half) {
    bool upper = run.lane() & half;
#pragma unroll
    for (int i = 0; i < kept; i++) {
        float given = __shfl_xor_sync(FULL, upper ? v[i] : v[i + kept], half);
        v[i] = (upper ? v[i + kept] : v[i]) + given;
    }
}

// Sums over the lanes of a half-warp of `N` numbers that each has, 16 at most: a lane gets that of its `16 / N`-th.
template <int N>
__device__ INLINE float fold_many(Run run, float (&v)[N]) {
    u32 half = 8;
#pragma unroll
    for (int kept = N / 2; kept > 0; kept /= 2, half /= 2) give_half(run, v, kept, half);
    float sum = v[0];
    for (; half > 0; half /= 2) sum += __shfl_xor_sync(FULL, sum, half);
    return sum;
}

#define AT_ONCE 8  // numbers of a lane that are folded together

// Whether rows of `n` elements that end a row so long, or are followed there by others of `n`, are aligned fours.
__device__ INLINE bool has_fours(u32 n, u32 stride) { return (n | stride) % 4 == 0; }

// Blocks of tokens in shared memory, where a row is. Two, one of which is on its way, if there is room.
template <int ELEMENTS>
struct ScanRows {
    static constexpr int STAGES = ELEMENTS > 8 ? 1 : 2;
    // Floats of a row, so that a half-warp's elements of two beside each other lie in different banks.
    static constexpr int ROW = 16 * ELEMENTS + (ELEMENTS > 1 ? 16 : 0);
    float b[STAGES][HELD][ROW], c[STAGES][HELD][ROW];
    float h[SCAN_CHANNELS][ROW];  // states of the channels

    // What lies beyond `n` elements is zero.
    __device__ void clear(Run run, u32 n) {
        u32 rest = 16 * ELEMENTS - n;
        for (u32 i = run.thread; i < rest * (2 * STAGES * HELD + SCAN_CHANNELS); i += THREADS)
            b[0][0][i / rest * ROW + n + i % rest] = 0.0f;
    }
    // B and C of the rows from `row` on, as tokens `first` to `end`: by the second half of the threads, 16 a token.
    __device__ void bring(Run run, const Scan& p, u32 group, u64 row, u32 first, u32 end, u32 stage) {
        u32 n = p.d_state, i = run.half_warp() % HELD, t = first + i;
        if (t >= end) return;
        const float *from_b = run.at(p.b, row + i) + group * n, *from_c = run.at(p.c, row + i) + group * n;
        if (has_fours(n, p.b.stride | p.c.stride)) {
#pragma unroll
            for (int k = 0; k < (ELEMENTS + 3) / 4; k++) {
                u32 x = 64 * k + 4 * run.half_lane();
                if (x >= n) break;
                copy_async(&b[stage][t][x], from_b + x);
                copy_async(&c[stage][t][x], from_c + x);
            }
        } else {
            for (u32 x = run.half_lane(); x < n; x += 16) b[stage][t][x] = from_b[x], c[stage][t][x] = from_c[x];
        }
    }
};

// Four lanes of a sum over elements in each of four threads: `sums` += `a` · `b`, element by element, and the fold of them all.
__device__ INLINE void add_products(float* sums, const Floats& a, const Floats& b) {
    sums[0] += a.x * b.x, sums[1] += a.y * b.y, sums[2] += a.z * b.z, sums[3] += a.w * b.w;
}

__device__ INLINE float fold_fours(float (&sums)[4]) {
#pragma unroll
    for (int half = 2; half > 0; half /= 2)
#pragma unroll
        for (int i = 0; i < 4; i++) sums[i] += __shfl_xor_sync(FULL, sums[i], half);
    return (sums[0] + sums[2]) + (sums[1] + sums[3]);
}

// A block of tokens as the channels of a unit see them. Of what the next block changes there are two.
struct ScanTokens {
    alignas(16) float sums[HELD][SCAN_CHANNELS];  // C · h
    float u[2][HELD][SCAN_CHANNELS];  // dt · x
    float left_u[2][HELD][SCAN_CHANNELS], left[2][SCAN_CHANNELS];  // what is left of u and of the state after the last token
    float keep[2][HELD][SCAN_CHANNELS];  // dt, with a decay per element
};

__device__ INLINE ScanTokens& scan_tokens(Run run) {
    static_assert(sizeof(ScanTokens) <= PARTIALS * sizeof(float), "no room for tokens");
    return *(ScanTokens*)run.shared().partials;
}

// Tokens `first` to `end` of a block, which begin with token `start` of a launch's of their sequence.
struct Span {
    u32 start, first, end;

    __device__ Span(u32 start, u32 first, u32 count)
        : start(start), first(first), end(first + count - start < HELD ? first + count - start : HELD) {}
    __device__ bool has(u32 place) const { return first <= place && place < end; }
    __device__ u32 next() const { return start + end - first; }
};

// What the thread of a token and a channel loads of them. With a decay per head: what the token reads of its block, and what is left
// of it and of the state after the block's last one.
struct TokenOf {
    Floats part[HELD / 4];
    float read_left, x, dt, z, w, left;

    __device__ float u() const { return dt * x; }
};

__device__ INLINE TokenOf load_token(Run run, const Scan& p, u32 sequence, const Span& span, u32 place, u32 channel) {
    TokenOf token = {};
    u32 head = channel / p.head_dim;
    u64 row = (u64)sequence * run.p().count + span.start - span.first;
    if (span.has(place)) {
        token.x = load_float(run.at(p.x, row + place) + channel);
        token.dt = load_float(run.at(p.dt, row + place) + head);
        if (p.z.start != NONE) token.z = load_float(run.at(p.z, row + place) + channel);
        if (!p.time.per_element) {
            const HeadRead& read = head_read(run, p, row + place, head);
#pragma unroll
            for (int t = 0; t < HELD / 4; t++) token.part[t] = load_floats(read.part + 4 * t);
            token.read_left = load_float(&read.left);
        }
    } else if (place < span.first) {
        // As if dt were one.
        token.x = load_float(held_token(run, p, sequence, place).u + channel);
        token.dt = 1.0f;
    }
    if (!p.time.per_element && span.end == HELD) {
        const HeadRead& last = head_read(run, p, row + HELD - 1, head);
        token.w = load_float(last.w + place);
        token.left = load_float(&last.left);
    }
    return token;
}

// What makes the result of a channel of its sum over the state.
struct Outcome {
    float skip, gate;

    __device__ Outcome(bool has_gate, float d, float x, float z) : skip(d * x), gate(has_gate ? silu(z) : 1.0f) {}
    __device__ Outcome(const Scan& p, float d, float x, float z) : Outcome(p.z.start != NONE, d, x, z) {}
    __device__ float of(float sum) const { return (sum + skip) * gate; }
    __device__ void store(Run run, const Scan& p, u64 row, u32 channel, float sum) const { run.at(p.y, row)[channel] = of(sum); }
};

// `C · h` of a token and four channels by four threads, each with four elements of every sixteen: a thread gets that of the
// channel of its number.
template <int ELEMENTS>
__device__ INLINE float read_states(Run run, const ScanRows<ELEMENTS>& rows, u32 stage, u32 token, u32 quad) {
    float sums[16] = {};  // four lanes of the sum over elements of each channel
#pragma unroll
    for (int e = 0; e < ELEMENTS; e++) {
        u32 i = 16 * e + run.lane() % 4 * 4;
        Floats c = *(const Floats*)&rows.c[stage][token][i];
#pragma unroll
        for (int k = 0; k < 4; k++) add_products(sums + 4 * k, c, *(const Floats*)&rows.h[quad + k][i]);
    }
    // Two of the four channels go, then one of two.
    give_half(run, sums, 8, 2);
    give_half(run, sums, 4, 1);
    return (sums[0] + sums[2]) + (sums[1] + sums[3]);
}

// The states of four channels take a block in, 32 elements of each by a warp.
template <int ELEMENTS>
__device__ INLINE void take_in(Run run, ScanRows<ELEMENTS>& rows, const ScanTokens& tokens, u32 quad, u32 first, u32 stage, u32 turn) {
    u32 i = first + run.lane();
    if (ELEMENTS < 2 && i >= 16 * ELEMENTS) return;
    float h[4];
#pragma unroll
    for (int c = 0; c < 4; c++) h[c] = rows.h[quad + c][i] * tokens.left[turn][quad + c];
#pragma unroll
    for (int t = 0; t < HELD; t++) {
        float b = rows.b[stage][t][i];
#pragma unroll
        for (int c = 0; c < 4; c++) h[c] += tokens.left_u[turn][t][quad + c] * b;
    }
#pragma unroll
    for (int c = 0; c < 4; c++) rows.h[quad + c][i] = h[c];
}

// One unit of channels, with a decay per head, through all tokens of a sequence, in blocks as they are held. Half of the warps have
// the states: they read them for the tokens of a block, then let them take it in. Meanwhile the others ask for the next block,
// then finish the tokens of this one, a thread a token and a channel. Each half has a loop of its own, so that what one keeps in
// registers is not in the way of the other; they meet at the barriers, which count threads wherever they come from.
template <int ELEMENTS>
struct HeadScan {
    using Rows = ScanRows<ELEMENTS>;
    static constexpr u32 HALF = THREADS / 2, PARTS = ELEMENTS > 1 ? ELEMENTS / 2 : 1;  // warps that take in four channels

    Rows& rows;
    ScanTokens& tokens;
    u32 sequence;
    const Unit& unit;

    __device__ u32 channels() const { return unit.end - unit.first; }
    __device__ static u32 stage(u32 turn) { return Rows::STAGES == 2 ? turn : 0; }

    __device__ void states(Run run, Span span, u32 count) const {
        u32 warp = run.warp(), quads = div_up(channels(), 4), token = run.thread / 4 % HELD, quad = warp / 2 * 4;
        for (u32 turn = 0; span.start < count; turn ^= 1) {
            if (Rows::STAGES == 1) sync_block();
            sync_block();
            if (quad < channels())
                tokens.sums[token][quad + run.lane() % 4] = read_states(run, rows, stage(turn), token, quad);
            sync_block();
            if (span.end == HELD)
                for (u32 i = warp; i < quads * PARTS; i += WARPS / 2)
                    take_in(run, rows, tokens, i / PARTS * 4, i % PARTS * 32, stage(turn), turn);
            span = Span(span.next(), 0, count);
        }
    }

    __device__ void bring(Run run, const Scan& p, u64 first_row, const Span& span, u32 turn) const {
        rows.bring(run, p, unit.group, first_row + span.start, span.first, span.end, stage(turn));
    }

    __device__ void others(Run run, const Scan& p, Span span, u32 count) const {
        u32 place = run.thread / SCAN_CHANNELS % HELD, j = run.thread % SCAN_CHANNELS, channel = unit.channel(j);
        u64 first_row = (u64)sequence * count;
        float d = load_float(run.weights(p.d) + channel);
        TokenOf next;
        auto ask = [&](const Span& span, u32 turn) {
            next = load_token(run, p, sequence, span, place, channel);
            if (Rows::STAGES == 2) bring(run, p, first_row, span, turn);
        };
        ask(span, 0);
        for (u32 turn = 0; span.start < count; turn ^= 1) {
            TokenOf own = next;
            Span after(span.next(), 0, count);
            tokens.u[turn][place][j] = own.u();
            tokens.left_u[turn][place][j] = own.w * own.u();
            if (place == 0) tokens.left[turn][j] = own.left;
            if (Rows::STAGES == 1) {
                sync_block();
                bring(run, p, first_row, span, 0);
            }
            await_copies();
            sync_block();
            if (after.start < count) ask(after, turn ^ 1);
            Outcome outcome(p, d, own.x, own.z);
            sync_block();
            if (span.has(place) && j < channels()) {
                float sum = own.read_left * tokens.sums[place][j];
#pragma unroll
                for (int t = 0; t < HELD; t++) {
                    const Floats& part = own.part[t / 4];
                    float read = t % 4 == 0 ? part.x : t % 4 == 1 ? part.y : t % 4 == 2 ? part.z : part.w;
                    if (t <= (int)place) sum += read * tokens.u[turn][t][j];
                }
                outcome.store(run, p, first_row + span.start - span.first + place, channel, sum);
            }
            span = after;
        }
    }
};

template <int ELEMENTS>
__device__ INLINE void scan_by_head(Run run, const Scan& p, u32 sequence, const Unit& unit) {
    HeadScan<ELEMENTS> scan = {*(ScanRows<ELEMENTS>*)run.shared().row, scan_tokens(run), sequence, unit};
    u32 n = p.d_state, count = run.p().count, len = scan.channels() * n, held = run.position(sequence) % HELD;
    float* states = run.state(sequence, p.state) + (u64)unit.first * n;
    // Those of the unit before have been read.
    sync_block();
    if (n < 16 * ELEMENTS) scan.rows.clear(run, n);
    for (u32 i = run.thread; i < len; i += THREADS) scan.rows.h[i / n][i % n] = states[i];
    for (u32 i = run.thread; i < held * n; i += THREADS)
        scan.rows.b[0][i / n][i % n] = held_token(run, p, sequence, i / n).b[unit.group * n + i % n];
    Span span(0, held, count);
    if (run.thread < scan.HALF) scan.states(run, span, count);
    else scan.others(run, p, span, count);
    sync_block();
    if (held + count >= HELD)
        for (u32 i = run.thread; i < len; i += THREADS) states[i] = scan.rows.h[i / n][i % n];
}

// The same with a decay per element: a half-warp has a channel.
template <int ELEMENTS>
__device__ INLINE void scan_by_element(Run run, const Scan& p, u32 sequence, const Unit& unit) {
    using Rows = ScanRows<ELEMENTS>;
    Rows& rows = *(Rows*)run.shared().row;
    ScanTokens& tokens = scan_tokens(run);
    u32 n = p.d_state, count = run.p().count, own_channel = unit.channel(run.half_warp()), own = run.half_warp();
    bool has_channel = unit.first + own < unit.end, finishes = run.warp() >= WARPS / 2;
    u32 place = run.thread / SCAN_CHANNELS % HELD, j = run.thread % SCAN_CHANNELS, channel = unit.channel(j);
    float h[ELEMENTS], a[ELEMENTS], d = finishes ? run.weights(p.d)[channel] : 0.0f;
    float* state = run.state(sequence, p.state) + (u64)own_channel * n;
    const float* a_log2 = run.weights(p.time.a_log2) + (u64)(own_channel / p.head_dim) * n;
#pragma unroll
    for (int e = 0; e < ELEMENTS; e++) {
        bool has = has_channel && element(run, e) < n;
        h[e] = has ? state[element(run, e)] : 0.0f;
        a[e] = has ? a_log2[element(run, e)] : 0.0f;
    }
    // Those of the unit before have been read.
    sync_block();
    if (n < 16 * ELEMENTS) rows.clear(run, n);
    Span span(0, 0, count);
    u64 first_row = (u64)sequence * count;
    TokenOf next = {};
    auto ask = [&](const Span& span, u32 stage) {
        next = load_token(run, p, sequence, span, place, channel);
        if (Rows::STAGES == 2) rows.bring(run, p, unit.group, first_row + span.start, 0, span.end, stage);
    };
    if (finishes) ask(span, 0);
    for (u32 turn = 0; span.start < count; turn ^= 1) {
        TokenOf token = next;
        u32 stage = Rows::STAGES == 2 ? turn : 0;
        Span after(span.next(), 0, count);
        if (finishes) tokens.u[turn][place][j] = token.u(), tokens.keep[turn][place][j] = token.dt;
        if (Rows::STAGES == 1) {
            sync_block();
            if (finishes) rows.bring(run, p, unit.group, first_row + span.start, 0, span.end, 0);
        }
        await_copies();
        sync_block();
        if (finishes && after.start < count) ask(after, turn ^ 1);
        if (run.warp() < SCAN_CHANNELS / 2) {
#pragma unroll 1
            for (u32 first = 0; first < span.end; first += AT_ONCE) {
                float sums[AT_ONCE] = {};
#pragma unroll
                for (u32 k = 0; k < AT_ONCE; k++) {
                    // Beyond the last token numbers are made and not kept: a branch would keep the compiler from making several at once.
                    u32 t = first + k;
                    float u = tokens.u[turn][t][own], dt = tokens.keep[turn][t][own];
#pragma unroll
                    for (int e = 0; e < ELEMENTS; e++) {
                        float after = exp2_core(dt * a[e]) * h[e] + u * rows.b[stage][t][element(run, e)];
                        h[e] = t < span.end ? after : h[e];
                        sums[k] += rows.c[stage][t][element(run, e)] * h[e];
                    }
                }
                float sum = fold_many(run, sums);
                if (run.lane() % 2 == 0) tokens.sums[first + run.half_lane() / 2][own] = sum;
            }
        }
        sync_block();
        if (finishes && span.has(place) && j < unit.end - unit.first)
            Outcome(p, d, token.x, token.z).store(run, p, first_row + span.start + place, channel, tokens.sums[place][j]);
        span = after;
    }
    if (has_channel) for_elements<ELEMENTS>(run, n, [&](int e, u32 i) { state[i] = h[e]; });
}

template <int ELEMENTS>
__device__ INLINE void scan_blocks(Run run, u32 passed, const Scan& p) {
    // As few channels as make use of all blocks.
    u32 sequences = run.p().sequence_count, most = channels_at_once(p, sequences, SCAN_CHANNELS), units = unit_count(p, most);
    for (u32 i = first_unit(passed); i < units * sequences; i += blocks()) {
        Unit unit = unit_of(p, most, i % units);
        if (p.time.per_element) scan_by_element<ELEMENTS>(run, p, i / units, unit);
        else scan_by_head<ELEMENTS>(run, p, i / units, unit);
    }
}

template <bool MANY, class Wait>
__device__ INLINE void op_scan(Run run, u32 passed, const Scan& p, Wait wait) {
    if constexpr (!MANY) {
        if (p.time.per_element) scan_elements(run, passed, p, wait);
        else scan_heads(run, passed, p, wait);
    } else {
        wait();
        for_states(p.d_state, [&](auto e) { scan_blocks<decltype(e)::COUNT>(run, passed, p); });
    }
}

// The last tokens of a prompt become held ones.
__device__ OUTLINED void op_hold(Run run, u32 passed, const Scan& p) {
    u32 channels = p.heads * p.head_dim, bc = p.n_groups * p.d_state, len = channels + bc + p.heads;
    u32 count = run.p().count, tokens = count < HELD ? count : HELD;
    u64 all = (u64)run.p().sequence_count * tokens * len;
    for (u64 n = grid_thread(run, passed); n < all; n += grid_threads()) {
        u32 i = n % len, sequence = n / len / tokens, t = count - tokens + n / len % tokens;
        u64 row = (u64)sequence * count + t;
        HeldToken token = held_token(run, p, sequence, (run.position(sequence) + t) % HELD);
        if (i < channels) token.u[i] = run.at(p.dt, row)[i / p.head_dim] * run.at(p.x, row)[i];
        else if (i < channels + bc) token.b[i - channels] = run.at(p.b, row)[i - channels];
        else token.decay[i - channels - bc] = run.at(p.decay, row)[i - channels - bc];
    }
}

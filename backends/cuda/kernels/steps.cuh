// Scans of a token of each of several sequences.
#pragma once
#include "scan.cuh"

// A unit of a sequence, if there is one, and the sequence's states.
struct StepUnit {
    bool is_there;
    u32 sequence;
    float* states;
    Unit unit;
};

// The elements from `i` on of a row of `n` one by one, and zeros.
__device__ INLINE Floats load_four(const float* row, u32 n, u32 i) {
    auto one = [&](u32 i) { return i < n ? load_float(row + i) : 0.0f; };
    return {one(i), one(i + 1), one(i + 2), one(i + 3)};
}

// The elements of a thread of four, of a row of `n`, and zeros.
__device__ INLINE Floats load_fours(Run run, const float* row, u32 n, int e, bool has_fours) {
    u32 i = 16 * e + run.thread % 4 * 4;
    if (has_fours) return i < n ? load_floats(row + i) : Floats{0.0f, 0.0f, 0.0f, 0.0f};
    return load_four(row, n, i);
}

// And back, without those beyond.
__device__ INLINE void store_fours(Run run, float* row, u32 n, int e, const Floats& v) {
    u32 i = 16 * e + run.thread % 4 * 4;
    float fours[4] = {v.x, v.y, v.z, v.w};
    if (n % 4 == 0) {
        if (i < n) store_floats(row + i, v);
        return;
    }
#pragma unroll
    for (u32 k = 0; k < 4; k++)
        if (i + k < n) row[i + k] = fours[k];
}

// With a decay per head: four threads have a channel, each four elements of every sixteen, and four tokens of its block. The states come
// to shared memory in pieces: the place of one that has been read is for another one, of the same unit or the next. It holds what a thread
// loads for a channel; `read` makes of it what is left to `finish`, and asks for another one in its place.
template <int ELEMENTS>
struct HeadStep {
    // Fours that a thread has of a piece; pieces of a unit, and those on their way.
    static constexpr int FOURS = ELEMENTS > 4 ? 2 : 1, PIECES = ELEMENTS / FOURS, PLACES = PIECES < 4 ? PIECES : 4;
    static constexpr u32 CHANNELS = THREADS / 4;

    struct Rest {
        Floats part;
        float u[4], x, dt, left, z, d, sum;

        __device__ void load(Run run, const Scan& p, u32 sequence, const Unit& unit) {
            u32 channel = unit.channel(run.thread / 4), head = channel / p.head_dim, own = run.thread % 4 * 4;
            const HeadRead& read = head_read(run, p, sequence, head);
            part = load_floats(read.part + own);
            left = load_float(&read.left);
#pragma unroll
            for (u32 k = 0; k < 4; k++) u[k] = load_float(held_token(run, p, sequence, own + k).u + channel);
            x = load_float(run.at(p.x, sequence) + channel);
            dt = load_float(run.at(p.dt, sequence) + head);
            z = p.z.start != NONE ? load_float(run.at(p.z, sequence) + channel) : 0.0f;
            d = load_float(run.weights(p.d) + channel);
        }
        __device__ void finish(Run run, const Scan& p, u32 sequence, const Unit& unit) {
            u32 place = run.position(sequence) % HELD, channel = unit.channel(run.thread / 4), first = run.lane() & ~3u;
            bool has_channel = unit.first + run.thread / 4 < unit.end;
            float products[4] = {part.x, part.y, part.z, part.w};
#pragma unroll
            for (u32 k = 0; k < 4; k++) {
                if (run.lane() % 4 * 4 + k == place) u[k] = dt * x;
                products[k] *= u[k];
            }
#pragma unroll
            for (u32 j = 0; j < HELD; j++) {
                float other = __shfl_sync(FULL, products[j % 4], first + j / 4);
                if (j <= place) sum += other;
            }
            // The token becomes a held one: what is read of its place meanwhile is not used.
            HeldToken token = held_token(run, p, sequence, place);
            if (has_channel && run.lane() % 4 == 0) {
                Outcome(p, d, x, z).store(run, p, sequence, channel, sum);
                u32 head = channel / p.head_dim;
                token.u[channel] = dt * x;
                if (channel % p.head_dim == 0) token.decay[head] = run.at(p.decay, sequence)[head];
            }
            if (unit.first % group_channels(p) == 0)
                for (u32 i = run.thread; i < p.d_state; i += THREADS)
                    token.b[unit.group * p.d_state + i] = run.at(p.b, sequence)[unit.group * p.d_state + i];
        }
    };

    Floats c[PLACES * FOURS];
    Rest rest;

    // Four elements of a piece, `4 · i` on, of one of the warp's channels, in shared memory. Those that two channels beside each other
    // read at once lie in different banks.
    __device__ static Floats& four_at(Run run, int piece, u32 channel, u32 i) {
        u32 row = 4 * FOURS, side = FOURS > 1 ? channel % 2 * 4 : 0;
        return ((Floats*)run.shared().row)[((piece % PLACES * WARPS + run.warp()) * 8 + channel) * row + (i ^ side)];
    }
    // A warp brings a piece of its channels, line by line of memory, and its threads have theirs of C.
    __device__ void bring(Run run, const Scan& p, const StepUnit& at, int piece) {
        u32 n = p.d_state;
        // All have read what was there.
        __syncwarp();
        if (at.is_there) {
#pragma unroll
            for (u32 k = 0; k < FOURS; k++) {
                u32 channel = (32 * k + run.lane()) / (4 * FOURS), i = (32 * k + run.lane()) % (4 * FOURS), x = 16 * FOURS * piece + 4 * i;
                const float* row = at.states + (u64)at.unit.channel(run.warp() * 8 + channel) * n;
                if (n % 4 == 0 && x < n) copy_async(&four_at(run, piece, channel, i), row + x);
                else four_at(run, piece, channel, i) = load_four(row, n, x);
            }
            const float* row = run.at(p.c, at.sequence) + at.unit.group * n;
#pragma unroll
            for (int e = 0; e < FOURS; e++)
                c[piece % PLACES * FOURS + e] = load_fours(run, row, n, piece * FOURS + e, has_fours(n, p.c.stride));
        }
        // Where there is nothing to copy too: sets are counted.
        end_copies();
    }
    // The first pieces; `load_rest` is for when the operations before have ended.
    __device__ void ask(Run run, const Scan& p, const StepUnit& at) {
#pragma unroll
        for (int piece = 0; piece < PLACES; piece++) bring(run, p, at, piece);
    }
    __device__ void load_rest(Run run, const Scan& p, const StepUnit& at) {
        if (at.is_there) rest.load(run, p, at.sequence, at.unit);
    }
    __device__ Rest read(Run run, const Scan& p, const StepUnit& own, const StepUnit& next) {
        float sums[4] = {};
#pragma unroll
        for (int piece = 0; piece < PIECES; piece++) {
            await_sets<PLACES - 1>();
            __syncwarp();
#pragma unroll
            for (int e = 0; e < FOURS; e++)
                add_products(sums, c[piece % PLACES * FOURS + e], four_at(run, piece, run.lane() / 4, 4 * e + run.lane() % 4));
            if (piece + PLACES < PIECES) bring(run, p, own, piece + PLACES);
            else bring(run, p, next, piece + PLACES - PIECES);
        }
        Rest done = rest;
        done.sum = done.left * fold_fours(sums);
        load_rest(run, p, next);
        return done;
    }
};

// The states of a unit take in the block that a token ends; by the threads of `HeadStep`.
template <int ELEMENTS>
__device__ INLINE void take_in_block(Run run, const Scan& p, u32 sequence, const Unit& unit) {
    constexpr u32 ROW = 16 * ELEMENTS;
    u32 n = p.d_state, channel = unit.channel(run.thread / 4), head = channel / p.head_dim, own = run.thread % 4 * 4;
    float *b = run.shared().row, *state = run.state(sequence, p.state) + (u64)channel * n;  // b: [HELD][ROW]
    const HeadRead& read = head_read(run, p, sequence, head);
    float u[4], left = load_float(&read.left);
    Floats h[ELEMENTS];
#pragma unroll
    for (int e = 0; e < ELEMENTS; e++) h[e] = load_fours(run, state, n, e, n % 4 == 0);
#pragma unroll
    for (u32 k = 0; k < 4; k++) {
        u[k] = own + k < HELD - 1 ? held_token(run, p, sequence, own + k).u[channel] : run.at(p.dt, sequence)[head] * run.at(p.x, sequence)[channel];
        u[k] *= read.w[own + k];
    }
    // What was there has been read.
    sync_block();
    for (u32 i = run.thread; i < HELD * ROW; i += THREADS) {
        u32 t = i / ROW, x = i % ROW;
        const float* row = (t < HELD - 1 ? held_token(run, p, sequence, t).b : run.at(p.b, sequence)) + unit.group * n;
        b[i] = x < n ? row[x] : 0.0f;
    }
    sync_block();
#pragma unroll
    for (int e = 0; e < ELEMENTS; e++) h[e].x *= left, h[e].y *= left, h[e].z *= left, h[e].w *= left;
#pragma unroll 4
    for (u32 j = 0; j < HELD; j++) {
        float own_u = __shfl_sync(FULL, j % 4 == 0 ? u[0] : j % 4 == 1 ? u[1] : j % 4 == 2 ? u[2] : u[3], (run.lane() & ~3u) + j / 4);
#pragma unroll
        for (int e = 0; e < ELEMENTS; e++) {
            Floats four = *(const Floats*)(b + j * ROW + 16 * e + own);
            h[e].x += own_u * four.x, h[e].y += own_u * four.y, h[e].z += own_u * four.z, h[e].w += own_u * four.w;
        }
    }
    if (unit.first + run.thread / 4 >= unit.end) return;
#pragma unroll
    for (int e = 0; e < ELEMENTS; e++) store_fours(run, state, n, e, h[e]);
}

// What the operation before has made are a row's `reads` alone.
template <int ELEMENTS, class Wait>
__device__ INLINE void head_steps(Run run, u32 passed, const Scan& p, Wait wait) {
    using Step = HeadStep<ELEMENTS>;
    u32 units = unit_count(p, Step::CHANNELS), all = units * run.p().sequence_count;
    auto unit_at = [&](u32 index) {
        u32 sequence = index / units;
        float* states = index < all ? run.state(sequence, p.state) : nullptr;
        return StepUnit{index < all, sequence, states, unit_of(p, Step::CHANNELS, index % units)};
    };
    // Zeros as in `EarlyProduct`.
    Step step = {};
    StepUnit first = unit_at(first_unit(passed));
    step.ask(run, p, first);
    wait();
    step.load_rest(run, p, first);
    for (u32 i = first_unit(passed); i < all; i += blocks()) {
        StepUnit own = unit_at(i);
        step.read(run, p, own, unit_at(i + blocks())).finish(run, p, own.sequence, own.unit);
    }
    for (u32 i = first_unit(passed); i < all; i += blocks())
        if (run.position(i / units) % HELD == HELD - 1)
            take_in_block<ELEMENTS>(run, p, i / units, unit_of(p, Step::CHANNELS, i % units));
}

template <class Wait>
__device__ INLINE void op_step(Run run, u32 passed, const Scan& p, Wait wait) {
    for_states(p.d_state, [&](auto e) { head_steps<decltype(e)::COUNT>(run, passed, p, wait); });
}

// What a thread has of one group of a row of `dt_proj` and of its input: the words of codes of both, their scales, the sum of the input's.
struct StepGroup {
    u32 words[8], scale;
    Words low, high;
    float input_scale;
    int sum;

    __device__ void load_weights(Run run, const Elements& p, u32 row, u32 g) {
        const u16* scales;
        const u8* codes;
        tile_row_at(run.p().model, p.dt_proj, row / 16, scales, codes);
#pragma unroll
        for (u32 j = 0; j < 8; j++)
            words[j] = p.dt_proj.dtype == Q8 || j < 4 ? load_codes(codes + (u64)g * tile_bytes(p.dt_proj) + j * 64 + row % 16 * 4) : 0;
        scale = load_half(scales + g * 16 + row % 16);
    }
    __device__ void load_input(Run run, const Elements& p, u32 sequence, u32 g) {
        RowCodes input = scratch_codes(run, p.dt_codes, sequence);
        low = load_bits((const u16*)input.of_group(g)), high = load_bits((const u16*)(input.of_group(g) + 4));
        input_scale = load_float((const float*)input.scales + (u64)g * input.stride);
        sum = p.dt_proj.dtype == Q4 ? input.sums[(u64)g * input.stride] : 0;
    }
    __device__ float term(const Elements& p) const {
        u32 x[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
        return (float)(words_dot(p.dt_proj.dtype, words, x) - 8 * sum) * (half_to_float((u16)scale) * input_scale);
    }
};

// What a thread loads of a channel: what is there before the operation before this one, and then what makes its step of time.
struct StepChannel {
    static constexpr u32 EARLY = 2;  // groups of `dt_proj` that come together

    float x, z, d, dt, bias;
    StepGroup groups[EARLY];

    __device__ void ask(Run run, const Elements& p, u32 sequence, u32 channel) {
        x = load_float(run.at(p.x, sequence) + channel);
        z = p.z.start != NONE ? load_float(run.at(p.z, sequence) + channel) : 0.0f;
        d = load_float(run.weights(p.d) + channel);
        if (p.dt.start != NONE) return;
        bias = load_float(run.weights(p.time.bias) + channel / p.head_dim);
#pragma unroll
        for (u32 g = 0; g < EARLY; g++)
            if (g * GROUP < p.dt_proj.cols) groups[g].load_weights(run, p, channel / p.head_dim, g);
    }
    __device__ void ask_inputs(Run run, const Elements& p, u32 sequence, u32 channel) {
        if (p.dt.start != NONE) {
            dt = load_float(run.at(p.dt, sequence) + channel / p.head_dim);
            return;
        }
#pragma unroll
        for (u32 g = 0; g < EARLY; g++)
            if (g * GROUP < p.dt_proj.cols) groups[g].load_input(run, p, sequence, g);
    }
    __device__ void make_dt(Run run, const Elements& p, u32 sequence, u32 channel) {
        if (p.dt.start != NONE) return;
        float lanes[GROUP_LANES] = {}, decay;
        u32 count = div_up(p.dt_proj.cols, GROUP);
        for (u32 first = 0; first < count; first += GROUP_LANES) {
#pragma unroll
            for (u32 k = 0; k < GROUP_LANES; k++) {
                if (first + k >= count) break;
                StepGroup& own = groups[k % EARLY];
                if (first + k >= EARLY) own.load_weights(run, p, channel / p.head_dim, first + k), own.load_input(run, p, sequence, first + k);
                lanes[k] += own.term(p);
            }
        }
        time_step(p.time, fold8(lanes, 1), bias, 0.0f, dt, decay);
    }
};

// With a decay per element: a warp has 32 channels of a sequence, and a lane has one of them in all but the states. Of those four lanes have
// one, each four elements of every sixteen; so a warp has a quarter of the channels at once.
template <int ELEMENTS>
struct ElementStep {
    // Fours of elements that a lane has at once: of one channel in each of the quarters, or of one channel.
    static constexpr int QUARTERS = ELEMENTS == 1 ? 4 : 1, FOURS = 4 / QUARTERS;

    Floats h[4], a[4], b[4], c[4];
    float* states;  // of the sequence, from the first channel of the unit on

    // Channel `i`; the last one where there is none.
    __device__ static u32 channel(const Elements& p, u32 i) { return p.channels % GROUP == 0 || i < p.channels ? i : p.channels - 1; }
    // The lane's in a quarter of a unit.
    __device__ static u32 place(Run run, int quarter) { return quarter * 8 + run.lane() / 4; }
    __device__ void begin(Run run, const Elements& p, u32 sequence, u32 first) {
        states = run.state(sequence, p.state) + (u64)first * p.d_state;
    }
    // From quarter `quarter` and its four `e` on: states and decays, then what the operation before has made.
    __device__ void ask(Run run, const Elements& p, u32 first, int quarter, int e) {
        u32 n = p.d_state;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            int of = e + k / QUARTERS;
            u32 i = channel(p, first + place(run, quarter + k / FOURS));
            h[k] = load_fours(run, states + (i - first) * n, n, of, n % 4 == 0);
            a[k] = load_fours(run, run.weights(p.time.a_log2) + (u64)(i / p.head_dim) * n, n, of, n % 4 == 0);
        }
    }
    __device__ void ask_inputs(Run run, const Elements& p, u32 sequence, u32 first, int quarter, int e) {
        u32 n = p.d_state;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            // Quarters have the same.
            if (k > 0 && FOURS == 1 && p.n_groups == 1) {
                b[k] = b[0], c[k] = c[0];
                continue;
            }
            int of = e + k / QUARTERS;
            u32 group = channel(p, first + place(run, quarter + k / FOURS)) / (p.channels / p.n_groups);
            b[k] = load_fours(run, run.at(p.b, sequence) + group * n, n, of, has_fours(n, p.b.stride));
            c[k] = load_fours(run, run.at(p.c, sequence) + group * n, n, of, has_fours(n, p.c.stride));
        }
    }
    // Takes a token in and adds what it reads to `sums`, four lanes of the sum over elements for each quarter.
    __device__ void step(Run run, const Elements& p, u32 first, int quarter, int e, const StepChannel& own, float (&sums)[16]) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
            u32 i = place(run, quarter + k / FOURS);
            float dt = __shfl_sync(FULL, own.dt, i), u = __shfl_sync(FULL, own.dt * own.x, i);
            auto after = [&](float a, float h, float b) { return exp2_core(dt * a) * h + u * b; };
            h[k] = {after(a[k].x, h[k].x, b[k].x), after(a[k].y, h[k].y, b[k].y), after(a[k].z, h[k].z, b[k].z), after(a[k].w, h[k].w, b[k].w)};
            add_products(sums + 4 * (quarter + k / FOURS), c[k], h[k]);
            if (p.channels % GROUP == 0 || first + i < p.channels) store_fours(run, states + i * p.d_state, p.d_state, e + k / QUARTERS, h[k]);
        }
    }
};

template <int ELEMENTS, class Wait>
__device__ INLINE void element_steps(Run run, u32 passed, const Elements& p, Wait wait) {
    using Step = ElementStep<ELEMENTS>;
    u32 units = div_up(p.channels, GROUP), all = units * run.p().sequence_count, i = run.warp() * blocks() + first_unit(passed);
    StepChannel own = {};
    Step step = {};
    // The lane's channel of unit `i`; the last one where there is none.
    auto channel_of = [&](u32 i) { return Step::channel(p, i % units * GROUP + run.lane()); };
    auto ask = [&](u32 i) {
        if (i >= all) return;
        own.ask(run, p, i / units, channel_of(i));
        step.begin(run, p, i / units, i % units * GROUP);
        step.ask(run, p, i % units * GROUP, 0, 0);
    };
    ask(i);
    // The states of a second unit come nearer meanwhile.
    u32 second = i + WARPS * blocks();
    if (second < all) come_nearer(run.state(second / units, p.state) + (u64)channel_of(second) * p.d_state);
    wait();
    for (; i < all; i += WARPS * blocks()) {
        u32 sequence = i / units, first = i % units * GROUP, channel = channel_of(i);
        own.ask_inputs(run, p, sequence, channel);
        step.ask_inputs(run, p, sequence, first, 0, 0);
        own.make_dt(run, p, sequence, channel);
        float sums[16] = {};
#pragma unroll
        for (int quarter = 0; quarter < 4; quarter += Step::QUARTERS) {
#pragma unroll 1
            for (int e = 0; e < ELEMENTS; e += Step::FOURS) {
                if (quarter + e > 0) step.ask(run, p, first, quarter, e), step.ask_inputs(run, p, sequence, first, quarter, e);
                step.step(run, p, first, quarter, e, own, sums);
            }
        }
        // Each of four lanes gets a quarter's sum, then each lane its channel's.
        give_half(run, sums, 8, 2);
        give_half(run, sums, 4, 1);
        float sum = (sums[0] + sums[2]) + (sums[1] + sums[3]);
        sum = __shfl_sync(FULL, sum, run.lane() % 8 * 4 + run.lane() / 8);
        bool has_channel = p.channels % GROUP == 0 || first + run.lane() < p.channels;
        float y = has_channel ? Outcome(p.z.start != NONE, own.d, own.x, own.z).of(sum) : 0.0f;
        ask(i + WARPS * blocks());
        if (p.codes.codes != NONE) quantize_group(run, scratch_codes(run, p.codes, sequence), first / GROUP, y);
        else if (has_channel) run.at(p.y, sequence)[channel] = y;
    }
}

template <class Wait>
__device__ INLINE void op_elements(Run run, u32 passed, const Elements& p, Wait wait) {
    for_states(p.d_state, [&](auto e) { element_steps<decltype(e)::COUNT>(run, passed, p, wait); });
}

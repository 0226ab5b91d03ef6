// Scans of a token of each of several sequences.
#pragma once
#include "scan.cuh"

// The elements from `i` on of a row of `n` one by one, and zeros.
__device__ INLINE Floats load_four(const float* row, u32 n, u32 i) {
    auto one = [&](u32 i) { return i < n ? load_float(row + i) : 0.0f; };
    return {one(i), one(i + 1), one(i + 2), one(i + 3)};
}

// The same; with `has_fours` they are aligned.
__device__ INLINE Floats load_fours(const float* row, u32 n, u32 i, bool has_fours) {
    if (has_fours) return i < n ? load_floats(row + i) : Floats{0.0f, 0.0f, 0.0f, 0.0f};
    return load_four(row, n, i);
}

// And back, without those beyond.
__device__ INLINE void store_fours(float* row, u32 n, u32 i, const Floats& v) {
    float fours[4] = {v.x, v.y, v.z, v.w};
    if (n % 4 == 0) {
        if (i < n) store_floats(row + i, v);
        return;
    }
#pragma unroll
    for (u32 k = 0; k < 4; k++)
        if (i + k < n) row[i + k] = fours[k];
}

// Where the elements of a thread of four begin, the `e`-th four of them: each has four of every sixteen.
__device__ INLINE u32 quarter_of(Run run, int e) { return 16 * e + run.lane() % 4 * 4; }

#define STEP_ROWS 2   // sequences whose tokens a block weighs at once
#define STEP_HEADS 32  // heads of each of them, or a unit's
#define STEP_CHANNELS (THREADS / 4)
#define WARP_CHANNELS 8  // of a unit

// Most heads of a sequence that are weighed at once, and most units that have no more of them.
__device__ INLINE u32 step_heads(const Scan& p) {
    u32 of_unit = (STEP_CHANNELS - 1) / p.head_dim + 2, most = of_unit > STEP_HEADS ? of_unit : STEP_HEADS;
    return p.heads < most ? p.heads : most;
}

__device__ INLINE u32 step_units(const Scan& p) {
    u32 most = step_heads(p), of_heads = most < p.heads ? (most - 2) * p.head_dim / STEP_CHANNELS : STEP_ROWS * unit_count(p, STEP_CHANNELS);
    return of_heads > 0 ? of_heads : 1;
}

// Where a sequence's state is, the place of its token among the held ones, and the first of its heads that are weighed.
struct alignas(16) StepSequence {
    float* state;
    u32 place, head;

    __device__ StepSequence(Run run, u32 sequence, u32 head)
        : state(run.state(sequence, 0)), place(run.position(sequence) % HELD), head(head) {}
    __device__ bool ends_block() const { return place == HELD - 1; }
    __device__ float* row(const Scan& p, u32 channel) const { return state + p.state + (u64)channel * p.d_state; }
    __device__ static u32 held_len(const Scan& p) { return p.heads * p.head_dim + p.n_groups * p.d_state + p.heads; }
    __device__ float* held(const Scan& p, u32 token) const { return state + p.held + (u64)token * held_len(p); }
};

// Unit `index` of those of all sequences, if there is one.
struct StepUnit {
    u32 index;

    __device__ static u32 count(const Scan& p) { return unit_count(p, STEP_CHANNELS); }
    __device__ bool is_there() const { return index != NONE; }
    __device__ u32 sequence(const Scan& p) const { return index / count(p); }
    __device__ Unit unit(const Scan& p) const { return unit_of(p, STEP_CHANNELS, index % count(p)); }
    // Number of its group among those of all sequences.
    __device__ u32 group(const Scan& p) const { return sequence(p) * p.n_groups + unit(p).group; }
};

// What comes of a unit for a warp besides its states: u of the held tokens, what the token has, and the decay of its heads.
struct StepRest {
    float u[HELD][WARP_CHANNELS], x[WARP_CHANNELS], z[WARP_CHANNELS], d[WARP_CHANNELS], dt[WARP_CHANNELS], decay[WARP_CHANNELS];
};

// Shared memory of the scan: pieces of states, what else comes of a unit and of the next one, sequences from the first of those that are
// weighed on, what is weighed of them, and room to weigh.
template <int ELEMENTS, int MOST>
struct StepMemory {
    // Fours that a thread has of a piece; pieces of a unit, and places for them, `MOST` at most.
    static constexpr int FOURS = ELEMENTS > 4 ? 2 : 1, PIECES = ELEMENTS / FOURS, PLACES = PIECES < MOST ? PIECES : MOST;

    Floats pieces[PLACES][WARPS][WARP_CHANNELS][4 * FOURS];
    StepRest rests[2][WARPS];
    StepSequence sequences[STEP_ROWS + 1];
    HeadRead reads[1];  // [STEP_ROWS][step_heads]

    __device__ float* room(const Scan& p) { return (float*)(reads + STEP_ROWS * step_heads(p)); }
    // Of head `head` of sequence `k`.
    __device__ HeadRead& read(const Scan& p, u32 k, u32 head) { return reads[k * step_heads(p) + head - sequences[k].head]; }
};

// With a decay per head: four threads have a channel, each four elements of every sixteen, and every fourth token of its block. A warp has its
// channels through all units. What it needs of the next one comes meanwhile, by copies: a loop that waits for its own loads would wait for
// all that are under way.
template <int ELEMENTS, int MOST>
struct HeadStep {
    using Memory = StepMemory<ELEMENTS, MOST>;
    static constexpr int FOURS = Memory::FOURS, PIECES = Memory::PIECES, PLACES = Memory::PLACES;
    // From one place of pieces to the next.
    static constexpr u32 PLACE = WARPS * WARP_CHANNELS * 4 * FOURS;

    // Where a thread puts the first of what it copies of a piece, and has its fours, in the first place.
    Floats *to, *from[FOURS];
    Floats c[ELEMENTS];

    // Four elements of a piece, `4 · i` on, of one of the warp's channels. Those that two channels beside each other read at once lie in
    // different banks.
    __device__ static Floats* four_at(Run run, Memory& memory, u32 channel, u32 i) {
        u32 side = FOURS > 1 ? channel % 2 * 4 : 0;
        return &memory.pieces[0][run.warp()][channel][i ^ side];
    }
    __device__ HeadStep(Run run, Memory& memory) : c{} {
        to = four_at(run, memory, run.lane() / (4 * FOURS), run.lane() % (4 * FOURS));
#pragma unroll
        for (int e = 0; e < FOURS; e++) from[e] = four_at(run, memory, run.lane() / 4, 4 * e + run.lane() % 4);
    }

    // Where a thread's parts of the rows of a unit's states begin.
    struct Rows {
        bool are_there;
        const float* at[FOURS];

        __device__ Rows(Run run, const Scan& p, StepUnit of, const StepSequence& sequence) : are_there(of.is_there()) {
            Unit unit = of.unit(p);
#pragma unroll
            for (u32 k = 0; k < FOURS; k++) {
                u32 channel = unit.channel(run.warp() * WARP_CHANNELS + (32 * k + run.lane()) / (4 * FOURS));
                at[k] = settled(sequence.row(p, channel) + run.lane() % (4 * FOURS) * 4);
            }
        }
    };

    // A warp brings a piece of its channels, line by line of memory.
    __device__ void bring(Run run, const Scan& p, const Rows& rows, int piece) const {
        u32 n = p.d_state, i = run.lane() % (4 * FOURS) * 4, x = 16 * FOURS * piece;
        // All have read what was there.
        __syncwarp();
        if (rows.are_there) {
#pragma unroll
            for (u32 k = 0; k < FOURS; k++) {
                // The channels of both k are on the same side.
                Floats* four = to + piece % PLACES * PLACE + 32 * k;
                if (n % 4 == 0 && x + i < n) copy_async(four, rows.at[k] + x);
                else *four = load_four(rows.at[k] - i, n, x + i);
            }
        }
    }
    __device__ void ask(Run run, const Scan& p, StepUnit of, const StepSequence& sequence) const {
        Rows rows(run, p, of, sequence);
#pragma unroll
        for (int piece = 0; piece < PLACES; piece++) {
            bring(run, p, rows, piece);
            end_copies();
        }
    }
    // The rest, of a unit that is there.
    __device__ static void bring_rest(Run run, const Scan& p, StepUnit of, const StepSequence& sequence, StepRest& to) {
        Unit unit = of.unit(p);
        u32 row = of.sequence(p), first = run.warp() * WARP_CHANNELS, lane = run.lane(), channel = unit.first + first;
        const float *x = run.at(p.x, row), *z = p.z.start != NONE ? run.at(p.z, row) : x, *d = run.weights(p.d);
        const float *dt = run.at(p.dt, row), *decay = run.at(p.decay, row);
        bool has_fours = (p.heads * p.head_dim | StepSequence::held_len(p) | p.x.stride | (p.z.start != NONE ? p.z.stride : 0)) % 4 == 0;
        static_assert(HELD * WARP_CHANNELS == 4 * 32 && WARP_CHANNELS == 8, "a lane has four of u");
        if (has_fours && first + WARP_CHANNELS <= unit.end - unit.first) {
            copy_async(&to.u[lane / 2][lane % 2 * 4], sequence.held(p, lane / 2) + channel + lane % 2 * 4);
            const float* four = lane < 2 ? x : lane < 4 ? z : d;
            if (lane < 6) copy_async(to.x + 4 * lane, four + channel + lane % 2 * 4);
        } else {
            for (u32 i = lane; i < HELD * WARP_CHANNELS; i += 32)
                to.u[i / WARP_CHANNELS][i % WARP_CHANNELS] = sequence.held(p, i / WARP_CHANNELS)[unit.channel(first + i % WARP_CHANNELS)];
            if (lane < WARP_CHANNELS) {
                u32 own = unit.channel(first + lane);
                to.x[lane] = x[own], to.z[lane] = z[own], to.d[lane] = d[own];
            }
        }
        if (lane < 2 * WARP_CHANNELS)
            copy_word_async(to.dt + lane, (lane < WARP_CHANNELS ? dt : decay) + unit.channel(first + lane % WARP_CHANNELS) / p.head_dim);
    }
    __device__ void load_c(Run run, const Scan& p, StepUnit of) {
        u32 n = p.d_state;
        const float* row = run.at(p.c, of.sequence(p)) + of.unit(p).group * n;
#pragma unroll
        for (int e = 0; e < ELEMENTS; e++) c[e] = load_fours(row, n, quarter_of(run, e), has_fours(n, p.c.stride));
    }

    // `C · h` of the thread's channel. The next unit, if there is one, takes this one's places.
    __device__ float read(Run run, const Scan& p, StepUnit own, const StepSequence& sequence, StepUnit next, const StepSequence& next_sequence,
                          StepRest& next_rest) const {
        float sums[4] = {};
        Rows own_rows(run, p, own, sequence), next_rows(run, p, next, next_sequence);
#pragma unroll
        for (int piece = 0; piece < PIECES; piece++) {
            await_sets<PLACES - 1>();
            __syncwarp();
#pragma unroll
            for (int e = 0; e < FOURS; e++) add_products(sums, c[piece * FOURS + e], from[e][piece % PLACES * PLACE]);
            if (piece + PLACES < PIECES) bring(run, p, own_rows, piece + PLACES);
            else bring(run, p, next_rows, piece + PLACES - PIECES);
            if (piece + PLACES == PIECES && next.is_there()) bring_rest(run, p, next, next_sequence, next_rest);
            // Where there is nothing to copy too: sets are counted.
            end_copies();
        }
        return fold_fours(sums);
    }
    // The result of the thread's channel, of what its state gives.
    __device__ static void finish(Run run, const Scan& p, StepUnit of, const StepSequence& sequence, const HeadRead& read, const StepRest& rest, float sum) {
        Unit unit = of.unit(p);
        u32 row = of.sequence(p), own = run.lane() / 4, channel = unit.channel(run.thread / 4), head = channel / p.head_dim, quarter = run.lane() % 4;
        float products[HELD / 4], u = rest.dt[own] * rest.x[own];
#pragma unroll
        for (u32 k = 0; k < HELD / 4; k++) {
            u32 token = 4 * k + quarter;
            products[k] = read.part[token] * (token == sequence.place ? u : rest.u[token][own]);
        }
        sum *= read.left;
#pragma unroll
        for (u32 j = 0; j < HELD; j++) {
            float other = __shfl_sync(FULL, products[j / 4], 4 * own + j % 4);
            if (j <= sequence.place) sum += other;
        }
        // The token becomes a held one: what is read of its place meanwhile is not used.
        float* token = sequence.held(p, sequence.place);
        u32 channels = p.heads * p.head_dim, group = unit.group * p.d_state;
        if (run.thread / 4 < unit.end - unit.first && quarter == 0) {
            Outcome(p, rest.d[own], rest.x[own], rest.z[own]).store(run, p, row, channel, sum);
            token[channel] = u;
            if (channel % p.head_dim == 0) token[channels + p.n_groups * p.d_state + head] = rest.decay[own];
        }
        // By the group's first unit.
        if (unit.first % group_channels(p) == 0)
            for (u32 i = run.thread; i < p.d_state; i += THREADS) token[channels + group + i] = run.at(p.b, row)[group + i];
    }
};

// The states of a unit take in the block that its token ends: a half-warp has four of the warp's channels, a lane four elements of every 64.
template <int ELEMENTS>
struct TakeIn {
    static constexpr u32 ROW = 16 * ELEMENTS;
    static constexpr int FOURS = ELEMENTS > 4 ? 2 : 1;  // of a channel that a lane has at once

    // B of the tokens of a group's block, by all threads.
    __device__ static float* b(Run run) {
        static_assert(HELD * ROW <= PARTIALS, "no room for B");
        return run.shared().partials;  // [HELD][ROW]
    }
    __device__ static void load_b(Run run, const Scan& p, StepUnit of, const StepSequence& sequence) {
        u32 n = p.d_state, channels = p.heads * p.head_dim;
        // What was there has been read.
        sync_block();
        for (u32 i = 4 * run.thread; i < HELD * ROW; i += 4 * THREADS) {
            u32 t = i / ROW;
            const float* row = t < HELD - 1 ? sequence.held(p, t) + channels : run.at(p.b, of.sequence(p));
            *(Floats*)(b(run) + i) = load_fours(row + of.unit(p).group * n, n, i % ROW, has_fours(n | channels, StepSequence::held_len(p) | p.b.stride));
        }
        sync_block();
    }
    __device__ static void take(Run run, const Scan& p, StepUnit of, const StepSequence& sequence, const HeadRead* reads, StepRest& rest) {
        Unit unit = of.unit(p);
        u32 n = p.d_state, first = run.warp() * WARP_CHANNELS, half = run.lane() / 16 * 4, own = run.lane() % WARP_CHANNELS;
        __syncwarp();
        // What is left of the tokens in the place of u.
#pragma unroll
        for (u32 k = 0; k < HELD * WARP_CHANNELS / 32; k++) {
            u32 token = run.lane() / WARP_CHANNELS + 32 / WARP_CHANNELS * k;
            float u = token < HELD - 1 ? rest.u[token][own] : rest.dt[own] * rest.x[own];
            rest.u[token][own] = u * reads[unit.channel(first + own) / p.head_dim - sequence.head].w[token];
        }
        __syncwarp();
#pragma unroll 1
        for (u32 start = run.lane() % 16 * 4; start < n; start += 64 * FOURS) {
            Floats h[4][FOURS];
#pragma unroll
            for (u32 k = 0; k < 4; k++)
#pragma unroll
                for (int e = 0; e < FOURS; e++)
                    h[k][e] = load_fours(sequence.row(p, unit.channel(first + half + k)), n, start + 64 * e, n % 4 == 0);
#pragma unroll
            for (u32 k = 0; k < 4; k++) {
                float left = reads[unit.channel(first + half + k) / p.head_dim - sequence.head].left;
#pragma unroll
                for (int e = 0; e < FOURS; e++) h[k][e] = {h[k][e].x * left, h[k][e].y * left, h[k][e].z * left, h[k][e].w * left};
            }
#pragma unroll 4
            for (u32 j = 0; j < HELD; j++) {
                const float* u = rest.u[j] + half;
#pragma unroll
                for (int e = 0; e < FOURS; e++) {
                    Floats row = *(const Floats*)(b(run) + j * ROW + start + 64 * e);
#pragma unroll
                    for (u32 k = 0; k < 4; k++)
                        h[k][e].x += u[k] * row.x, h[k][e].y += u[k] * row.y, h[k][e].z += u[k] * row.z, h[k][e].w += u[k] * row.w;
                }
            }
#pragma unroll
            for (u32 k = 0; k < 4; k++) {
                if (first + half + k >= unit.end - unit.first) break;
#pragma unroll
                for (int e = 0; e < FOURS; e++) store_fours(sequence.row(p, unit.first + first + half + k), n, start + 64 * e, h[k][e]);
            }
        }
    }
};

// What the operation before has made are a token's numbers alone.
template <int ELEMENTS, int MOST, class Wait>
__device__ INLINE void head_steps(Run run, u32 passed, const Scan& p, Wait wait) {
    auto& memory = *(StepMemory<ELEMENTS, MOST>*)run.shared().row;
    u32 units = StepUnit::count(p), most = step_heads(p), all = units * run.p().sequence_count;
    // A block's units follow each other: they are of few sequences.
    u32 i = (u64)all * first_unit(passed) / blocks(), end = (u64)all * (first_unit(passed) + 1) / blocks();
    auto rest_of = [&](u32 i) -> StepRest& { return memory.rests[i % 2][run.warp()]; };
    HeadStep<ELEMENTS, MOST> step(run, memory);
    if (i < end) step.ask(run, p, {i}, StepSequence(run, i / units, 0));
    wait();
    if (i < end) step.bring_rest(run, p, {i}, StepSequence(run, i / units, 0), rest_of(i));
    end_copies();
    while (i < end) {
        // Units of few sequences, and with few heads of each.
        u32 start = i, first = i / units, last = (first + STEP_ROWS) * units;
        last = last < end ? last : end;
        last = last < start + step_units(p) ? last : start + step_units(p);
        auto span = [&](u32 k) {
            u32 begin = (first + k) * units, from = begin > start ? begin : start, to = begin + units < last ? begin + units : last;
            if (from >= to) return HeadSpan{0, 0};
            return HeadSpan{StepUnit{from}.unit(p).first / p.head_dim, (StepUnit{to - 1}.unit(p).end - 1) / p.head_dim + 1};
        };
        // Those before have been used.
        sync_block();
        if (run.thread <= STEP_ROWS && first + run.thread < run.p().sequence_count)
            memory.sequences[run.thread] = StepSequence(run, first + run.thread, span(run.thread).first);
        step.load_c(run, p, {i});
        weigh_rows(run, p, memory.room(p), first, (last - 1) / units - first + 1, most, span,
                   [&](u32 k, u32 head) -> HeadRead& { return memory.read(p, k, head); });
        u32 group = StepUnit{i}.group(p);  // whose C, and B, if a token ends its block, are there
        if (memory.sequences[0].ends_block()) TakeIn<ELEMENTS>::load_b(run, p, {i}, memory.sequences[0]);
        for (; i < last; i++) {
            StepUnit own = {i}, next = {i + 1 < end ? i + 1 : NONE};
            u32 k = own.sequence(p) - first;
            const StepSequence &sequence = memory.sequences[k], &next_sequence = memory.sequences[next.is_there() ? next.sequence(p) - first : k];
            if (own.group(p) != group) {
                group = own.group(p);
                step.load_c(run, p, own);
                if (sequence.ends_block()) TakeIn<ELEMENTS>::load_b(run, p, own, sequence);
            }
            float sum = step.read(run, p, own, sequence, next, next_sequence, rest_of(i + 1));
            step.finish(run, p, own, sequence, memory.read(p, k, own.unit(p).channel(run.thread / 4) / p.head_dim), rest_of(i), sum);
            if (sequence.ends_block()) TakeIn<ELEMENTS>::take(run, p, own, sequence, memory.reads + k * most, rest_of(i));
        }
    }
}

template <class Wait>
__device__ INLINE void op_step(Run run, u32 passed, const Scan& p, Wait wait) {
    for_states(p.d_state, [&](auto e) {
        if (p.places == 2) head_steps<decltype(e)::COUNT, 2>(run, passed, p, wait);
        else head_steps<decltype(e)::COUNT, 4>(run, passed, p, wait);
    });
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
            h[k] = load_fours(states + (i - first) * n, n, quarter_of(run, of), n % 4 == 0);
            a[k] = load_fours(run.weights(p.time.a_log2) + (u64)(i / p.head_dim) * n, n, quarter_of(run, of), n % 4 == 0);
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
            b[k] = load_fours(run.at(p.b, sequence) + group * n, n, quarter_of(run, of), has_fours(n, p.b.stride));
            c[k] = load_fours(run.at(p.c, sequence) + group * n, n, quarter_of(run, of), has_fours(n, p.c.stride));
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
            if (p.channels % GROUP == 0 || first + i < p.channels) store_fours(states + i * p.d_state, p.d_state, quarter_of(run, e + k / QUARTERS), h[k]);
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

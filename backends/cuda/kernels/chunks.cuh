// The scan of a prompt in chunks by tensor cores (Mamba-2's SSD, arXiv 2405.21060, section 6), for states with a decay per head: in
// f16 with sums in f32, without the contract's bits. The state is handed over as the contract has it.
//
// A unit has some channels of a head and one of as many parts of the chunks as there are blocks for. First each part makes what
// it adds to the state, then each begins with what those before it leave, and goes through its chunks one after another.
#pragma once
#include "half.cuh"
#include "scan.cuh"

#define CHUNK 64             // tokens
#define CHUNK_CHANNELS 64    // of a unit, at most
#define CHUNK_STATES 128     // elements of a state, at most
#define CHUNK_ROW (CHUNK + 8)  // halves from one row of channels or tokens to the next, so that eight lie in different banks
#define CHUNK_TILES 4        // of 8 elements of the states of 16 channels, that a warp has

// log2 of a decay.
__device__ INLINE float log2_core(float x) {
    if (!(x > 1e-38f)) return -127.0f;
    // x = 2^e · m with m next to 1.
    u32 bits = __float_as_uint(x) - 0x3f3504f3u;
    int e = (int)bits >> 23;
    float m = __uint_as_float((bits & 0x007fffffu) + 0x3f3504f3u);
    float s = (m - 1.0f) / (m + 1.0f), z = s * s;
    float sum = z * (1.0f / 9.0f) + 1.0f / 7.0f;
    sum = sum * z + 1.0f / 5.0f;
    sum = sum * z + 1.0f / 3.0f;
    return (float)e + (s + s) * LOG2_E * (sum * z + 1.0f);
}

// Channels of a unit, and units of a sequence.
__device__ INLINE u32 chunk_channels(const Scan& p) { return p.head_dim < CHUNK_CHANNELS ? p.head_dim : CHUNK_CHANNELS; }
__device__ INLINE u32 chunk_units(const Scan& p) { return p.heads * p.head_dim / chunk_channels(p); }

// Parts of the chunks of a sequence.
__device__ INLINE u32 chunk_parts(Run run, const Scan& p) {
    u32 most = blocks() / (chunk_units(p) * run.p().sequence_count), full = run.p().count / CHUNK;
    most = most < full ? most : full;
    return most > 1 ? most : 1;
}

// A block's way through a part of the chunks of one sequence with the channels of a unit. Tokens are counted from the last ones that the
// state took in: the first `held` are held ones, then come the rows.
struct ChunkScan {
    Run run;
    const Scan& p;
    u32 sequence, unit, parts, part;
    u32 channels, first, head, group;  // `first` of the channels
    u32 held, all;                     // tokens
    u32 row_len;                       // halves from one row of states to the next in shared memory
    float* scratch;

    // What a thread brings of a chunk: eight numbers each of some tokens' B and C, and of a token's x.
    struct Brought {
        Words bc[2 * CHUNK * CHUNK_STATES / 8 / THREADS], x;
    };
    // What lanes of one warp have of two tokens.
    struct Times {
        float dt[2], decay[2];
    };
    // What a thread makes of two tokens and two pairs of channels needs beside the sums: z of each pair.
    typedef u32 Gates[2][2];
    // What a thread has of the states of two channels.
    typedef float States[CHUNK_TILES][4];

    __device__ ChunkScan(Run run, const Scan& p, u32 index)
        : run(run), p(p), sequence(index / chunk_parts(run, p) / chunk_units(p)), unit(index / chunk_parts(run, p) % chunk_units(p)),
          parts(chunk_parts(run, p)), part(index % parts), channels(chunk_channels(p)), first(unit * channels), head(first / p.head_dim),
          group(head / (p.heads / p.n_groups)), held((u32)(run.position(sequence) % HELD)), all(held + run.p().count), row_len(p.d_state + 8),
          scratch(run.p().scratch) {}

    // As `Run::at`, with the place of scratch at hand, also for rows before the first.
    __device__ float* at(Vector v, int row) const { return scratch + ((i64)v.start + (i64)row * (int)v.stride); }

    // In shared memory. x of held tokens is their dt · x.
    __device__ u16* b() const { return (u16*)run.shared().row; }                 // [CHUNK][row_len]
    __device__ u16* c() const { return b() + CHUNK * row_len; }                  // likewise
    __device__ u16* states() const { return c() + CHUNK * row_len; }             // [CHUNK_CHANNELS][row_len]
    __device__ u16* x() const { return states() + CHUNK_CHANNELS * row_len; }    // [CHUNK][CHUNK_ROW]
    __device__ u16* left_x() const { return x() + CHUNK * CHUNK_ROW; }           // what is left of dt · x at the end, likewise
    __device__ u16* weights() const { return (u16*)run.shared().partials; }      // of token j in what i reads: [CHUNK i][CHUNK_ROW j]
    __device__ float* logs(u32 chunk) const { return run.shared().sums + chunk % 2 * CHUNK; }  // of all decays up to a token
    __device__ float* dt(u32 chunk) const { return logs(chunk) + 2 * CHUNK; }

    // Lanes' places in matrices of 16 by 16 halves from `start` on: rows first, or columns first.
    __device__ HalfPlace by_rows(const u16* start, u32 stride) const {
        return HalfPlace(start) + run.lane() % 16 * stride + run.lane() / 16 * 8;
    }
    __device__ HalfPlace by_columns(const u16* start, u32 stride) const {
        return HalfPlace(start) + (run.lane() / 16 * 8 + run.lane() % 8) * stride + run.lane() / 8 % 2 * 8;
    }

    __device__ u32 chunk_at(u32 part) const { return div_up(all, CHUNK) * part / parts; }
    __device__ int row(u32 token) const { return (int)(sequence * run.p().count + token - held); }
    // That of a token, or one near it where it has none.
    __device__ int near_row(u32 token) const { return row(token < held ? held : token < all ? token : all - 1); }
    // Tokens of a chunk that the state takes in: whole blocks.
    __device__ u32 taken(u32 chunk) const {
        u32 end = all / HELD * HELD, start = chunk * CHUNK;
        return end <= start ? 0 : end - start < CHUNK ? end - start : CHUNK;
    }

    // Eight numbers of a token from `i` on of its row [x | B | C]. Before the first row and behind the last lies other scratch.
    __device__ Words eight(u32 token, u32 i) const { return load_bits((const u16*)at(p.reads, row(token)) + i); }
    // Of the `k`th eight numbers of B and C that the thread brings: the place in a row of theirs; the token, those of C after those of B; and
    // the place in the token's row.
    __device__ u32 own_eighth(u32 k) const { return (run.thread + k * THREADS) % (p.d_state / 8) * 8; }
    __device__ u32 own_row(u32 k) const { return (run.thread + k * THREADS) / (p.d_state / 8); }
    __device__ u32 own_place(u32 k) const {
        u32 bc = own_row(k) < CHUNK ? group : p.n_groups + group;
        return p.heads * p.head_dim + bc * p.d_state + own_eighth(k);
    }

    template <bool READS>
    __device__ void load(u32 chunk, Brought& next) const {
#pragma unroll
        for (u32 k = 0; k < sizeof next.bc / sizeof next.bc[0]; k++)
            if (own_row(k) < (READS ? 2 : 1) * CHUNK) next.bc[k] = eight(chunk * CHUNK + own_row(k) % CHUNK, own_place(k));
        u32 i = run.thread % 8 * 8;
        if (i < channels) next.x = eight(chunk * CHUNK + run.thread / 8, first + i);
    }
    template <bool READS>
    __device__ void store(u32 chunk, const Brought& next) const {
#pragma unroll
        for (u32 k = 0; k < sizeof next.bc / sizeof next.bc[0]; k++)
            if (own_row(k) < (READS ? 2 : 1) * CHUNK) *(Words*)(b() + own_row(k) * row_len + own_eighth(k)) = next.bc[k];
        u32 i = run.thread % 8 * 8;
        if (i < channels) *(Words*)(x() + run.thread / 8 * CHUNK_ROW + i) = next.x;
        if (chunk * CHUNK < held || (chunk + 1) * CHUNK > all) store_others<READS>(chunk);
    }
    // Of tokens that have no row: held ones from the state, else zeros, for what they are multiplied with is zero.
    template <bool READS>
    __device__ void store_others(u32 chunk) const {
        auto has_row = [&](u32 token) { return token >= held && token < all; };
        auto halves_of = [](const float* v) {
            return Words{to_halves(v[0], v[1]), to_halves(v[2], v[3]), to_halves(v[4], v[5]), to_halves(v[6], v[7])};
        };
        Words none = {0, 0, 0, 0};
#pragma unroll 1
        for (u32 k = 0; own_row(k) < (READS ? 2 : 1) * CHUNK; k++) {
            u32 token = chunk * CHUNK + own_row(k) % CHUNK;
            if (has_row(token)) continue;
            bool is_held = token < held && own_row(k) < CHUNK;
            const float* own = held_token(run, p, sequence, token % HELD).b + group * p.d_state + own_eighth(k);
            *(Words*)(b() + own_row(k) * row_len + own_eighth(k)) = is_held ? halves_of(own) : none;
        }
        u32 i = run.thread % 8 * 8, token = chunk * CHUNK + run.thread / 8;
        if (i >= channels || has_row(token)) return;
        const float* own = held_token(run, p, sequence, token % HELD).u + first + i;
        *(Words*)(x() + run.thread / 8 * CHUNK_ROW + i) = token < held ? halves_of(own) : none;
    }

    // Of tokens that have no row, others.
    __device__ Times load_times(u32 chunk) const {
        Times own;
#pragma unroll
        for (u32 k = 0; k < 2; k++) {
            u32 token = chunk * CHUNK + 2 * run.lane() + k;
            int near = near_row(token);
            own.dt[k] = load_float(at(p.dt, near) + head), own.decay[k] = load_float(at(p.decay, near) + head);
        }
        return own;
    }
    __device__ void store_times(u32 chunk, Times own) const {
#pragma unroll
        for (u32 k = 0; k < 2; k++) {
            u32 token = chunk * CHUNK + 2 * run.lane() + k;
            if (token < held) own.dt[k] = 1.0f, own.decay[k] = held_token(run, p, sequence, token).decay[head];
            if (token >= all) own.dt[k] = 0.0f, own.decay[k] = 1.0f;
        }
        float one = log2_core(own.decay[0]), both = one + log2_core(own.decay[1]), before = both;
        for (u32 step = 1; step < 32; step *= 2) {
            float other = __shfl_sync(FULL, before, (run.lane() - step) % 32);
            if (run.lane() >= step) before += other;
        }
        before -= both;
        u32 t = 2 * run.lane();
        logs(chunk)[t] = before + one, logs(chunk)[t + 1] = before + both;
        dt(chunk)[t] = own.dt[0], dt(chunk)[t + 1] = own.dt[1];
    }

    // What is left of dt · x at the end of what the state takes in.
    __device__ void store_left(u32 chunk) const {
        u32 t = run.thread / 8, i = run.thread % 8 * 8, end = taken(chunk);
        if (i >= channels) return;
        float left = t < end ? dt(chunk)[t] * exp2_near(logs(chunk)[end - 1] - logs(chunk)[t]) : 0.0f;
        Words v = *(const Words*)(x() + t * CHUNK_ROW + i);
        auto scaled = [&](u32 two) { return to_halves(left * half_to_float((u16)two), left * half_to_float((u16)(two >> 16))); };
        *(Words*)(left_x() + t * CHUNK_ROW + i) = {scaled(v.x), scaled(v.y), scaled(v.z), scaled(v.w)};
    }

    // C of 16 tokens times 16 rows of states' length, B or states.
    __device__ void multiply_c(u32 reader, const u16* rows, u32 row, float (&sums)[2][4]) const {
#pragma unroll 4
        for (u32 k = 0; k < p.d_state; k += 16) {
            u32 own_c[4], own[4];
            load_matrices(own_c, by_rows(c(), row_len) + (reader * row_len + k));
            load_matrices(own, by_columns(rows, row_len) + (row * row_len + k));
            mma_f16(sums[0], own_c, own[0], own[1]);
            mma_f16(sums[1], own_c, own[2], own[3]);
        }
    }

    // Of 16 tokens and 16 before them, by a warp: C · B with the decay between them and dt.
    __device__ void weigh(u32 chunk) const {
        u32 reader = run.warp() / 4 * 16, source = run.warp() % 4 * 16;
        if (source > reader) return;
        float products[2][4] = {};
        multiply_c(reader, b(), source, products);
        const float *log = logs(chunk), *steps = dt(chunk);
        u32 row = reader + run.lane() / 4, column = source + run.lane() % 4 * 2;
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u32 i = row + half * 8;
#pragma unroll
            for (u32 t = 0; t < 2; t++) {
                auto weight = [&](u32 e) {
                    u32 j = column + t * 8 + e;
                    return j > i ? 0.0f : products[t][2 * half + e] * (steps[j] * exp2_near(log[i] - log[j]));
                };
                *(u32*)(weights() + i * CHUNK_ROW + column + t * 8) = to_halves(weight(0), weight(1));
            }
        }
    }

    // The first of the tokens and of the channels that a thread reads for: another 8 on, and channels 1, 8 and 9 on.
    __device__ u32 reader() const { return run.warp() / 4 * 16; }
    __device__ u32 read_channel() const { return run.warp() % 4 * 16; }
    __device__ u32 own_reader() const { return reader() + run.lane() / 4; }
    __device__ u32 own_channel() const { return read_channel() + run.lane() % 4 * 2; }

    __device__ void load_gates(u32 chunk, Gates& z) const {
        if (p.z.start == NONE || read_channel() >= channels) return;
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            const u16* from = (const u16*)at(p.z, near_row(chunk * CHUNK + own_reader() + half * 8)) + first + own_channel();
#pragma unroll
            for (u32 t = 0; t < 2; t++) z[half][t] = __float_as_uint(load_float((const float*)(from + t * 8)));
        }
    }

    // What 16 tokens read of 16 channels, by a warp: of the states before the chunk, and of the chunk.
    __device__ void read(u32 chunk, const Gates& z, const Pair (&d)[2]) const {
        u32 reader = this->reader(), channel = read_channel();
        if (channel >= channels) return;
        float results[2][4] = {};
        multiply_c(reader, states(), channel, results);
        float left[2] = {exp2_near(logs(chunk)[own_reader()]), exp2_near(logs(chunk)[own_reader() + 8])};
#pragma unroll
        for (u32 t = 0; t < 2; t++)
#pragma unroll
            for (u32 e = 0; e < 4; e++) results[t][e] *= left[e / 2];
        for (u32 source = 0; source <= reader; source += 16) {
            u32 own_weights[4], own_x[4];
            load_matrices(own_weights, by_rows(weights(), CHUNK_ROW) + (reader * CHUNK_ROW + source));
            load_matrices_by_column(own_x, by_rows(x(), CHUNK_ROW) + (source * CHUNK_ROW + channel));
            mma_f16(results[0], own_weights, own_x[0], own_x[1]);
            mma_f16(results[1], own_weights, own_x[2], own_x[3]);
        }
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u32 i = own_reader() + half * 8, token = chunk * CHUNK + i;
            if (token < held || token >= all) continue;
            u16* y = (u16*)at(p.y, row(token)) + first + own_channel();
#pragma unroll
            for (u32 t = 0; t < 2; t++) {
                u32 both = *(const u32*)(x() + i * CHUNK_ROW + own_channel() + t * 8);
                Pair v = {results[t][2 * half] + d[t].x * half_to_float((u16)both), results[t][2 * half + 1] + d[t].y * half_to_float((u16)(both >> 16))};
                if (p.z.start != NONE) {
                    v.x *= silu_near(half_to_float((u16)z[half][t]));
                    v.y *= silu_near(half_to_float((u16)(z[half][t] >> 16)));
                }
                *(u32*)(y + t * 8) = to_halves(v.x, v.y);
            }
        }
    }

    // Tile `t` of a warp: its first channel and its first element.
    __device__ u32 tile_channel() const { return run.warp() % 4 * 16; }
    __device__ u32 tile_element(u32 t) const { return (run.warp() / 4 + 4 * t) * 8; }
    // `each(t, e, channel, element)` for all numbers of a thread, two neighbours at `e`.
    template <class Each>
    __device__ void for_states(Each each) const {
        if (tile_channel() >= channels) return;
#pragma unroll
        for (u32 t = 0; t < CHUNK_TILES; t++)
            if (tile_element(t) < p.d_state)
#pragma unroll
                for (u32 e = 0; e < 4; e += 2) each(t, e, tile_channel() + run.lane() / 4 + e / 2 * 8, tile_element(t) + run.lane() % 4 * 2);
    }
    __device__ void share(const States& h) const {
        for_states([&](u32 t, u32 e, u32 channel, u32 i) { *(u32*)(states() + channel * row_len + i) = to_halves(h[t][e], h[t][e + 1]); });
    }
    __device__ void take_in(u32 chunk, States& h) const {
        u32 end = taken(chunk);
        if (end == 0 || tile_channel() >= channels) return;
        float left = exp2_near(logs(chunk)[end - 1]);
        for_states([&](u32 t, u32 e, u32, u32) { h[t][e] *= left, h[t][e + 1] *= left; });
#pragma unroll
        for (u32 k = 0; k < CHUNK; k += 32) {
            u32 own_x[2][4];
#pragma unroll
            for (u32 half = 0; half < 2; half++)
                load_matrices_by_column(own_x[half], by_columns(left_x(), CHUNK_ROW) + ((k + half * 16) * CHUNK_ROW + tile_channel()));
#pragma unroll
            for (u32 t = 0; t < CHUNK_TILES; t++) {
                if (tile_element(t) >= p.d_state) break;
                u32 own_b[4];
                load_matrices_by_column(own_b, HalfPlace(b()) + run.lane() * row_len + (k * row_len + tile_element(t)));
                mma_f16(h[t], own_x[0], own_b[0], own_b[1]);
                mma_f16(h[t], own_x[1], own_b[2], own_b[3]);
            }
        }
    }

    // States in scratch: of part 0 those at its end, of the others what they add; of the last one those before all. After them comes the log of
    // the part's decay.
    __device__ float* kept(u32 part) const { return at(p.parts, (sequence * chunk_units(p) + unit) * parts + part); }
    __device__ float* own_state() const { return run.state(sequence, p.state) + (u64)first * p.d_state; }
    __device__ void load_states(const float* from, States& h, float left) const {
        for_states([&](u32 t, u32 e, u32 channel, u32 i) {
            Pair both = load_pair(from + channel * p.d_state + i);
            h[t][e] = left * h[t][e] + both.x, h[t][e + 1] = left * h[t][e + 1] + both.y;
        });
    }
    __device__ void store_states(float* to, const States& h) const {
        for_states([&](u32 t, u32 e, u32 channel, u32 i) { *(Pair*)(to + channel * p.d_state + i) = {h[t][e], h[t][e + 1]}; });
    }

    // Through the chunks of the part, whose tokens read if `READS`. Returns the log of the decay.
    template <bool READS>
    __device__ float go(States& h) {
        float log = 0.0f;
        // A warp that has nothing to weigh.
        bool has_times = run.warp() == 3;
        Gates z = {};
        Pair d[2] = {};
        if (READS && read_channel() < channels)
#pragma unroll
            for (u32 t = 0; t < 2; t++) d[t] = load_pair(run.weights(p.d) + first + own_channel() + t * 8);
        u32 chunk = chunk_at(part), end = chunk_at(part + 1);
        Brought next = {};
        Times times = {};
        // What was there before has been read.
        sync_block();
        load<READS>(chunk, next);
        if (has_times) store_times(chunk, load_times(chunk)), times = load_times(chunk + 1);
        for (; chunk < end; chunk++) {
            // Else all places that depend on the thread would be kept from chunk to chunk, in registers that there are not.
            run.thread = thread_in(chunk);
            store<READS>(chunk, next);
            if (READS) share(h);
            sync_block();
            if (READS) load_gates(chunk, z);
            if (chunk + 1 < end) load<READS>(chunk + 1, next);
            store_left(chunk);
            if (READS) weigh(chunk);
            // Those of tokens beyond the last come to nothing.
            if (has_times) store_times(chunk + 1, times), times = load_times(chunk + 2);
            sync_block();
            if (READS) read(chunk, z, d);
            take_in(chunk, h);
            log += logs(chunk)[CHUNK - 1];
            sync_block();
        }
        return log;
    }

    // What the part adds to the state.
    __device__ void add() {
        States h = {};
        // The last one has time to keep the states as they are before.
        if (part == 0 || part + 1 == parts) load_states(own_state(), h, 0.0f);
        float log = part + 1 < parts ? go<false>(h) : 0.0f;
        store_states(kept(part), h);
        if (run.thread == 0) kept(part)[channels * p.d_state] = log;
    }
    __device__ void scan() {
        States h = {};
        load_states(parts == 1 ? own_state() : kept(part == 0 ? parts - 1 : 0), h, 0.0f);
        for (u32 k = 1; k < part; k++) load_states(kept(k), h, exp2_near(load_float(kept(k) + channels * p.d_state)));
        go<true>(h);
        if (part + 1 == parts) store_states(own_state(), h);
    }
};

__device__ INLINE u32 chunk_indices(Run run, const Scan& p) { return chunk_units(p) * run.p().sequence_count * chunk_parts(run, p); }

__device__ OUTLINED void op_parts(Run run, u32 passed, const Scan& p) {
    if (chunk_parts(run, p) == 1) return;
    for (u32 i = first_unit(passed); i < chunk_indices(run, p); i += blocks()) ChunkScan(run, p, i).add();
}

__device__ OUTLINED void op_chunks(Run run, u32 passed, const Scan& p) {
    static_assert(CHUNK * CHUNK_ROW * sizeof(u16) <= sizeof(Shared::partials) && 4 * CHUNK * sizeof(float) <= sizeof(Shared::sums), "no room");
    for (u32 i = first_unit(passed); i < chunk_indices(run, p); i += blocks()) ChunkScan(run, p, i).scan();
}

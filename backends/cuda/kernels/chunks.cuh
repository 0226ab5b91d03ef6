// The scan of a prompt in chunks by tensor cores (Mamba-2's SSD, arXiv 2405.21060, section 6), for states with a decay per head: in
// f16 with sums in f32, without the contract's bits. The state is handed over as the contract has it.
#pragma once
#include "half.cuh"
#include "scan.cuh"

#define CHUNK 64           // tokens
#define CHUNK_CHANNELS 16  // of a head, which a block takes through all tokens
#define CHUNK_STATES 128   // elements of a state, at most
#define CHUNK_ROW (CHUNK + 8)  // halves from one row of tokens to the next, so that eight lie in different banks

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

// A block's way through one sequence with some channels of a head. Tokens are counted from the last ones that the state took in: the
// first `held` are held ones, then come the rows.
struct ChunkScan {
    Run run;
    const Scan& p;
    u32 sequence, head, first, group;   // `first` of the channels
    u32 held, all;                      // tokens
    u32 row_len;                        // halves from one row of states to the next in shared memory

    // What a thread has of a token and two channels; x of a held token is its dt · x.
    struct Token {
        float x[2], z[2], dt;
    };
    // What lanes of the first warp have of two tokens.
    struct Times {
        float dt[2], decay[2];
    };

    __device__ ChunkScan(Run run, const Scan& p, u32 sequence, u32 unit)
        : run(run), p(p), sequence(sequence), head(unit / (p.head_dim / CHUNK_CHANNELS)), first(unit * CHUNK_CHANNELS),
          group(head / (p.heads / p.n_groups)), held((u32)(run.position(sequence) % HELD)), all(held + run.p().count), row_len(p.d_state + 8) {}

    __device__ u16* b(u32 stage) const { return (u16*)run.shared().row + stage * 2 * CHUNK * row_len; }
    __device__ u16* c(u32 stage) const { return b(stage) + CHUNK * row_len; }
    __device__ u16* states() const { return b(2); }                                     // [CHUNK_CHANNELS][row_len]
    __device__ u16* x() const { return (u16*)run.shared().tokens; }                     // [CHUNK_CHANNELS][CHUNK_ROW]
    __device__ u16* left_x() const { return x() + CHUNK_CHANNELS * CHUNK_ROW; }         // what is left of dt · x at the end, likewise
    __device__ float* sums() const { return run.shared().partials; }                    // [4][CHUNK][CHUNK_CHANNELS]
    __device__ float* logs(u32 chunk) const { return run.shared().sums + chunk % 2 * CHUNK; }  // of all decays up to a token
    __device__ float* dt(u32 chunk) const { return logs(chunk) + 2 * CHUNK; }

    __device__ u32 row(u32 token) const { return sequence * run.p().count + token - held; }
    // Tokens of a chunk that the state takes in: whole blocks.
    __device__ u32 taken(u32 chunk) const {
        u32 end = all / HELD * HELD, start = chunk * CHUNK;
        return end <= start ? 0 : end - start < CHUNK ? end - start : CHUNK;
    }

    // Brings B and C of a chunk; zeros where there are none, for what they are multiplied with is zero.
    __device__ void bring(u32 chunk, u32 stage) const {
        u32 eighths = p.d_state / 8, bc = p.n_groups * p.d_state;
        for (u32 n = run.thread; n < 2 * CHUNK * eighths; n += THREADS) {
            u32 i = n % eighths * 8, t = n / eighths % CHUNK, token = chunk * CHUNK + t;
            bool is_c = n >= CHUNK * eighths;
            u16* to = (is_c ? c(stage) : b(stage)) + t * row_len + i;
            if (token >= held && token < all) {
                copy_async(to, (const u16*)run.at(p.reads, row(token)) + (is_c ? bc : 0) + group * p.d_state + i);
                continue;
            }
            Words v = {0, 0, 0, 0};
            if (token < held && !is_c) {
                const float* own = held_token(run, p, sequence, token).b + group * p.d_state + i;
                v = {to_halves(own[0], own[1]), to_halves(own[2], own[3]), to_halves(own[4], own[5]), to_halves(own[6], own[7])};
            }
            *(Words*)to = v;
        }
        end_copies();
    }

    __device__ u32 own_token() const { return run.thread / 8; }
    __device__ u32 own_channel() const { return run.thread % 8 * 2; }

    __device__ Token load(u32 chunk) const {
        Token own = {};
        u32 token = chunk * CHUNK + own_token(), channel = first + own_channel();
        if (token >= all) return own;
        const float* from = token < held ? held_token(run, p, sequence, token).u : run.at(p.x, row(token));
        own.x[0] = load_float(from + channel), own.x[1] = load_float(from + channel + 1);
        own.dt = token < held ? 1.0f : load_float(run.at(p.dt, row(token)) + head);
        if (token < held || p.z.start == NONE) return own;
        own.z[0] = load_float(run.at(p.z, row(token)) + channel), own.z[1] = load_float(run.at(p.z, row(token)) + channel + 1);
        return own;
    }

    __device__ Times load_times(u32 chunk) const {
        Times own = {{0.0f, 0.0f}, {1.0f, 1.0f}};
#pragma unroll
        for (u32 k = 0; k < 2; k++) {
            u32 token = chunk * CHUNK + 2 * run.lane() + k;
            if (token >= all) continue;
            if (token < held) {
                own.dt[k] = 1.0f, own.decay[k] = held_token(run, p, sequence, token).decay[head];
            } else {
                own.dt[k] = load_float(run.at(p.dt, row(token)) + head);
                own.decay[k] = load_float(run.at(p.decay, row(token)) + head);
            }
        }
        return own;
    }

    __device__ void store_times(u32 chunk, const Times& own) const {
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

    // `x`, and what is left of it at the end of what the state takes in.
    __device__ void store_left(u32 chunk, const Token& own) const {
        u32 t = own_token(), end = taken(chunk);
        float left = t < end ? own.dt * exp2_core(logs(chunk)[end - 1] - logs(chunk)[t]) : 0.0f;
#pragma unroll
        for (u32 k = 0; k < 2; k++) left_x()[(own_channel() + k) * CHUNK_ROW + t] = to_half(left * own.x[k]);
    }
    __device__ void store_x(const Token& own) const {
#pragma unroll
        for (u32 k = 0; k < 2; k++) x()[(own_channel() + k) * CHUNK_ROW + own_token()] = to_half(own.x[k]);
    }

    // What 16 tokens read: a warp has 16 tokens before them, and every fourth 16 elements of the states.
    __device__ void read(u32 chunk, u32 stage) const {
        u32 lane = run.lane(), reader = run.warp() / 4 * 16, source = run.warp() % 4 * 16;
        const float *log = logs(chunk), *steps = dt(chunk);
        float products[2][4] = {}, results[2][4] = {};  // C · B, and what is read
        for (u32 k = 0; k < p.d_state / 16; k++) {
            u32 own_c[4], other[4];
            load_matrices(own_c, c(stage) + (reader + lane % 16) * row_len + k * 16 + lane / 16 * 8);
            if (source <= reader) {
                load_matrices(other, b(stage) + (source + lane / 16 * 8 + lane % 8) * row_len + k * 16 + lane / 8 % 2 * 8);
                mma_f16(products[0], own_c, other[0], other[1]);
                mma_f16(products[1], own_c, other[2], other[3]);
            }
            if (k % 4 == source / 16) {
                load_matrices(other, states() + (lane / 16 * 8 + lane % 8) * row_len + k * 16 + lane / 8 % 2 * 8);
                mma_f16(results[0], own_c, other[0], other[1]);
                mma_f16(results[1], own_c, other[2], other[3]);
            }
        }
        float own_log[2] = {log[reader + lane / 4], log[reader + lane / 4 + 8]}, left[2] = {exp2_core(own_log[0]), exp2_core(own_log[1])};
#pragma unroll
        for (u32 t = 0; t < 2; t++)
#pragma unroll
            for (u32 e = 0; e < 4; e++) results[t][e] *= left[e / 2];
        if (source <= reader) {
            // They are the first factor of the next product as they lie.
            u32 weights[4], own_x[4];
#pragma unroll
            for (u32 t = 0; t < 2; t++) {
#pragma unroll
                for (u32 e = 0; e < 4; e++) {
                    u32 i = reader + lane / 4 + e / 2 * 8, j = source + t * 8 + lane % 4 * 2 + e % 2;
                    products[t][e] = j > i ? 0.0f : products[t][e] * (steps[j] * exp2_core(own_log[e / 2] - log[j]));
                }
                weights[2 * t] = to_halves(products[t][0], products[t][1]);
                weights[2 * t + 1] = to_halves(products[t][2], products[t][3]);
            }
            load_matrices(own_x, x() + (lane / 16 * 8 + lane % 8) * CHUNK_ROW + source + lane / 8 % 2 * 8);
            mma_f16(results[0], weights, own_x[0], own_x[1]);
            mma_f16(results[1], weights, own_x[2], own_x[3]);
        }
#pragma unroll
        for (u32 t = 0; t < 2; t++)
#pragma unroll
            for (u32 e = 0; e < 4; e++)
                sums()[(source * (CHUNK / 16) + reader + lane / 4 + e / 2 * 8) * CHUNK_CHANNELS + t * 8 + lane % 4 * 2 + e % 2] = results[t][e];
    }

    // Elements of the states that a warp has; a thread has `h`: of two channels two elements each.
    __device__ bool has_states() const { return run.warp() < p.d_state / 8; }
    __device__ u32 state_place(u32 e, u32 stride) const {
        return (run.lane() / 4 + e / 2 * 8) * stride + run.warp() * 8 + run.lane() % 4 * 2 + e % 2;
    }
    __device__ void store_states(const float (&h)[4]) const {
#pragma unroll
        for (u32 half = 0; half < 2; half++) *(u32*)(states() + state_place(2 * half, row_len)) = to_halves(h[2 * half], h[2 * half + 1]);
    }
    __device__ void take_in(u32 chunk, u32 stage, float (&h)[4]) const {
        u32 end = taken(chunk), lane = run.lane();
        if (end == 0) return;
        float left = exp2_core(logs(chunk)[end - 1]);
#pragma unroll
        for (u32 e = 0; e < 4; e++) h[e] *= left;
#pragma unroll
        for (u32 k = 0; k < CHUNK / 32; k++) {
            u32 own_b[4];
            load_matrices_by_column(own_b, b(stage) + (k * 32 + lane) * row_len + run.warp() * 8);
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                u32 own_x[4];
                load_matrices(own_x, left_x() + lane % 16 * CHUNK_ROW + k * 32 + half * 16 + lane / 16 * 8);
                mma_f16(h, own_x, own_b[2 * half], own_b[2 * half + 1]);
            }
        }
        store_states(h);
    }

    __device__ void store_results(u32 chunk, const Token& own) const {
        u32 token = chunk * CHUNK + own_token();
        if (token < held || token >= all) return;
#pragma unroll
        for (u32 k = 0; k < 2; k++) {
            u32 channel = first + own_channel() + k;
            float sum = 0.0f;
#pragma unroll
            for (u32 q = 0; q < CHUNK / 16; q++) sum += sums()[(q * CHUNK + own_token()) * CHUNK_CHANNELS + own_channel() + k];
            Outcome(p, run.weights(p.d)[channel], own.x[k], own.z[k]).store(run, p, row(token), channel, sum);
        }
    }

    __device__ void run_all() const {
        float h[4] = {};
        float* state = run.state(sequence, p.state) + (u64)first * p.d_state;
        bool has_times = run.warp() == 0;
        // Those of the channels before have been read.
        __syncthreads();
        if (has_states()) {
#pragma unroll
            for (u32 e = 0; e < 4; e++) h[e] = load_float(state + state_place(e, p.d_state));
            store_states(h);
        }
        bring(0, 0);
        Token token = load(0), after = {};
        if (has_times) store_times(0, load_times(0));
        u32 chunks = div_up(all, CHUNK);
        for (u32 chunk = 0; chunk < chunks; chunk++) {
            u32 stage = chunk % 2;
            Times times = {};
            store_x(token);
            await_copies();
            __syncthreads();
            if (chunk + 1 < chunks) {
                bring(chunk + 1, 1 - stage);
                after = load(chunk + 1);
                if (has_times) times = load_times(chunk + 1);
            }
            store_left(chunk, token);
            read(chunk, stage);
            __syncthreads();
            if (has_states()) take_in(chunk, stage, h);
            store_results(chunk, token);
            if (has_times && chunk + 1 < chunks) store_times(chunk + 1, times);
            token = after;
        }
        if (!has_states()) return;
#pragma unroll
        for (u32 e = 0; e < 4; e++) state[state_place(e, p.d_state)] = h[e];
    }
};

__device__ OUTLINED void op_chunks(Run run, u32 passed, const Scan& p) {
    static_assert(2 * CHUNK_CHANNELS * CHUNK_ROW * sizeof(u16) <= sizeof(Shared::tokens), "no room for x");
    static_assert(CHUNK / 16 * CHUNK * CHUNK_CHANNELS <= PARTIALS && 4 * CHUNK * sizeof(float) <= sizeof(Shared::sums), "no room for sums");
    u32 units = p.heads * p.head_dim / CHUNK_CHANNELS;
    for (u32 i = first_unit(passed); i < units * run.p().sequence_count; i += blocks()) ChunkScan(run, p, i / units, i % units).run_all();
}

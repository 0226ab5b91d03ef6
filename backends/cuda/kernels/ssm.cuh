// State-space blocks: convolution, time steps, selective scan.
#pragma once
#include "product.cuh"

__device__ __noinline__ void op_convolve(Run run, const Op& op, const Convolve& p) {
    u64 all = (u64)run.shared().rows * p.conv.channels;
    for (u64 n = grid_thread(op); n < all; n += grid_threads()) {
        u32 row = n / p.conv.channels, i = n % p.conv.channels;
        run.at(p.y, row)[i] = convolved(run, p.conv, row, i);
    }
}

// The last inputs of the convolution become its window.
__device__ __noinline__ void op_window(Run run, const Op& op, const Convolve& p) {
    u64 all = (u64)run.p().sequence_count * p.conv.channels;
    for (u64 n = grid_thread(op); n < all; n += grid_threads()) {
        u32 sequence = n / p.conv.channels, i = n % p.conv.channels, before = p.conv.width - 1;
        float* window = run.state(sequence, p.conv.window) + i;
        // Row j is not read again once it is written: later rows come from rows further on.
        for (u32 j = 0; j < before; j++)
            window[(u64)j * p.conv.channels] =
                conv_input(run, p.conv, sequence, run.p().count - 1, before - 1 - j, i);
    }
}

// A raw time step as dt, and the decay where it is one per head; `bias` and `a_log2` are the head's, if it has them.
__device__ inline void time_step(const TimeStep& p, float raw, float bias, float a_log2, float& dt, float& decay) {
    if (p.sigmoid) {
        decay = sigmoid(-raw);
        dt = 1.0f;
        return;
    }
    dt = softplus(raw + bias);
    dt = dt < p.min ? p.min : dt;
    dt = dt > p.max ? p.max : dt;
    decay = p.per_element ? 0.0f : exp2_core(dt * a_log2);
}

__device__ __noinline__ void op_times(Run run, const Op& op, const Times& p) {
    u64 all = (u64)run.shared().rows * p.heads;
    for (u64 n = grid_thread(op); n < all; n += grid_threads()) {
        u32 row = n / p.heads, head = n % p.heads;
        float bias = p.time.sigmoid ? 0.0f : run.weights(p.time.bias)[head];
        float a_log2 = p.time.sigmoid || p.time.per_element ? 0.0f : run.weights(p.time.a_log2)[head];
        time_step(p.time, run.at(p.raw, row)[head], bias, a_log2, run.at(p.dt, row)[head], run.at(p.decay, row)[head]);
    }
}

// Normed `[dt | B | C]` of Mamba-1 in shared memory, and the codes of dt. All threads of the block.
__device__ inline void scan_select(Run run, const Scan& p) {
    u32 bc = p.n_groups * p.d_state, starts[3] = {0, p.rank, p.rank + bc}, lens[3] = {p.rank, bc, bc};
    const Norm* norms[3] = {&p.dt_norm, &p.b_norm, &p.c_norm};
    const float* raw = run.at(p.select, 0);
    float* row = run.shared().row;
    for (u32 i = threadIdx.x; i < p.rank + 2 * bc; i += THREADS) row[i] = raw[i];
    __syncthreads();
    for (u32 part = 0; part < 3; part++) {
        float* x = row + starts[part];
        if (norms[part]->kind == IDENTITY) continue;
        norm_sums(run, *norms[part], x, lens[part]);
        for (u32 i = threadIdx.x; i < lens[part]; i += THREADS) x[i] = normed(run, *norms[part], x[i], lens[part], i);
        __syncthreads();
    }
    if (is_quantized(p.dt_proj)) {
        quantize(p.rank, shared_codes(run), [&](u32 i) { return row[i]; });
        __syncthreads();
    }
}

// One row of `w · in` by a half-warp; all its threads get it. Every thread of the warp takes part, with a row each half.
__device__ inline float row_product(Run run, const Matrix& w, const Input& in, u32 row) {
    float sum = 0.0f;
    if (!is_quantized(w)) {
        const u8* weights = run.p().model + (u64)w.data * 64;
        u64 start = (u64)row * w.cols;
        for (u32 i = half_lane(); i < w.cols; i += 16) {
            float weight = w.dtype == F32 ? ((const float*)weights)[start + i]
                                          : half_to_float(((const u16*)weights)[start + i]);
            sum += weight * in.floats[i];
        }
        return fold16(sum);
    }
    // Two threads a lane of the sum over groups, each with half the words of a group.
    u32 groups = div_up(w.cols, GROUP), k = half_lane() / 2, part = half_lane() % 2;
    const u16* scales;
    const u8* codes;
    tile_row_at(run.p().model, w, row / 16, scales, codes);
    for (u32 base = 0; base < groups; base += GROUP_LANES) {
        bool has = base + k < groups;
        u32 g = has ? base + k : 0;
        const u32* x = in.codes.codes + g * 8;
        const u8* tile = codes + (u64)g * tile_bytes(w) + row % 16 * 4;
        int dot = 0;
        if (w.dtype == Q8) {
            for (u32 j = part * 4; j < part * 4 + 4; j++) dot = __dp4a((int)load_word(tile + j * 64), (int)x[j], dot);
        } else {
            for (u32 j = part * 2; j < part * 2 + 2; j++) {
                u32 both = load_word(tile + j * 64);
                dot = __dp4a((int)(both & 0x0f0f0f0fu), (int)x[2 * j], dot);
                dot = __dp4a((int)(both >> 4 & 0x0f0f0f0fu), (int)x[2 * j + 1], dot);
            }
        }
        dot += __shfl_xor_sync(FULL, dot, 1);
        if (w.dtype == Q4) dot -= 8 * in.codes.sums[(u64)g * in.codes.stride];
        float scale = half_to_float(__ldg(scales + g * 16 + row % 16)) * in.codes.scales[(u64)g * in.codes.stride];
        if (has) sum += (float)dot * scale;
    }
    // The lanes as `fold8` adds them.
    for (int half = 8; half > 1; half /= 2) sum += __shfl_xor_sync(FULL, sum, half);
    return sum;
}

// Element `e` of a thread's part of a channel's state.
__device__ inline u32 element(u32 e) { return half_lane() + 16 * e; }

// Channels that a block scans at once of one row: as few as make use of all blocks.
__device__ inline u32 scan_channels(const Scan& p) {
    u32 most = div_up(p.heads * p.head_dim, gridDim.x);
    return most < HALVES ? most : HALVES;
}

// Asks for what a unit of the scan of one row needs and no operation before it makes.
template <int ELEMENTS>
__device__ inline void ask_unit(Run run, const Scan& p, u32 unit, Early& early) {
    u32 channels = p.heads * p.head_dim, per = scan_channels(p), channel = unit * per + half_warp();
    if (half_warp() >= per || channel >= channels) return;
    u32 head = channel / p.head_dim, n = p.d_state;
    const float* state = run.state(0, p.state) + (u64)channel * n;
#pragma unroll
    for (int e = 0; e < ELEMENTS; e++) {
        bool has = element(e) < n;
        early.state[e] = has ? load_float(state + element(e)) : 0.0f;
        if (ELEMENTS <= 4 && p.time.per_element)
            early.decay[e % 4] = has ? load_float(run.weights(p.time.a_log2) + (u64)head * n + element(e)) : 0.0f;
    }
    if (p.conv.width <= TAPS) load_taps(run, p.conv, 0, channel, early.x);
    if (!p.time.sigmoid) {
        early.bias = load_float(run.weights(p.time.bias) + head);
        if (!p.time.per_element) early.a_log2 = load_float(run.weights(p.time.a_log2) + head);
    }
    early.d = load_float(run.weights(p.d) + channel);
}

#define BY_ELEMENTS(call)                \
    do {                                 \
        if (p.d_state <= 16) call(1);    \
        else if (p.d_state <= 64) call(4); \
        else if (p.d_state <= 128) call(8); \
        else call(16);                   \
    } while (0)

__device__ inline void ask_scan(Run run, const Op& op, const Scan& p, Early& early) {
    u32 bc = p.n_groups * p.d_state, first = p.heads * p.head_dim;
    if (first_unit(op) >= div_up(first, scan_channels(p))) return;
#define ASK(E) ask_unit<E>(run, p, first_unit(op), early)
    BY_ELEMENTS(ASK);
#undef ASK
    if (p.dt_proj.data == NONE && p.conv.width <= TAPS && threadIdx.x < 2 * bc)
        load_taps(run, p.conv, 0, first + threadIdx.x, early.bc);
}

// `h = decay · h + (dt · x) · B; y = C · h + d · x` of one row: what is read between two barriers is asked for first.
template <int ELEMENTS>
__device__ inline void scan_one(Run run, const Op& op, const Scan& p, Early& early) {
    u32 channels = p.heads * p.head_dim, per = scan_channels(p), units = div_up(channels, per), n = p.d_state;
    u32 bc = p.n_groups * n;
    bool has_select = p.dt_proj.data != NONE, few_taps = p.conv.width <= TAPS;
    const float *input = run.at(p.conv.x, 0), *raw = run.at(p.dt, 0);
    if (first_unit(op) >= units) return;
    for (u32 unit = first_unit(op); unit < units; unit += gridDim.x) {
        bool is_first = unit == first_unit(op);
        if (!is_first) ask_unit<ELEMENTS>(run, p, unit, early);
        u32 channel = unit * per + half_warp();
        bool has_channel = half_warp() < per && channel < channels;
        if (!has_channel) channel = channels - 1;
        u32 head = channel / p.head_dim, group = head / (p.heads / p.n_groups);
        float x = load_float(input + channel), z = 0.0f, dt = 0.0f, decay = 0.0f;
        if (p.z.start != NONE) z = load_float(run.at(p.z, 0) + channel);
        if (!has_select) dt = load_float(raw + head);
        if (is_first) {
            if (has_select) {
                scan_select(run, p);
            } else {
                for (u32 i = threadIdx.x; i < 2 * bc; i += THREADS) {
                    bool is_early = few_taps && i == threadIdx.x;
                    run.shared().row[i] = is_early ? apply_taps(p.conv, early.bc, load_float(input + channels + i))
                                                 : convolved(run, p.conv, 0, channels + i);
                }
                __syncthreads();
            }
        }
        if (has_select) dt = row_product(run, p.dt_proj, {shared_codes(run), run.shared().row}, head);
        x = few_taps ? apply_taps(p.conv, early.x, x) : convolved(run, p.conv, 0, channel);
        time_step(p.time, dt, early.bias, early.a_log2, dt, decay);
        const float* b = run.shared().row + (has_select ? p.rank : 0) + group * n;
        const float* c = b + bc;
        float u = dt * x, sum = 0.0f;
        float* state = run.state(0, p.state) + (u64)channel * n;
#pragma unroll
        for (int e = 0; e < ELEMENTS; e++) {
            u32 i = element(e);
            if (i < n) {
                float keep = decay;
                if (p.time.per_element) {
                    float a = ELEMENTS <= 4 ? early.decay[e % 4] : run.weights(p.time.a_log2)[(u64)head * n + i];
                    keep = exp2_core(dt * a);
                }
                float h = keep * early.state[e] + u * b[i];
                sum += c[i] * h;
                if (has_channel) state[i] = h;
            }
        }
        sum = fold16(sum);
        if (has_channel && half_lane() == 0) {
            float y = sum + early.d * x;
            if (p.z.start != NONE) y *= silu(z);
            run.at(p.y, 0)[channel] = y;
        }
    }
}

#define SCAN_CHANNELS 16  // of a unit of the scan of many rows
#define SCAN_TIMES 16     // tokens whose inputs stand in shared memory

// Where element `i` of B and C stands in shared memory: each thread's next to each other, four at most.
template <int ELEMENTS>
__device__ inline u32 place_of(u32 i) {
    u32 e = i / 16;
    return ELEMENTS < 4 ? i : e / 4 * 64 + i % 16 * 4 + e % 4;
}

// What a unit of the scan of many rows has in shared memory: of `SCAN_TIMES` tokens.
template <int ELEMENTS>
struct alignas(16) Tokens {
    float b[SCAN_TIMES][16 * ELEMENTS], c[SCAN_TIMES][16 * ELEMENTS];
    float x[SCAN_TIMES][SCAN_CHANNELS], dt[SCAN_TIMES][SCAN_CHANNELS], decay[SCAN_TIMES][SCAN_CHANNELS];
    float y[SCAN_TIMES][SCAN_CHANNELS];
};

// `each(e, b, c)` for the elements of a thread, their B and C from shared memory.
template <int ELEMENTS, class Each>
__device__ inline void for_elements(const float* b, const float* c, Each each) {
    if constexpr (ELEMENTS < 4) {
        each(0, b[half_lane()], c[half_lane()]);
    } else {
#pragma unroll
        for (int e = 0; e < ELEMENTS; e += 4) {
            Floats own_b = ((const Floats*)b)[e * 4 + half_lane()], own_c = ((const Floats*)c)[e * 4 + half_lane()];
            each(e, own_b.x, own_c.x), each(e + 1, own_b.y, own_c.y);
            each(e + 2, own_b.z, own_c.z), each(e + 3, own_b.w, own_c.w);
        }
    }
}

// Units of a group's channels, so that each unit is of one group.
__device__ inline u32 group_units(const Scan& p) { return div_up(p.heads * p.head_dim / p.n_groups, SCAN_CHANNELS); }

// One unit of channels through all tokens of a sequence, the state in registers. Half the warps scan.
template <int ELEMENTS>
__device__ inline void scan_unit(Run run, const Scan& p, u32 sequence, u32 unit) {
    Tokens<ELEMENTS>& tokens = *(Tokens<ELEMENTS>*)run.shared().row;
    u32 n = p.d_state, group = unit / group_units(p), channels = p.heads * p.head_dim / p.n_groups * (group + 1);
    u32 first = p.heads * p.head_dim / p.n_groups * group + unit % group_units(p) * SCAN_CHANNELS;
    u32 channel = first + half_warp() % SCAN_CHANNELS;
    bool scans = half_warp() < SCAN_CHANNELS && channel < channels;
    u32 head = (channel < channels ? channel : channels - 1) / p.head_dim;
    float h[ELEMENTS], a[ELEMENTS];
    float* state = run.state(sequence, p.state) + (u64)channel * n;
#pragma unroll
    for (int e = 0; e < ELEMENTS; e++) {
        bool has = scans && element(e) < n;
        h[e] = has ? state[element(e)] : 0.0f;
        a[e] = has && p.time.per_element ? run.weights(p.time.a_log2)[(u64)head * n + element(e)] : 0.0f;
    }
    for (u32 start = 0; start < run.p().count; start += SCAN_TIMES) {
        u32 count = run.p().count - start < SCAN_TIMES ? run.p().count - start : SCAN_TIMES;
        u64 row = (u64)sequence * run.p().count + start;
#pragma unroll 4
        for (u32 i = threadIdx.x; i < count * 16 * ELEMENTS; i += THREADS) {
            u32 t = i / (16 * ELEMENTS), j = i % (16 * ELEMENTS);
            bool has = j < n;
            tokens.b[t][place_of<ELEMENTS>(j)] = has ? run.at(p.b, row + t)[group * n + j] : 0.0f;
            tokens.c[t][place_of<ELEMENTS>(j)] = has ? run.at(p.c, row + t)[group * n + j] : 0.0f;
        }
        for (u32 i = threadIdx.x; i < count * SCAN_CHANNELS; i += THREADS) {
            u32 t = i / SCAN_CHANNELS, j = i % SCAN_CHANNELS, own = first + j < channels ? first + j : channels - 1;
            tokens.x[t][j] = run.at(p.x, row + t)[own];
            tokens.dt[t][j] = run.at(p.dt, row + t)[own / p.head_dim];
            tokens.decay[t][j] = run.at(p.decay, row + t)[own / p.head_dim];
        }
        __syncthreads();
        if (half_warp() < SCAN_CHANNELS) {
#pragma unroll 2
            for (u32 t = 0; t < count; t++) {
                u32 j = half_warp();
                float dt = tokens.dt[t][j], decay = tokens.decay[t][j], u = dt * tokens.x[t][j], sum = 0.0f;
                for_elements<ELEMENTS>(tokens.b[t], tokens.c[t], [&](int e, float b, float c) {
                    if (element(e) >= n) return;
                    float keep = p.time.per_element ? exp2_core(dt * a[e]) : decay;
                    h[e] = keep * h[e] + u * b;
                    sum += c * h[e];
                });
                sum = fold16(sum);
                if (half_lane() == 0) tokens.y[t][j] = sum;
            }
        }
        __syncthreads();
        for (u32 i = threadIdx.x; i < count * SCAN_CHANNELS; i += THREADS) {
            u32 t = i / SCAN_CHANNELS, j = i % SCAN_CHANNELS, own = first + j;
            if (own >= channels) continue;
            float y = tokens.y[t][j] + run.weights(p.d)[own] * tokens.x[t][j];
            if (p.z.start != NONE) y *= silu(run.at(p.z, row + t)[own]);
            run.at(p.y, row + t)[own] = y;
        }
        __syncthreads();
    }
#pragma unroll
    for (int e = 0; e < ELEMENTS; e++)
        if (scans && element(e) < n) state[element(e)] = h[e];
}

template <bool MANY>
__device__ inline void op_scan(Run run, const Op& op, const Scan& p, Early& early) {
    if constexpr (!MANY) {
#define ONE(E) scan_one<E>(run, op, p, early)
        BY_ELEMENTS(ONE);
#undef ONE
    } else {
        u32 units = group_units(p) * p.n_groups;
        for (u64 n = first_unit(op); n < (u64)units * run.p().sequence_count; n += gridDim.x) {
#define UNIT(E) scan_unit<E>(run, p, n / units, n % units)
            BY_ELEMENTS(UNIT);
#undef UNIT
        }
    }
}

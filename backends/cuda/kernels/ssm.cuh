// State-space blocks: convolution, time steps, selective scan.
#pragma once
#include "product.cuh"

__device__ inline void op_convolve(const Run& run, const Op& op, const Convolve& p) {
    u64 all = (u64)run.rows * p.conv.channels;
    for (u64 n = grid_thread(op); n < all; n += grid_threads()) {
        u32 row = n / p.conv.channels, i = n % p.conv.channels;
        run.at(p.y, row)[i] = convolved(run, p.conv, row, i);
    }
}

// The last inputs of the convolution become its window.
__device__ inline void op_window(const Run& run, const Op& op, const Convolve& p) {
    u64 all = (u64)run.p.sequence_count * p.conv.channels;
    for (u64 n = grid_thread(op); n < all; n += grid_threads()) {
        u32 sequence = n / p.conv.channels, i = n % p.conv.channels, before = p.conv.width - 1;
        float* window = run.state(sequence, p.conv.window) + i;
        // Row j is not read again once it is written: later rows come from rows further on.
        for (u32 j = 0; j < before; j++)
            window[(u64)j * p.conv.channels] =
                conv_input(run, p.conv, sequence, run.p.count - 1, before - 1 - j, i);
    }
}

// A raw time step as dt, and the decay where it is one per head.
__device__ inline void time_step(const Run& run, const TimeStep& p, u32 head, float raw, float& dt, float& decay) {
    if (p.sigmoid) {
        decay = sigmoid(-raw);
        dt = 1.0f;
        return;
    }
    dt = softplus(raw + run.weights(p.bias)[head]);
    dt = dt < p.min ? p.min : dt;
    dt = dt > p.max ? p.max : dt;
    decay = p.per_element ? 0.0f : exp2_core(dt * run.weights(p.a_log2)[head]);
}

__device__ inline void op_times(const Run& run, const Op& op, const Times& p) {
    u64 all = (u64)run.rows * p.heads;
    for (u64 n = grid_thread(op); n < all; n += grid_threads()) {
        u32 row = n / p.heads, head = n % p.heads;
        time_step(run, p.time, head, run.at(p.raw, row)[head], run.at(p.dt, row)[head], run.at(p.decay, row)[head]);
    }
}

#define SCAN_CHANNELS 16  // of a unit: each has 16 threads, thread i for state elements i, i + 16, …
#define SCAN_TIMES 128    // where raw time steps of a unit stand in the shared sums: after those of products

// Normed `[dt | B | C]` of Mamba-1 in shared memory, and the codes of dt. All threads of the block.
__device__ inline void scan_select(const Run& run, const Scan& p) {
    u32 bc = p.n_groups * p.d_state, starts[3] = {0, p.rank, p.rank + bc}, lens[3] = {p.rank, bc, bc};
    const Norm* norms[3] = {&p.dt_norm, &p.b_norm, &p.c_norm};
    const float* raw = run.at(p.select, 0);
    float* row = run.shared.row;
    for (u32 i = threadIdx.x; i < p.rank + 2 * bc; i += THREADS) row[i] = raw[i];
    __syncthreads();
    for (u32 part = 0; part < 3; part++) {
        float* x = row + starts[part];
        if (norms[part]->kind != IDENTITY) norm_sums(run, *norms[part], x, lens[part]);
        for (u32 i = threadIdx.x; i < lens[part]; i += THREADS) x[i] = normed(run, *norms[part], x[i], lens[part], i);
        __syncthreads();
    }
    if (is_quantized(p.dt_proj)) quantize(p.rank, shared_codes(run), [&](u32 i) { return row[i]; });
    __syncthreads();
}

// Raw time steps of the heads from `first` on that the unit needs, into the shared sums. All threads of the block.
__device__ inline const float* scan_times(const Run& run, const Scan& p, u32 head, u32 last, u32& flip) {
    float* times = run.shared.sums + SCAN_TIMES;
    u32 size = unit_rows(p.dt_proj), first = head / size;
    Input in = {shared_codes(run), run.shared.row};
    __syncthreads();
    for (u32 unit = first; unit <= last / size; unit++)
        unit_product(run, p.dt_proj, in, unit, flip++, [&](u32 i, float v) { times[i - first * size] = v; });
    __syncthreads();
    return times - first * size;
}

// `h = decay · h + (dt · x) · B; y = C · h + d · x` of one unit of channels through all tokens of a sequence, the state
// in registers: ELEMENTS a thread.
template <int ELEMENTS>
__device__ inline void scan_unit(const Run& run, const Scan& p, u32 sequence, u32 unit, u32& flip) {
    u32 channel = unit * SCAN_CHANNELS + half_warp(), n = p.d_state, channels = p.heads * p.head_dim;
    bool has_channel = channel < channels;
    u32 head = (has_channel ? channel : channels - 1) / p.head_dim, group = head / (p.heads / p.n_groups);
    bool has_select = p.dt_proj.data != NONE;
    const float* times = nullptr;
    if (p.fused && has_select) {
        u32 end = unit * SCAN_CHANNELS + SCAN_CHANNELS;
        times = scan_times(run, p, unit * SCAN_CHANNELS / p.head_dim, ((end < channels ? end : channels) - 1) / p.head_dim, flip);
    }
    float h[ELEMENTS], a[ELEMENTS];
    float* state = run.state(sequence, p.state) + (u64)channel * n;
#pragma unroll
    for (u32 e = 0; e < ELEMENTS; e++) {
        u32 i = half_lane() + 16 * e;
        bool has = has_channel && i < n;
        h[e] = has ? state[i] : 0.0f;
        a[e] = has && p.time.per_element ? run.weights(p.time.a_log2)[(u64)head * n + i] : 0.0f;
    }
    float d = has_channel ? run.weights(p.d)[channel] : 0.0f;
    for (u32 t = 0; t < run.p.count; t++) {
        u32 row = sequence * run.p.count + t;
        float dt = 0.0f, decay = 0.0f, x = 0.0f;
        const float *b, *c;
        if (p.fused) {
            b = run.shared.row + (has_select ? p.rank : 0), c = b + p.n_groups * n;
            time_step(run, p.time, head, has_select ? times[head] : run.at(p.dt, row)[head], dt, decay);
            if (has_channel) x = convolved(run, p.conv, row, channel);
        } else {
            b = run.at(p.b, row), c = run.at(p.c, row);
            dt = run.at(p.dt, row)[head], decay = run.at(p.decay, row)[head];
            if (has_channel) x = run.at(p.x, row)[channel];
        }
        b += group * n, c += group * n;
        float u = dt * x, sum = 0.0f;
#pragma unroll
        for (u32 e = 0; e < ELEMENTS; e++) {
            u32 i = half_lane() + 16 * e;
            if (i < n) {
                float keep = p.time.per_element ? exp2_core(dt * a[e]) : decay;
                h[e] = keep * h[e] + u * b[i];
                sum += c[i] * h[e];
            }
        }
        sum = fold16(sum);
        if (has_channel && half_lane() == 0) {
            float y = sum + d * x;
            if (p.z.start != NONE) y *= silu(run.at(p.z, row)[channel]);
            run.at(p.y, row)[channel] = y;
        }
    }
#pragma unroll
    for (u32 e = 0; e < ELEMENTS; e++) {
        u32 i = half_lane() + 16 * e;
        if (has_channel && i < n) state[i] = h[e];
    }
}

__device__ inline void op_scan(const Run& run, const Op& op, const Scan& p) {
    u32 units = div_up(p.heads * p.head_dim, SCAN_CHANNELS), bc = p.n_groups * p.d_state, flip = 0;
    if (first_unit(op) >= (u64)units * run.p.sequence_count) return;
    if (p.fused) {
        if (p.dt_proj.data != NONE) {
            scan_select(run, p);
        } else {
            u32 first = p.heads * p.head_dim;
            for (u32 i = threadIdx.x; i < 2 * bc; i += THREADS) run.shared.row[i] = convolved(run, p.conv, 0, first + i);
            __syncthreads();
        }
    }
    for (u64 n = first_unit(op); n < (u64)units * run.p.sequence_count; n += gridDim.x) {
        u32 sequence = n / units, unit = n % units;
        if (p.d_state <= 16) scan_unit<1>(run, p, sequence, unit, flip);
        else if (p.d_state <= 64) scan_unit<4>(run, p, sequence, unit, flip);
        else if (p.d_state <= 128) scan_unit<8>(run, p, sequence, unit, flip);
        else scan_unit<16>(run, p, sequence, unit, flip);
    }
}

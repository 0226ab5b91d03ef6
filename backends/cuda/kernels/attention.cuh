// Attention over a ring of positions. Tokens of a launch find each other's keys and values in their own rows, so the
// ring is written after all have attended, and no order of tokens is needed.
#pragma once
#include "block.cuh"

// Norms and rotates each head of queries and keys, in place; half a warp takes a head.
__device__ OUTLINED void op_rotate(Run run, u32 passed, const Attend& p) {
    u32 heads = p.heads + p.kv_heads, pairs = p.rotary_dims / 2;
    u64 all = (u64)run.shared().rows * heads;
    for (u64 base = (u64)first_unit(passed) * HALVES; base < all; base += (u64)blocks() * HALVES) {
        u64 n = base + run.half_warp();
        bool has = n < all;
        u32 row = has ? n / heads : 0, head = n % heads;
        float* x = run.at(p.qkv, row) + head * p.head_dim;
        const Norm& norm = head < p.heads ? p.q_norm : p.k_norm;
        float sum = 0.0f;
        if (has && norm.kind != IDENTITY)
            for (u32 i = run.half_lane(); i < p.head_dim; i += 16) sum += x[i] * x[i];
        float scale = rsqrt_core(fold16(sum) / (float)p.head_dim + norm.eps);
        if (!has) continue;
        auto value = [&](u32 i) {
            if (norm.kind == IDENTITY) return x[i];
            float v = x[i] * scale;
            return norm.weight == NONE ? v : v * run.weights(norm.weight)[i];
        };
        u64 position = run.position(run.sequence(row)) + run.time(row);
        const u64* turns = (const u64*)(run.p().tables + p.turns);
        for (u32 i = run.half_lane(); i < pairs; i += 16) {
            float a = value(i), b = value(i + pairs), sine, cosine;
            sin_cos(position * turns[i], sine, cosine);
            x[i] = a * cosine - b * sine;
            x[i + pairs] = b * cosine + a * sine;
        }
        for (u32 i = 2 * pairs + run.half_lane(); i < p.head_dim; i += 16) x[i] = value(i);
    }
}

// Where the key of ring row `slot` lies for the token in `row`, whose own ring row is `now`, and the value behind it.
__device__ INLINE const float* ring_row(Run run, const Attend& p, u32 row, u32 now, u32 slot, bool value) {
    u32 kv = p.kv_heads * p.head_dim, back = slot <= now ? now - slot : now + p.window - slot;
    if (back <= run.time(row)) return run.at(p.qkv, row - back) + p.heads * p.head_dim + (value ? kv : 0);
    return run.state(run.sequence(row), value ? p.values : p.keys) + (u64)slot * kv;
}

// A block takes one head of one token; the scores of a block lie in scratch.
__device__ OUTLINED void op_attend(Run run, u32 passed, const Attend& p) {
    float* sums = run.shared().sums;
    float* scores = run.p().scratch + p.scores + (u64)blockIdx.x * p.window;
    for (u64 n = first_unit(passed); n < (u64)run.shared().rows * p.heads; n += blocks()) {
        u32 row = n / p.heads, head = n % p.heads;
        u32 first = head / (p.heads / p.kv_heads) * p.head_dim;
        u64 position = run.position(run.sequence(row)) + run.time(row);
        u32 filled = position + 1 < p.window ? position + 1 : p.window, now = position % p.window;
        const float* q = run.at(p.qkv, row) + head * p.head_dim;
        float largest = MINUS_INFINITY;
        for (u32 base = 0; base < filled; base += HALVES) {
            u32 slot = base + run.half_warp();
            float sum = 0.0f;
            if (slot < filled) {
                const float* key = ring_row(run, p, row, now, slot, false) + first;
                for (u32 i = run.half_lane(); i < p.head_dim; i += 16) sum += q[i] * key[i];
            }
            float score = fold16(sum) * p.scale;
            if (slot < filled) {
                largest = larger(score, largest);
                if (run.half_lane() == 0) scores[slot] = score;
            }
        }
        if (run.half_lane() == 0) sums[run.half_warp()] = largest;
        sync_block();
        for (u32 i = 0; i < HALVES; i++) largest = larger(sums[i], largest);
        for (u32 slot = run.thread; slot < filled; slot += THREADS) scores[slot] = exp_core(scores[slot] - largest);
        sync_block();
        float sum = 0.0f;
        if (run.half_warp() == 0)
            for (u32 slot = run.half_lane(); slot < filled; slot += 16) sum += scores[slot];
        sum = fold16(sum);
        if (run.thread == 0) sums[HALVES] = sum;
        sync_block();
        float* y = run.at(p.y, row) + head * p.head_dim;
        for (u32 i = run.thread; i < p.head_dim; i += THREADS) {
            float v = 0.0f;
            for (u32 slot = 0; slot < filled; slot++)
                v += scores[slot] * ring_row(run, p, row, now, slot, true)[first + i];
            y[i] = v / sums[HALVES];
        }
        sync_block();
    }
}

// The last keys and values go into the ring.
__device__ OUTLINED void op_ring(Run run, u32 passed, const Attend& p) {
    u32 kv = p.kv_heads * p.head_dim, kept = run.p().count < p.window ? run.p().count : p.window;
    u64 all = (u64)run.p().sequence_count * kept * kv;
    for (u64 n = grid_thread(run, passed); n < all; n += grid_threads()) {
        u32 i = n % kv, sequence = n / kv / kept, t = run.p().count - kept + n / kv % kept;
        u64 slot = (run.position(sequence) + t) % p.window;
        const float* key = run.at(p.qkv, (u64)sequence * run.p().count + t) + p.heads * p.head_dim;
        run.state(sequence, p.keys)[slot * kv + i] = key[i];
        run.state(sequence, p.values)[slot * kv + i] = key[kv + i];
    }
}

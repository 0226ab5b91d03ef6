// Mixtures of experts.
#pragma once
#include "product.cuh"

enum { SOFTMAX_OF_CHOSEN, SOFTMAX_OF_ALL, SIGMOID, SIGMOID_NORMALIZED };

// The index with the highest rank among those that each thread offers (NONE: nothing); of equals the first. All threads
// of the block; all get it.
__device__ INLINE u32 block_best(Run run, float rank, u32 index) {
    float* sums = run.shared().sums;
    u32* indices = (u32*)sums + WARPS;
    for (int half = 16; half > 0; half /= 2) {
        float other = __shfl_xor_sync(FULL, rank, half);
        u32 other_index = __shfl_xor_sync(FULL, index, half);
        if (other_index != NONE && (index == NONE || other > rank || (other == rank && other_index < index)))
            rank = other, index = other_index;
    }
    if (run.lane() == 0) sums[run.warp()] = rank, indices[run.warp()] = index;
    sync_block();
    rank = sums[0], index = indices[0];
    for (u32 i = 1; i < WARPS; i++)
        if (indices[i] != NONE && (index == NONE || sums[i] > rank || (sums[i] == rank && indices[i] < index)))
            rank = sums[i], index = indices[i];
    sync_block();
    return index;
}

// Sum of the two best ranks of a group, or the only one.
__device__ INLINE float group_value(const float* ranks, u32 len) {
    float first = MINUS_INFINITY, second = MINUS_INFINITY;
    for (u32 e = 0; e < len; e++) {
        if (ranks[e] > first) second = first, first = ranks[e];
        else if (ranks[e] > second) second = ranks[e];
    }
    return len == 1 ? first : first + second;
}

// A block chooses a row's experts: their ids, ascending, and weights.
__device__ OUTLINED void op_route(Run run, u32 passed, const Route& p) {
    bool is_sigmoid = p.routing == SIGMOID || p.routing == SIGMOID_NORMALIZED;
    u32 group_len = p.experts / p.groups;
    float* scores = run.shared().row;
    float* ranks = scores + p.experts;
    float* values = ranks + p.experts;
    u32* taken = (u32*)(values + p.groups);
    for (u32 row = first_unit(passed); row < run.shared().rows; row += blocks()) {
        const float* logits = run.at(p.logits, row);
        for (u32 e = run.thread; e < p.experts; e += THREADS) {
            scores[e] = is_sigmoid ? sigmoid(logits[e]) : logits[e];
            ranks[e] = larger(scores[e] + (p.correction == NONE ? 0.0f : run.weights(p.correction)[e]), MINUS_INFINITY);
            taken[e] = 0;
        }
        sync_block();
        for (u32 g = run.thread; g < p.groups; g += THREADS) values[g] = group_value(ranks + g * group_len, group_len);
        sync_block();
        for (u32 e = run.thread; e < p.experts; e += THREADS) {
            u32 group = e / group_len, place = 0;
            for (u32 g = 0; g < p.groups; g++)
                if (values[g] > values[group] || (values[g] == values[group] && g < group)) place++;
            if (p.groups > 1 && place >= p.chosen_groups) taken[e] = 2;
        }
        sync_block();
        for (u32 i = 0; i < p.chosen; i++) {
            float rank = 0.0f;
            u32 best = NONE;
            for (u32 e = run.thread; e < p.experts; e += THREADS)
                if (!taken[e] && (best == NONE || ranks[e] > rank)) rank = ranks[e], best = e;
            best = block_best(run, rank, best);
            if (run.thread == 0 && best != NONE) taken[best] = 1;
            sync_block();
        }
        // The sums run over the experts in order: one thread.
        if (run.thread == 0) {
            float largest = MINUS_INFINITY, total = 0.0f;
            for (u32 e = 0; e < p.experts; e++) largest = larger(scores[e], largest);
            bool all = p.routing == SOFTMAX_OF_ALL;
            for (u32 e = 0; e < p.experts; e++) {
                if (taken[e] != 1 && !all) continue;
                if (!is_sigmoid) scores[e] = exp_core(scores[e] - largest);
                total += scores[e];
            }
            if (p.routing == SIGMOID) total = 1.0f;
            if (p.routing == SIGMOID_NORMALIZED) total += 1e-20f;
            u32* ids = (u32*)run.at(p.ids, row);
            float* weights = run.at(p.weights, row);
            u32 n = 0;
            for (u32 e = 0; e < p.experts; e++)
                if (taken[e] == 1) ids[n] = e, weights[n] = scores[e] / total * p.weight_scale, n++;
        }
        sync_block();
    }
}

__device__ OUTLINED void op_experts(Run run, u32 passed, const Experts& p) {
    u32 flip = 0;
    const Matrix* matrices = (const Matrix*)(run.p().tables + p.table);
    u64 virtual_rows = (u64)run.shared().rows * p.chosen;
    u32 units_most = div_up(p.rows, 8);
    for (u64 n = first_unit(passed); n < virtual_rows * units_most; n += blocks()) {
        u64 row = n / units_most;
        u32 unit = n % units_most, id = ((const u32*)run.at(p.ids, row / p.chosen))[row % p.chosen];
        Matrix w = matrices[id];
        if (unit >= div_up(p.rows, unit_rows(w))) continue;
        u64 from = p.shared ? row / p.chosen : row;
        Input in = {scratch_codes(run, p.codes, from), run.at(p.codes.floats, from)};
        unit_product(run, w, in, unit, flip++, [&](u32 i, float v) { run.at(p.y, row)[i] = v; });
    }
}

__device__ OUTLINED void op_combine(Run run, u32 passed, const Combine& p) {
    u64 all = (u64)run.shared().rows * p.width;
    for (u64 n = grid_thread(run, passed); n < all; n += grid_threads()) {
        u32 row = n / p.width, i = n % p.width;
        const float* weights = run.at(p.weights, row);
        float sum = 0.0f;
        for (u32 k = 0; k < p.chosen; k++) sum += weights[k] * run.at(p.parts, (u64)row * p.chosen + k)[i];
        finish(run, p.to, row, i, sum);
    }
}

// The next token: greedy, or among the `top_k` likeliest; as sarit-core's `Sampler` chooses.
#pragma once
#include "block.cuh"

#define TOP_K_MOST 256

// Bits in the order of the values, NaN below all.
__device__ INLINE u32 rank_of(float x) {
    u32 bits = __float_as_uint(x);
    if (x != x) return 0;
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

__device__ INLINE const float* choose_logits(Run run, const Choose& p, u32 sequence) {
    return run.at(p.logits, sequence);
}

#define LOGITS_AHEAD 4  // fours of logits that a thread asks for together

// The largest logit and the first index that has it, as one number per sequence, by as many blocks as there are for each. What is never chosen, NaN and
// -infinity, ranks 0, and where there is nothing else the first index wins.
__device__ OUTLINED void op_argmax(Run run, u32 passed, const Choose& p) {
    u32 sequences = run.p().sequence_count, parts = blocks() > sequences ? blocks() / sequences : 1;
    bool has_fours = (p.vocab | p.logits.stride) % 4 == 0;
    u32 of_load = has_fours ? 4 : 1, apart = parts * THREADS * of_load;
    for (u32 unit = first_unit(passed); unit < sequences * parts; unit += blocks()) {
        const float* logits = run.at(p.logits, unit / parts);
        u32 first = (unit % parts * THREADS + run.thread) * of_load, index = first;
        float best = MINUS_INFINITY;
        auto take = [&](float x, u32 i) {
            if (x > best) best = x, index = i;
        };
        for (u32 i = first; i < p.vocab; i += LOGITS_AHEAD * apart) {
            Floats x[LOGITS_AHEAD];
#pragma unroll
            for (u32 k = 0; k < LOGITS_AHEAD; k++) {
                u32 at = i + k * apart;
                x[k] = {MINUS_INFINITY, MINUS_INFINITY, MINUS_INFINITY, MINUS_INFINITY};
                if (at >= p.vocab) continue;
                if (has_fours) x[k] = load_floats(logits + at);
                else x[k].x = load_float(logits + at);
            }
#pragma unroll
            for (u32 k = 0; k < LOGITS_AHEAD; k++) {
                u32 at = i + k * apart;
                take(x[k].x, at), take(x[k].y, at + 1), take(x[k].z, at + 2), take(x[k].w, at + 3);
            }
        }
        // Adding +0 makes zeros equal.
        u64 key = (u64)(best > MINUS_INFINITY ? rank_of(best + 0.0f) : 0) << 32 | (0xffffffffu - index);
        for (int half = 16; half > 0; half /= 2) {
            u64 other = (u64)__shfl_xor_sync(FULL, (u32)(key >> 32), half) << 32 | __shfl_xor_sync(FULL, (u32)key, half);
            key = other > key ? other : key;
        }
        if (run.lane() == 0) atomicMax(run.p().best + unit / parts, key);
    }
}

// The largest rank that at least `top_k` logits reach, byte by byte: `pass` bytes of it are known. Also gives how many
// logits are above those that share the known bytes. All threads of the block.
__device__ INLINE u32 least_rank(Run run, u32 sequence, u32 passes, u32& above) {
    u32 rank = 0;
    above = 0;
    for (u32 pass = 0; pass < passes; pass++) {
        const u32* counts = run.p().histogram + ((u64)pass * run.p().sequence_count + sequence) * 256;
        u32 byte = 255;
        while (byte > 0 && above + counts[byte] < run.p().sampling[sequence].top_k) above += counts[byte--];
        rank |= byte << (24 - 8 * pass);
    }
    return rank;
}

// Counts the next byte of the ranks of the logits that share the bytes known so far.
__device__ OUTLINED void op_histogram(Run run, u32 passed, const Choose& p, u32 pass) {
    for (u32 s = 0; s < run.p().sequence_count; s++) {
        if (run.p().sampling[s].temperature == 0.0f) continue;
        u32 above, known = least_rank(run, s, pass, above), mask = pass == 0 ? 0 : FULL << (32 - 8 * pass);
        const float* logits = run.at(p.logits, s);
        u32* counts = run.p().histogram + ((u64)pass * run.p().sequence_count + s) * 256;
        for (u64 i = grid_thread(run, passed); i < p.vocab; i += grid_threads()) {
            u32 rank = rank_of(logits[i]);
            if ((rank & mask) == known) atomicAdd(counts + (rank >> (24 - 8 * pass) & 255), 1u);
        }
    }
}

// SplitMix64, as a number 0 <= x < 1.
__device__ INLINE double uniform(u64& random) {
    random += 0x9e3779b97f4a7c15ull;
    u64 z = random;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (double)((z ^ (z >> 31)) >> 11) / 9007199254740992.0;
}

// The `top_k` candidates into shared memory, in order of their index: of equals at the end the first. All threads of
// the block.
__device__ INLINE void gather_candidates(Run run, const Choose& p, u32 sequence, float* weights, u32* indices) {
    u32* counts = (u32*)run.shared().sums;  // per warp: above, equal; then the totals
    u32 above, least = least_rank(run, sequence, 4, above), top_k = run.p().sampling[sequence].top_k;
    u32 equal_left = top_k - above, found = 0;
    const float* logits = run.at(p.logits, sequence);
    for (u32 base = 0; base < p.vocab; base += THREADS) {
        u32 i = base + run.thread;
        u32 rank = i < p.vocab ? rank_of(logits[i]) : 0;
        bool is_equal = i < p.vocab && rank == least, is_above = i < p.vocab && rank > least;
        u32 equals = __ballot_sync(FULL, is_equal), aboves = __ballot_sync(FULL, is_above);
        if (run.lane() == 0) counts[run.warp()] = __popc(equals), counts[WARPS + run.warp()] = __popc(aboves);
        sync_block();
        u32 equal_before = 0, above_before = 0, equal_all = 0, above_all = 0;
        for (u32 w = 0; w < WARPS; w++) {
            if (w < run.warp()) equal_before += counts[w], above_before += counts[WARPS + w];
            equal_all += counts[w], above_all += counts[WARPS + w];
        }
        u32 below = (1u << run.lane()) - 1;
        equal_before += __popc(equals & below), above_before += __popc(aboves & below);
        u32 kept_before = equal_before < equal_left ? equal_before : equal_left;
        if (is_above || (is_equal && equal_before < equal_left)) {
            u32 place = found + above_before + kept_before;
            weights[place] = logits[i], indices[place] = i;
        }
        u32 kept = equal_all < equal_left ? equal_all : equal_left;
        found += above_all + kept, equal_left -= kept;
        sync_block();
    }
}

__device__ INLINE u32 sample(Sampling& s, float highest, float* weights, const u32* indices, u32 best) {
    u32 n = s.top_k;
    double all = 0.0, kept = 0.0;
    for (u32 i = 0; i < n; i++) {
        float weight = exp_core((weights[i] - highest) / s.temperature);
        weights[i] = weight != weight ? 0.0f : weight;
        all += (double)weights[i];
    }
    u32 least = 0;
    if (s.top_p < 1.0f) {
        double wanted = all * (double)s.top_p;
        for (int bit = 31; bit >= 0; bit--) {
            u32 trial = least | 1u << bit;
            double sum = 0.0;
            for (u32 i = 0; i < n; i++)
                if (__float_as_uint(weights[i]) >= trial) sum += (double)weights[i];
            if (sum >= wanted) least = trial;
        }
    }
    for (u32 i = 0; i < n; i++)
        if (__float_as_uint(weights[i]) >= least) kept += (double)weights[i];
    double left = uniform(s.random) * kept;
    u32 chosen = best;
    for (u32 i = 0; i < n; i++) {
        if (!(weights[i] > 0.0f && __float_as_uint(weights[i]) >= least)) continue;
        chosen = indices[i];
        left -= (double)weights[i];
        if (left < 0.0) break;
    }
    return chosen;
}

// A block chooses a sequence's token, hands it to the next step, and ends the launch at a stop token of the only one.
__device__ OUTLINED void op_choose(Run run, u32 passed, const Choose& p) {
    for (u32 s = first_unit(passed); s < run.p().sequence_count; s += blocks()) {
        Sampling& sampling = run.p().sampling[s];
        u32 token = 0xffffffffu - (u32)run.p().best[s];
        const float* logits = run.at(p.logits, s);
        float highest = logits[token];
        // All have read what thread 0 sets back.
        sync_block();
        // Only where the largest logit is finite; then no smaller one is +infinity, and none chosen is NaN.
        if (sampling.temperature != 0.0f && highest - highest == 0.0f) {
            float* weights = run.shared().row;
            u32* indices = (u32*)weights + TOP_K_MOST;
            gather_candidates(run, p, s, weights, indices);
            if (run.thread == 0) token = sample(sampling, highest, weights, indices, token);
        }
        if (run.thread == 0) {
            run.p().tokens[s] = token;
            run.p().chosen[(u64)run.shared().step * run.p().sequence_count + s] = token;
            run.p().best[s] = 0;
            for (u32 i = 0; i < run.p().stop_count; i++)
                if (run.p().stop[i] == token && run.p().sequence_count == 1) run.p().control[CONTROL_STOP] = 1;
        }
        sync_block();
        for (u32 i = run.thread; i < 4 * 256; i += THREADS)
            run.p().histogram[((u64)(i / 256) * run.p().sequence_count + s) * 256 + i % 256] = 0;
    }
}

// Products of many rows in f16 with sums in f32, by tensor cores: several times as fast as the contract's sums, whose bits they do not
// have. Only programs for who asked for that have them.
#pragma once
#include "product.cuh"

#define HALF_DEPTH 64  // columns of a stage

// Eight weights of row `row` from column `8 · eighth` on.
__device__ INLINE void load_weights(Run run, const Matrix& w, u32 row, u32 eighth, float (&v)[8]) {
    if (!is_quantized(w)) {
        const u8* data = run.p().model + (u64)w.data * 64;
        u64 start = (u64)row * w.cols;
#pragma unroll
        for (u32 k = 0; k < 8; k++) {
            u32 i = eighth * 8 + k;
            v[k] = i >= w.cols ? 0.0f : w.dtype == F32 ? ((const float*)data)[start + i] : half_to_float(((const u16*)data)[start + i]);
        }
        return;
    }
    const u16* scales;
    const u8* codes;
    tile_row_at(run.p().model, w, row / 16, scales, codes);
    u32 g = eighth / 4;
    codes += (u64)g * tile_bytes(w) + eighth % 4 * (w.dtype == Q8 ? 128 : 64) + row % 16 * 4;
    float scale = half_to_float(__ldg(scales + g * 16 + row % 16));
    u32 low = load_word(codes), high = w.dtype == Q8 ? load_word(codes + 64) : centred(low >> 4);
    if (w.dtype == Q4) low = centred(low);
#pragma unroll
    for (u32 k = 0; k < 4; k++) {
        v[k] = (float)(signed char)(low >> 8 * k) * scale;
        v[4 + k] = (float)(signed char)(high >> 8 * k) * scale;
    }
}

__device__ OUTLINED void op_widen(Run run, u32 passed, const Widen& p) {
    u32 groups = half_len(p.w.cols) / GROUP, own_groups = div_up(p.w.cols, GROUP);
    u64 all = (u64)div_up(p.w.rows, 16) * groups * 64;
    for (u64 n = grid_thread(run, passed); n < all; n += grid_threads()) {
        // Threads beside each other have one group of rows that share its tile.
        u32 eighth = n % 4, row = n / 64 / groups * 16 + n / 4 % 16, g = n / 64 % groups;
        if (row >= p.w.rows) continue;
        float v[8] = {};
        if (g < own_groups) load_weights(run, p.w, row, g * 4 + eighth, v);
        u16* to = run.halves(p.to) + ((u64)row * groups + g) * GROUP + eighth * 8;
        *(Words*)to = {to_halves(v[0], v[1]), to_halves(v[2], v[3]), to_halves(v[4], v[5]), to_halves(v[6], v[7])};
    }
}

// A unit of a product: `ROWS` rows by `WEIGHTS` rows of weights, of which each of 4 by 4 warps has `M` tiles of 16 by `N` of 8.
template <u32 M, u32 N>
struct HalfUnit {
    static constexpr u32 ROWS = 64 * M, WEIGHTS = 32 * N;
    static constexpr u32 STAGE = (ROWS + WEIGHTS) * HALF_DEPTH;             // halves
    static constexpr u32 PIECES = STAGE / 8 / THREADS;                      // of eight halves, of a stage, that a thread brings
    static_assert(PIECES * THREADS * 8 == STAGE, "threads bring whole stages");
};

// Where eight halves lie in a stage: those that a warp reads at once, of eight rows, in different banks. Rows 8 apart lie alike.
__device__ INLINE u32 half_place(u32 row, u32 eighth) { return (row * 8 + (eighth ^ row % 8)) * 8; }

// Takes a thread's results to where they go: of rows from `row` and weights from `i` on, 8 apart.
template <u32 M, u32 N>
__device__ INLINE void finish_unit(Run run, const Multiply& p, u32 row, u32 i, const float (&sums)[M][N][4]) {
    const Target& to = p.to;
    auto is_pair = [&](u32 n) { return p.pairs && i + n * 8 + 1 < p.w_rows; };
#pragma unroll
    for (u32 m = 0; m < M; m++) {
        auto own_row = [&](u32 half) { return row + m * 16 + half * 8; };
        // All that is added to comes before anything is written: loads behind a write would wait for each other.
        Pair old[2][N] = {};
        if (to.kind == ADD)
#pragma unroll
            for (u32 half = 0; half < 2; half++)
#pragma unroll
                for (u32 n = 0; n < N; n++)
                    if (own_row(half) < run.shared().rows && is_pair(n)) old[half][n] = load_pair(run.at(to.before, own_row(half)) + i + n * 8);
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            if (own_row(half) >= run.shared().rows) return;
            float* y = run.at(to.y, own_row(half)) + i;
#pragma unroll
            for (u32 n = 0; n < N; n++) {
                Pair v = {sums[m][n][2 * half], sums[m][n][2 * half + 1]};
                if (is_pair(n)) {
                    if (to.kind != STORE) v = {old[half][n].x + to.scale * v.x, old[half][n].y + to.scale * v.y};
                    *(Pair*)(y + n * 8) = v;
                } else {
                    u32 own = i + n * 8;
                    if (own < p.w_rows) finish(run, to, own_row(half), own, v.x);
                    if (own + 1 < p.w_rows) finish(run, to, own_row(half), own + 1, v.y);
                }
            }
        }
    }
}

template <u32 M, u32 N>
__device__ INLINE void multiply_units(Run run, u32 passed, const Multiply& p) {
    using Unit = HalfUnit<M, N>;
    u32 rows = run.shared().rows, columns = div_up(p.w_rows, Unit::WEIGHTS), units = columns * div_up(rows, Unit::ROWS);
    u32 steps = p.len / HALF_DEPTH, lane = run.lane();
    u16* stages = (u16*)run.shared().row;

    // What comes next: a stage of a unit. A thread brings pieces of rows THREADS / 8 apart. Where there are no rows, there is room for whole units.
    u32 next_unit = first_unit(passed), next_step = 0, piece = half_place(run.thread / 8, run.thread % 8);
    const u16 *next_x = nullptr, *next_w = nullptr;
    auto bring = [&](u32 stage) {
        if (next_unit < units) {
            if (next_step == 0) {
                u32 own = run.thread / 8 * p.len + run.thread % 8 * 8;
                next_x = run.halves(p.x) + next_unit / columns * Unit::ROWS * p.len + own;
                next_w = run.halves(p.w) + next_unit % columns * Unit::WEIGHTS * p.len + own;
            }
#pragma unroll
            for (u32 k = 0; k < Unit::PIECES; k++)
                copy_async(stages + stage * Unit::STAGE + piece + k * (THREADS / 8) * HALF_DEPTH,
                           (k < M ? next_x + k * (THREADS / 8) * p.len : next_w + (k - M) * (THREADS / 8) * p.len));
            next_x += HALF_DEPTH, next_w += HALF_DEPTH;
            if (++next_step == steps) next_step = 0, next_unit += blocks();
        }
        end_copies();
    };
    u32 first_row = run.warp() / 4 * 16 * M, first_weight = run.warp() % 4 * 8 * N;
    u32 own_rows = half_place(first_row + lane % 16, lane / 16);
    u32 own_weights = half_place(Unit::ROWS + first_weight + lane / 16 * 8 + lane % 8, lane / 8 % 2);
    u32 stage = 0;
    for (u32 k = 0; k + 1 < p.stages; k++) bring(k);
    for (u32 unit = first_unit(passed); unit < units; unit += blocks()) {
        float sums[M][N][4] = {};
        for (u32 step = 0; step < steps; step++) {
            await_copies_but(p.stages - 2);
            // What all have brought is there, and the stage before has been read.
            __syncthreads();
            bring(stage == 0 ? p.stages - 1 : stage - 1);
            HalfPlace here = HalfPlace(stages) + stage * Unit::STAGE;
#pragma unroll
            for (u32 k = 0; k < HALF_DEPTH / 16; k++) {
                // Two eighths further on: other bits of the place.
                u32 a[M][4], b[4];
#pragma unroll
                for (u32 m = 0; m < M; m++) load_matrices(a[m], here + (own_rows ^ 16 * k) + m * 16 * HALF_DEPTH);
#pragma unroll
                for (u32 n = 0; n < N; n += 2) {
                    load_matrices(b, here + (own_weights ^ 16 * k) + n * 8 * HALF_DEPTH);
#pragma unroll
                    for (u32 m = 0; m < M; m++) {
                        mma_f16(sums[m][n], a[m], b[0], b[1]);
                        mma_f16(sums[m][n + 1], a[m], b[2], b[3]);
                    }
                }
            }
            stage = stage + 1 == p.stages ? 0 : stage + 1;
        }
        finish_unit<M, N>(run, p, unit / columns * Unit::ROWS + first_row + lane / 4, unit % columns * Unit::WEIGHTS + first_weight + lane % 4 * 2, sums);
    }
}

__device__ OUTLINED void op_multiply(Run run, u32 passed, const Multiply& p) {
    static_assert(HalfUnit<3, 6>::STAGE == 384 * HALF_DEPTH && HalfUnit<2, 6>::STAGE == 320 * HALF_DEPTH && HalfUnit<1, 6>::STAGE == 256 * HALF_DEPTH,
                  "no room for stages");
    u32 rows = run.shared().rows, columns = div_up(p.w_rows, HalfUnit<1, 6>::WEIGHTS);
    // What units of 64, 128 and 192 rows take, about.
    auto cost = [&](u32 unit_rows, u32 one) { return unit_rows > p.most_rows ? NONE : div_up(div_up(rows, unit_rows) * columns, blocks()) * one; };
    u32 costs[3] = {cost(64, 8), cost(128, 10), cost(192, 13)};
    if (costs[2] < costs[1] && costs[2] < costs[0]) multiply_units<3, 6>(run, passed, p);
    else if (costs[1] < costs[0]) multiply_units<2, 6>(run, passed, p);
    else multiply_units<1, 6>(run, passed, p);
}

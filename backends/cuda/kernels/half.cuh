// Products of many rows in f16 with sums in f32, by tensor cores: several times as fast as the contract's sums, whose bits they do not
// have. Only programs for who asked for that have them.
#pragma once
#include "product.cuh"

#define HALF_WEIGHTS 192  // rows of weights of a unit

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
        u32 rows = div_up(p.w.rows, HALF_WEIGHTS) * HALF_WEIGHTS;
        *(Words*)(run.halves(p.to) + half_place(rows, row, g * GROUP + eighth * 8)) = {
            to_halves(v[0], v[1]), to_halves(v[2], v[3]), to_halves(v[4], v[5]), to_halves(v[6], v[7])};
    }
}

// A unit of a product: `ROWS` rows by `HALF_WEIGHTS` rows of weights, of which each of 4 by 4 warps has `M` tiles of 16 by `N` of 8. A stage is
// 64 columns of both.
template <u32 M, u32 N>
struct HalfUnit {
    static constexpr u32 ROWS = 64 * M, STAGE = (ROWS + HALF_WEIGHTS) * HALF_DEPTH;  // halves
    static_assert(32 * N == HALF_WEIGHTS, "warps have all weights");
};

// Takes a thread's results of a unit to where they go.
template <u32 M, u32 N>
__device__ INLINE void finish_unit(Run run, const Multiply& p, u32 unit, const float (&sums)[M][N][4]) {
    const Target& to = p.to;
    // Found out here: registers for it through the whole product would be too many.
    Run own = {thread_in(unit), run.turn};
    u32 columns = div_up(p.w_rows, HALF_WEIGHTS);
    u32 row = unit / columns * HalfUnit<M, N>::ROWS + own.warp() / 4 * 16 * M + own.lane() / 4;
    u32 i = unit % columns * HALF_WEIGHTS + own.warp() % 4 * 8 * N + own.lane() % 4 * 2;
    auto is_pair = [&](u32 n) { return p.pairs && i + n * 8 + 1 < p.w_rows; };
    u32 rows = run.shared().rows;
    float* scratch = *(float* const volatile*)&run.shared().params.scratch;
    auto at = [&](Vector v) { return scratch + (v.start + row * v.stride); };
    float* y = at(to.y) + i;
    u16* y_halves = (u16*)at(to.y) + i;
    const float* before = at(to.before) + i;
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
                    if (own_row(half) < rows && is_pair(n)) old[half][n] = load_pair(before + (m * 16 + half * 8) * to.before.stride + n * 8);
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            if (own_row(half) >= rows) return;
            float* own_y = y + (m * 16 + half * 8) * to.y.stride;
#pragma unroll
            for (u32 n = 0; n < N; n++) {
                Pair v = {sums[m][n][2 * half], sums[m][n][2 * half + 1]};
                if (to.kind == STORE_HALVES) {
                    if (i + n * 8 < p.w_rows) *(u32*)(y_halves + (m * 16 + half * 8) * 2 * to.y.stride + n * 8) = to_halves(v.x, v.y);
                } else if (is_pair(n)) {
                    if (to.kind != STORE) v = {old[half][n].x + to.scale * v.x, old[half][n].y + to.scale * v.y};
                    *(Pair*)(own_y + n * 8) = v;
                } else if (!p.pairs || p.w_rows % 2 > 0) {
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
    u32 columns = div_up(p.w_rows, HALF_WEIGHTS), units = columns * div_up(run.shared().rows, Unit::ROWS);
    u32 steps = p.len / HALF_DEPTH, lane = run.lane();
    u16* memory = (u16*)run.shared().row;
    Stages stages(run.shared().arrivals, p.stages);

    // What comes next: a stage of a unit. Where there are no rows, there is room for whole units.
    u32 next_unit = first_unit(passed), next_step = 0;
    auto fill = [&](u32 stage) {
        if (next_unit >= units) return stages.skip();
        u16* to = memory + stage * Unit::STAGE;
        const u16* x = run.halves(p.x) + half_place(p.x_rows, next_unit / columns * Unit::ROWS, next_step * HALF_DEPTH);
        const u16* w = run.halves(p.w) + half_place(columns * HALF_WEIGHTS, next_unit % columns * HALF_WEIGHTS, next_step * HALF_DEPTH);
        stages.fill(stage, to, x, Unit::ROWS * HALF_DEPTH * 2, to + Unit::ROWS * HALF_DEPTH, w, HALF_WEIGHTS * HALF_DEPTH * 2);
        if (++next_step == steps) next_step = 0, next_unit += blocks();
    };
    u32 first_row = run.warp() / 4 * 16 * M, first_weight = run.warp() % 4 * 8 * N;
    u32 own_rows = half_place(0, first_row + lane % 16, lane / 16 * 8);
    u32 own_weights = half_place(0, Unit::ROWS + first_weight + lane / 16 * 8 + lane % 8, lane / 8 % 2 * 8);
    u32 stage = 0, round = 0;
    for (u32 k = 0; k + 1 < p.stages; k++) fill(k);
    for (u32 unit = first_unit(passed); unit < units; unit += blocks()) {
        float sums[M][N][4] = {};
        for (u32 step = 0; step < steps; step++) {
            stages.await(stage, round);
            // What all have brought is there, and the stage before has been read.
            __syncthreads();
            fill(stage == 0 ? p.stages - 1 : stage - 1);
            HalfPlace here = HalfPlace(memory) + stage * Unit::STAGE;
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
            if (++stage == p.stages) stage = 0, round++;
        }
        finish_unit<M, N>(run, p, unit, sums);
    }
    stages.close();
}

__device__ OUTLINED void op_multiply(Run run, u32 passed, const Multiply& p) {
    u32 rows = run.shared().rows, columns = div_up(p.w_rows, HALF_WEIGHTS);
    // What units of 64, 128 and 192 rows take, about.
    auto cost = [&](u32 unit_rows, u32 one) { return unit_rows > p.most_rows ? NONE : div_up(div_up(rows, unit_rows) * columns, blocks()) * one; };
    u32 costs[3] = {cost(64, 8), cost(128, 10), cost(192, 13)};
    if (costs[2] < costs[1] && costs[2] < costs[0]) multiply_units<3, 6>(run, passed, p);
    else if (costs[1] < costs[0]) multiply_units<2, 6>(run, passed, p);
    else multiply_units<1, 6>(run, passed, p);
}

// Products of many rows in f16 with sums in f32, by tensor cores: several times as fast as the contract's sums, whose bits they do not
// have. Only programs for who asked for that have them.
#pragma once
#include "product.cuh"

#define HALF_WEIGHTS 192  // rows of weights of a unit
#define HALF_ALIGN 1024   // bytes, to which stages are aligned, as addresses of the tensor cores are

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

#define WARP_WEIGHTS 6  // tiles of 8 rows of weights whose results a warp takes to where they go at once

// How warps share a unit of a product: `ROWS` rows by `HALF_WEIGHTS` rows of weights. `multiply` adds a stage of both, and calls `meet` once,
// after the thread has read the stage before and, if it reads what other threads have brought, before it reads this one.
//
// By 4 by 4 warps, of which each has `M` tiles of 16 rows by `WARP_WEIGHTS` of 8, out of registers.
template <u32 M>
struct WarpTiles {
    static constexpr u32 ROWS = 64 * M;
    static_assert(4 * 8 * WARP_WEIGHTS == HALF_WEIGHTS, "four warps have all weights");

    float sums[M][WARP_WEIGHTS][4] = {};

    template <class Meet>
    __device__ INLINE void multiply(Run run, HalfPlace rows, HalfPlace weights, Meet meet) {
        meet();
        u32 lane = run.lane(), first_row = run.warp() / 4 * 16 * M, first_weight = run.warp() % 4 * 8 * WARP_WEIGHTS;
        u32 own_rows = half_place(0, first_row + lane % 16, lane / 16 * 8);
        u32 own_weights = half_place(0, first_weight + lane / 16 * 8 + lane % 8, lane / 8 % 2 * 8);
#pragma unroll
        for (u32 k = 0; k < HALF_DEPTH / 16; k++) {
            // Two eighths further on: other bits of the place.
            u32 a[M][4], b[4];
#pragma unroll
            for (u32 m = 0; m < M; m++) load_matrices(a[m], rows + (own_rows ^ 16 * k) + m * 16 * HALF_DEPTH);
#pragma unroll
            for (u32 n = 0; n < WARP_WEIGHTS; n += 2) {
                load_matrices(b, weights + (own_weights ^ 16 * k) + n * 8 * HALF_DEPTH);
#pragma unroll
                for (u32 m = 0; m < M; m++) {
                    mma_f16(sums[m][n], a[m], b[0], b[1]);
                    mma_f16(sums[m][n + 1], a[m], b[2], b[3]);
                }
            }
        }
    }
    __device__ INLINE void end() {}
    // `each(row, i, results)`: a thread's results of two rows of a tile, from row `row` and weight `i` of the unit on.
    template <class Each>
    __device__ INLINE void for_results(Run run, Each each) const {
#pragma unroll
        for (u32 m = 0; m < M; m++)
            each(run.warp() / 4 * 16 * M + m * 16 + run.lane() / 4, run.warp() % 4 * 8 * WARP_WEIGHTS + run.lane() % 4 * 2, sums[m]);
    }
};

#ifdef SARIT_WARP_GROUPS
// By `M` groups of four warps, of which each has 64 rows by all weights, out of shared memory; the other warps have nothing.
template <u32 M>
struct GroupTiles {
    static constexpr u32 ROWS = 64 * M;
    static_assert(M <= WARPS / 4, "there are so many groups");

    float sums[HALF_WEIGHTS / 8][4] = {};

    template <class Meet>
    __device__ INLINE void multiply(Run run, HalfPlace rows, HalfPlace weights, Meet meet) {
        if (run.warp() / 4 < M) multiply_group(sums, rows + run.warp() / 4 * 64 * HALF_DEPTH, weights);
        await_earlier_groups();
        meet();
    }
    __device__ INLINE void end() { await_groups(sums); }
    template <class Each>
    __device__ INLINE void for_results(Run run, Each each) const {
        if (run.warp() / 4 >= M) return;
#pragma unroll
        for (u32 n = 0; n < HALF_WEIGHTS / 8; n += WARP_WEIGHTS)
            each(run.warp() * 16 + run.lane() / 4, n * 8 + run.lane() % 4 * 2, *(const float(*)[WARP_WEIGHTS][4])(sums + n));
    }
};
template <u32 M>
using Tiles = GroupTiles<M>;
#else
template <u32 M>
using Tiles = WarpTiles<M>;
#endif

// Takes a thread's results of two rows of a tile, from `row` and `i` on, to where they go.
__device__ INLINE void finish_tile(Run run, const Multiply& p, u32 row, u32 i, const float (&sums)[WARP_WEIGHTS][4]) {
    const Target& to = p.to;
    auto is_pair = [&](u32 n) { return p.pairs && i + n * 8 + 1 < p.w_rows; };
    u32 rows = run.shared().rows;
    float* scratch = *(float* const volatile*)&run.shared().params.scratch;
    auto at = [&](Vector v) { return scratch + (v.start + row * v.stride); };
    float* y = at(to.y) + i;
    u16* y_halves = (u16*)at(to.y) + i;
    const float* before = at(to.before) + i;
    // All that is added to comes before anything is written: loads behind a write would wait for each other.
    Pair old[2][WARP_WEIGHTS] = {};
    if (to.kind == ADD)
#pragma unroll
        for (u32 half = 0; half < 2; half++)
#pragma unroll
            for (u32 n = 0; n < WARP_WEIGHTS; n++)
                if (row + half * 8 < rows && is_pair(n)) old[half][n] = load_pair(before + half * 8 * to.before.stride + n * 8);
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        if (row + half * 8 >= rows) return;
        float* own_y = y + half * 8 * to.y.stride;
#pragma unroll
        for (u32 n = 0; n < WARP_WEIGHTS; n++) {
            Pair v = {sums[n][2 * half], sums[n][2 * half + 1]};
            if (to.kind == STORE_HALVES) {
                if (i + n * 8 < p.w_rows) *(u32*)(y_halves + half * 8 * 2 * to.y.stride + n * 8) = to_halves(v.x, v.y);
            } else if (is_pair(n)) {
                if (to.kind != STORE) v = {old[half][n].x + to.scale * v.x, old[half][n].y + to.scale * v.y};
                *(Pair*)(own_y + n * 8) = v;
            } else if (!p.pairs || p.w_rows % 2 > 0) {
                u32 own = i + n * 8;
                if (own < p.w_rows) finish(run, to, row + half * 8, own, v.x);
                if (own + 1 < p.w_rows) finish(run, to, row + half * 8, own + 1, v.y);
            }
        }
    }
}

// All units, of which `Own` is how warps share one.
template <class Own>
__device__ INLINE void multiply_units(Run run, u32 passed, const Multiply& p) {
    constexpr u32 ROWS_LEN = Own::ROWS * HALF_DEPTH, WEIGHTS_LEN = HALF_WEIGHTS * HALF_DEPTH, STAGE = ROWS_LEN + WEIGHTS_LEN;
    u32 columns = div_up(p.w_rows, HALF_WEIGHTS), units = columns * div_up(run.shared().rows, Own::ROWS);
    u32 steps = p.len / HALF_DEPTH;
    u16* memory = (u16*)(((u64)run.shared().row + HALF_ALIGN - 1) / HALF_ALIGN * HALF_ALIGN);
    Stages stages(run.shared().arrivals, p.stages);

    // What comes next: a stage of a unit. Where there are no rows, there is room for whole units.
    u32 next_unit = first_unit(passed), next_step = 0;
    auto fill = [&](u32 stage) {
        if (next_unit >= units) return stages.skip();
        u16* to = memory + stage * STAGE;
        const u16* x = run.halves(p.x) + half_place(p.x_rows, next_unit / columns * Own::ROWS, next_step * HALF_DEPTH);
        const u16* w = run.halves(p.w) + half_place(columns * HALF_WEIGHTS, next_unit % columns * HALF_WEIGHTS, next_step * HALF_DEPTH);
        stages.fill(stage, to, x, ROWS_LEN * 2, to + ROWS_LEN, w, WEIGHTS_LEN * 2);
        if (++next_step == steps) next_step = 0, next_unit += blocks();
    };
    u32 stage = 0, round = 0;
    for (u32 k = 0; k + 1 < p.stages; k++) fill(k);
    for (u32 unit = first_unit(passed); unit < units; unit += blocks()) {
        Own tiles;
        for (u32 step = 0; step < steps; step++) {
            stages.await(stage, round);
            HalfPlace here = HalfPlace(memory) + stage * STAGE;
            tiles.multiply(run, here, here + ROWS_LEN, [&] {
                sync_block();
                fill(stage == 0 ? p.stages - 1 : stage - 1);
            });
            if (++stage == p.stages) stage = 0, round++;
        }
        tiles.end();
        // Found out here: registers for it through the whole product would be too many.
        Run own = {thread_in(unit), run.turn};
        tiles.for_results(own, [&](u32 row, u32 i, const float(&sums)[WARP_WEIGHTS][4]) {
            finish_tile(own, p, unit / columns * Own::ROWS + row, unit % columns * HALF_WEIGHTS + i, sums);
        });
    }
    stages.close();
}

__device__ OUTLINED void op_multiply(Run run, u32 passed, const Multiply& p) {
    u32 rows = run.shared().rows, columns = div_up(p.w_rows, HALF_WEIGHTS);
    // What units of 64, 128 and 192 rows take, about.
    auto cost = [&](u32 unit_rows, u32 one) { return unit_rows > p.most_rows ? NONE : div_up(div_up(rows, unit_rows) * columns, blocks()) * one; };
    u32 costs[3] = {cost(64, 8), cost(128, 10), cost(192, 13)};
    if (costs[2] < costs[1] && costs[2] < costs[0]) multiply_units<Tiles<3>>(run, passed, p);
    else if (costs[1] < costs[0]) multiply_units<Tiles<2>>(run, passed, p);
    else multiply_units<Tiles<1>>(run, passed, p);
}

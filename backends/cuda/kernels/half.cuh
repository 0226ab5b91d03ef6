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

// As `finish`, of two elements beside each other, with neither bias nor addend.
__device__ INLINE void finish_pair(Run run, const Target& to, u64 row, u32 i, Pair v) {
    if (to.kind != STORE) v.x *= to.scale, v.y *= to.scale;
    if (to.kind == ADD) {
        Pair before = load_pair(run.at(to.before, row) + i);
        v.x += before.x, v.y += before.y;
    }
    *(Pair*)(run.at(to.y, row) + i) = v;
}

template <u32 M, u32 N>
__device__ INLINE void multiply_units(Run run, u32 passed, const Multiply& p) {
    using Unit = HalfUnit<M, N>;
    u32 rows = run.shared().rows, columns = div_up(p.w_rows, Unit::WEIGHTS), units = columns * div_up(rows, Unit::ROWS);
    u32 steps = p.len / HALF_DEPTH, lane = run.lane();
    u16* stages = (u16*)run.shared().row;
    const u16 *x = run.halves(p.x), *w = run.halves(p.w);

    // What comes next: a stage of a unit. A thread brings pieces of rows THREADS / 8 apart.
    u32 next_unit = first_unit(passed), next_step = 0, piece = half_place(run.thread / 8, run.thread % 8);
    const u16* from[Unit::PIECES] = {};
    auto bring = [&](u32 stage) {
        if (next_unit < units) {
#pragma unroll
            for (u32 k = 0; k < Unit::PIECES; k++) {
                u32 row = run.thread / 8 + k * (THREADS / 8);
                if (next_step == 0) {
                    // Where there is no row, the last one again.
                    bool is_weight = row >= Unit::ROWS;
                    u32 wanted = is_weight ? next_unit % columns * Unit::WEIGHTS + row - Unit::ROWS : next_unit / columns * Unit::ROWS + row;
                    u32 last = (is_weight ? p.w_rows : rows) - 1;
                    from[k] = (is_weight ? w : x) + (u64)(wanted < last ? wanted : last) * p.len + run.thread % 8 * 8;
                }
                copy_async(stages + stage * Unit::STAGE + piece + k * (THREADS / 8) * HALF_DEPTH, from[k]);
                from[k] += HALF_DEPTH;
            }
            if (++next_step == steps) next_step = 0, next_unit += blocks();
        }
        end_copies();
    };
    bool has_pairs = (p.to.y.start | p.to.y.stride | p.to.before.start | p.to.before.stride) % 2 == 0 && p.to.bias == NONE && p.to.addend.start == NONE;
    u32 first_row = run.warp() / 4 * 16 * M, first_weight = run.warp() % 4 * 8 * N;
    const u16* own_rows = stages + half_place(first_row + lane % 16, lane / 16);
    const u16* own_weights = stages + half_place(Unit::ROWS + first_weight + lane / 16 * 8 + lane % 8, lane / 8 % 2);
    u32 stage = 0;
    for (u32 k = 0; k + 1 < p.stages; k++) bring(k);
    for (u32 unit = first_unit(passed); unit < units; unit += blocks()) {
        float sums[M][N][4] = {};
        for (u32 step = 0; step < steps; step++) {
            await_copies_but(p.stages - 2);
            // What all have brought is there, and the stage before has been read.
            __syncthreads();
            bring(stage == 0 ? p.stages - 1 : stage - 1);
#pragma unroll
            for (u32 k = 0; k < HALF_DEPTH / 16; k++) {
                // Two eighths further on: other bits of the place.
                auto at = [&](const u16* own, u32 row) {
                    u32 place = (u32)(own - stages) ^ 16 * k;
                    return stages + stage * Unit::STAGE + place + row * HALF_DEPTH;
                };
                u32 a[M][4], b[N / 2][4];
#pragma unroll
                for (u32 m = 0; m < M; m++) load_matrices(a[m], at(own_rows, m * 16));
#pragma unroll
                for (u32 n = 0; n < N / 2; n++) load_matrices(b[n], at(own_weights, n * 16));
#pragma unroll
                for (u32 m = 0; m < M; m++)
#pragma unroll
                    for (u32 n = 0; n < N; n++) mma_f16(sums[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
            }
            stage = stage + 1 == p.stages ? 0 : stage + 1;
        }
        u32 row = unit / columns * Unit::ROWS + first_row + lane / 4, i = unit % columns * Unit::WEIGHTS + first_weight + lane % 4 * 2;
#pragma unroll
        for (u32 m = 0; m < M; m++)
#pragma unroll
            for (u32 n = 0; n < N; n++)
#pragma unroll
                for (u32 e = 0; e < 4; e += 2) {
                    u32 own_row = row + m * 16 + e / 2 * 8, own = i + n * 8;
                    if (own_row >= rows) continue;
                    if (has_pairs && own + 1 < p.w_rows) {
                        finish_pair(run, p.to, own_row, own, {sums[m][n][e], sums[m][n][e + 1]});
                        continue;
                    }
                    for (u32 k = 0; k < 2; k++)
                        if (own + k < p.w_rows) finish(run, p.to, own_row, own + k, sums[m][n][e + k]);
                }
    }
}

__device__ OUTLINED void op_multiply(Run run, u32 passed, const Multiply& p) {
    using Large = HalfUnit<2, 6>;
    using Small = HalfUnit<1, 6>;
    static_assert(Large::WEIGHTS == Small::WEIGHTS && Large::STAGE == 320 * HALF_DEPTH && Small::STAGE == 256 * HALF_DEPTH, "no room for stages");
    u32 rows = run.shared().rows, columns = div_up(p.w_rows, Large::WEIGHTS);
    auto rounds = [&](u32 unit_rows) { return div_up(div_up(rows, unit_rows) * columns, blocks()); };
    // A small unit takes more than half as long as a large one.
    if (!p.large || 4 * rounds(Small::ROWS) < 7 * rounds(Large::ROWS)) multiply_units<1, 6>(run, passed, p);
    else multiply_units<2, 6>(run, passed, p);
}

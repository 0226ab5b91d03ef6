// Weights of long products with one row, which come to shared memory before they are needed: a thread that does nothing else goes through
// them in the order of the program, as far ahead as there are places, whatever operation runs. The engine for such copies makes them, so that they take no
// registers; and no more are under way than memory needs to be busy, for what the operations read meanwhile waits behind them.
#pragma once
#include "matrix.cuh"

// The thread that says what has been used.
#define RING_THREAD (THREADS - 32)

__device__ INLINE Ring& ring_of() { return ((Shared*)shared_memory())->ring; }

// Whether the weights of a product come so. Kernels without feeding threads load them into registers.
__device__ INLINE bool comes_ahead(const Product& p) {
#ifdef SARIT_FEEDS
    return p.ahead.slots > 0;
#else
    return false;
#endif
}

// Behind all else in shared memory.
__device__ INLINE u8* ring_place(Run run, u32 slot, u32 place_bytes) {
    return (u8*)(run.row_codes_start() + 10 * run.p().shared_groups) + slot * place_bytes;
}

// Before all threads of the block meet for the first time.
__device__ INLINE void ring_open(const Params& p) {
    if (threadIdx.x > 0) return;
    Ring& ring = ring_of();
    for (u32 slot = 0; slot < p.ahead.slots; slot++) Arrival(ring.come + slot).open(), Arrival(ring.gone + slot).open();
    Arrival::opened();
    ring.used = ring.is_over = 0;
}

// When the last operation has run.
__device__ INLINE void ring_close() {
    if (threadIdx.x == 0) ring_of().is_over = 1;
}

// The row of tiles that is number `n` of `count`.
__device__ INLINE u32 tile_row_of(u32 n, u32 count, u32 begin) { return n + begin < count ? n + begin : n + begin - count; }

// A place of the ring, and the round in which it is.
struct RingPlace {
    u32 slot, round;

    __device__ void advance(u32 slots) {
        if (++slot == slots) slot = 0, round++;
    }
};

// Until that: the pieces of the block's rows of tiles of all matrices of the launch, over and over.
__device__ OUTLINED void ring_feed() {
    give_registers();
    if (threadIdx.x > THREADS) return;
    Run run = {0, 0};
    Ring& ring = ring_of();
    // Constants of the launch, which come from shared memory once.
    const Ahead p = run.p().ahead;
    const u8* model = run.p().model;
    u8* places = ring_place(run, 0, 0);
    // The next piece's, and that of the first one that may be under way.
    RingPlace next = {0, 0}, oldest = {0, 0};
    u32 under_way = 0;
    // What is under way has to come before the block leaves.
    auto end = [&] {
        for (; under_way > 0; under_way--, oldest.advance(p.slots)) Arrival(ring.come + oldest.slot).await(oldest.round);
    };
    for (u32 entry = p.first, without = p.first; without < p.last; entry = entry + 1 < p.last ? entry + 1 : p.first) {
        const LongProduct product = ((const LongProduct*)(run.p().tables + p.table))[entry];
        const Matrix& w = product.w;
        u32 groups = div_up(w.cols, GROUP), tile_rows = div_up(w.rows, TILE_ROWS), bytes = tile_bytes(w), n = first_unit(product.passed);
        // A block that has nothing of any matrix has no more to do.
        without = n < tile_rows ? p.first : without + 1;
        for (; n < tile_rows; n += blocks()) {
            const u16* scales;
            const u8* codes;
            tile_row_at(model, w, tile_row_of(n, tile_rows, product.begin), scales, codes);
            for (u32 left = groups; left > 0; next.advance(p.slots), under_way++) {
                u32 count = left < p.groups ? left : p.groups;
                while (next.round > 0 && !Arrival(ring.gone + next.slot).has(next.round - 1))
                    if (ring.is_over) return end();
                if (under_way == p.under_way) {
                    Arrival(ring.come + oldest.slot).await(oldest.round);
                    oldest.advance(p.slots), under_way--;
                }
                u8* to = places + next.slot * p.place_bytes;
                Arrival(ring.come + next.slot).fill<true>(to, codes, count * bytes, to + p.groups * bytes, scales, count * 32);
                codes += count * bytes, scales += count * 16, left -= count;
            }
        }
    }
}

// What the thread's first result is added to.
__device__ INLINE Posted ask_before(Run run, u32 passed, const Product& p) {
    u32 n = first_unit(passed) + run.warp() / 4 * blocks(), tile_rows = div_up(p.w.rows, TILE_ROWS);
    u32 i = tile_row_of(n, tile_rows, p.begin) * TILE_ROWS + run.warp() % 4 * 4 + run.lane();
    return p.settled && run.lane() < 4 && n < tile_rows && i < p.w.rows ? ask(run, p.to.before, 0, i) : Posted{};
}

#define TERM_STRIDE 20        // of groups in shared memory, so that lanes of the sum lie in different banks
#define WARP_GROUPS_MOST 13   // of a row of tiles for which there is room

// Word of a tile that a half-warp reads as its word `j` of `count`: those of the second half of a tile by pairs the other way around, so that
// both half-warps read other banks.
__device__ INLINE u32 tile_word(u32 half, u32 j, u32 count) { return half ? count + (j ^ 1) : j; }

// The codes of a warp's groups of the row, in the order of the words of tiles; and in q4 what the weights' codes being 8 more than they are makes.
template <u32 DTYPE>
struct WarpInput {
    u32 codes[WARP_GROUPS_MOST][4];
    int starts[WARP_GROUPS_MOST];

    __device__ WarpInput(const Input& in, u32 first, u32 count, u32 half) {
#pragma unroll
        for (u32 k = 0; k < WARP_GROUPS_MOST; k++) {
            if (k >= count) break;
            Words x = *(const Words*)(in.codes.of_group(first + k) + half * 4);
            u32 all[4] = {x.x, x.y, x.z, x.w};
            int sum = 0;
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                // In q4 a word of a tile goes with two words of the row.
                codes[k][j] = half ? all[DTYPE == Q8 ? j ^ 1 : j ^ 2] : all[j];
                sum = __dp4a(0x01010101, (int)all[j], sum);
            }
            starts[k] = DTYPE == Q4 ? -8 * sum : 0;
        }
    }
};

// What a warp's groups, from number `first` on, add to their lanes: `[group][row]`.
template <u32 DTYPE>
__device__ INLINE void warp_terms(Run run, const Input& in, const WarpInput<DTYPE>& own, const u8* codes, const u16* scales, u32 first, u32 count, float* terms) {
    constexpr u32 TILE_BYTES = DTYPE == Q8 ? 512 : 256;
    u32 r = run.half_lane(), half = run.lane() / 16;
    int dots[WARP_GROUPS_MOST + 1] = {};
#pragma unroll
    for (u32 k = 0; k < WARP_GROUPS_MOST; k++) {
        if (k >= count) break;
        u32 words[4] = {};
#pragma unroll
        for (u32 j = 0; j < TILE_BYTES / 128; j++) words[j] = *(const u32*)(codes + k * TILE_BYTES + tile_word(half, j, TILE_BYTES / 128) * 64 + r * 4);
        dots[k] = words_dot(DTYPE, words, own.codes[k], own.starts[k]);
    }
    // Of two groups the half-warps take one each.
#pragma unroll
    for (u32 k = 0; k < WARP_GROUPS_MOST; k += 2) {
        if (k >= count) break;
        int dot = (half ? dots[k + 1] : dots[k]) + __shfl_xor_sync(FULL, half ? dots[k] : dots[k + 1], 16);
        u32 mine = k + half, g = first + mine;
        if (mine >= count) continue;
        terms[g * TERM_STRIDE + r] = (float)dot * (half_to_float(scales[mine * 16 + r]) * in.codes.scales[(u64)g * in.codes.stride]);
    }
}

// `w · in` for one row, of which `before` is what the thread's first result is added to. Terms of a row of tiles go to shared memory, where four
// warps add them up in order while the others are at the next one.
template <u32 DTYPE>
__device__ INLINE void product_pieces(Run run, u32 passed, const Product& p, const Input& in, Posted before) {
    constexpr u32 TILE_BYTES = DTYPE == Q8 ? 512 : 256;
    const Ahead& a = p.ahead;
    u32 groups = div_up(p.w.cols, GROUP), tile_rows = div_up(p.w.rows, TILE_ROWS), buffers = PARTIALS / (groups * TERM_STRIDE);
    u32 parts = div_up(groups, a.groups), most = div_up(groups, WARPS), first = run.warp() * most, part = first / a.groups;
    u32 count = groups % WARPS == 0 ? most : first >= groups ? 0 : groups - first < most ? groups - first : most;
    WarpInput<DTYPE> own(in, first, count, run.lane() / 16);
    Ring& ring = run.shared().ring;
    u32 used = ring.used, round = 0;
    for (u32 n = first_unit(passed); n < tile_rows; n += blocks(), round++, used += parts) {
        u32 tile_row = tile_row_of(n, tile_rows, p.begin);
        float* terms = run.shared().partials + round % buffers * groups * TERM_STRIDE;
        if (count > 0) {
            u32 piece = used + part, slot = piece % a.slots, place = first - part * a.groups;
            Arrival(ring.come + slot).await(piece / a.slots);
            const u8* codes = ring_place(run, slot, a.place_bytes);
            const u16* scales = (const u16*)(codes + a.groups * TILE_BYTES) + place * 16;
            warp_terms<DTYPE>(run, in, own, codes + place * TILE_BYTES, scales, first, count, terms);
        }
        sync_block();
        if (run.thread == RING_THREAD)
            for (u32 k = 0; k < parts; k++) Arrival(ring.gone + (used + k) % a.slots).arrive();
        if (run.warp() / 4 == round % 4) {
            // A warp has four rows, and eight threads a row.
            u32 r = run.warp() % 4 * 4 + run.lane() % 4, lane = run.lane() / 4, i = tile_row * TILE_ROWS + r;
            float sum = 0.0f;
#pragma unroll 10
            for (u32 g = lane; g < groups; g += GROUP_LANES) sum += terms[g * TERM_STRIDE + r];
            // As `fold8`.
            for (int apart = 16; apart >= 4; apart /= 2) sum += __shfl_xor_sync(FULL, sum, apart);
            if (lane == 0 && i < p.w.rows) finish_asked(run, p.to, i, sum, p.settled && round < 4, before);
        }
        if (buffers == 1 && n + blocks() < tile_rows) sync_block();
    }
    if (run.thread == RING_THREAD) ring.used = used;
}

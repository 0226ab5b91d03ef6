// All operations.
#pragma once
#include "attention.cuh"
#include "choose.cuh"
#include "chunks.cuh"
#include "moe.cuh"
#include "steps.cuh"
#include "walk.cuh"

// `token` of each row through the embedding.
__device__ OUTLINED void op_embed(Run run, u32 passed, const Embed& p) {
    u64 all = (u64)run.shared().rows * p.w.cols;
    for (u64 n = grid_thread(run, passed); n < all; n += grid_threads()) {
        u32 row = n / p.w.cols, i = n % p.w.cols, token = run.p().tokens[row];
        const u8* data = run.p().model + (u64)p.w.data * 64;
        float x;
        if (p.w.dtype == F32) {
            x = ((const float*)data)[(u64)token * p.w.cols + i];
        } else if (p.w.dtype == F16) {
            x = half_to_float(((const u16*)data)[(u64)token * p.w.cols + i]);
        } else {
            const u16* scales;
            const u8* codes;
            tile_row_at(run.p().model, p.w, token / 16, scales, codes);
            u32 g = i / GROUP, column = i % GROUP, r = token % 16;
            const u8* tile = codes + (u64)g * tile_bytes(p.w);
            int code = p.w.dtype == Q8
                           ? (int)(signed char)tile[column / 4 * 64 + r * 4 + column % 4]
                           : (int)(tile[column / 8 * 64 + r * 4 + column % 4] >> (column % 8 / 4 * 4) & 15) - 8;
            x = (float)code * half_to_float(scales[g * 16 + r]);
        }
        x *= p.scale;
        put(run, p.residual, row, i, x);
        if (p.embedded.start != NONE) run.at(p.embedded, row)[i] = x;
    }
}

// A word of an operation that is a place, which the operation has.
__device__ INLINE u32 place(u32 word) {
#ifdef SARIT_SPECIAL
    __builtin_assume(word != NONE);
#endif
    return word;
}

// A record of words of which the compiler may know some.
template <class Record>
__device__ INLINE Record record(const u32 (&words)[sizeof(Record) / 4]) {
    Record r;
    memcpy(&r, words, sizeof r);
    return r;
}

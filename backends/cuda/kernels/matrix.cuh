// Matrices as they lie in the file, and what they are multiplied with.
#pragma once
#include "row.cuh"

#define TILE_ROWS 16

struct Input {
    RowCodes codes;
    const float* floats;
};

__device__ INLINE bool is_quantized(const Matrix& w) { return w.dtype >= Q8; }

// Rows that a block takes at once in `unit_product`: half the rows of a tile, or as many as there are half-warps.
__device__ INLINE u32 unit_rows(const Matrix& w) { return is_quantized(w) ? 8 : HALVES; }

__device__ INLINE u32 tile_bytes(const Matrix& w) { return w.dtype == Q8 ? 512 : 256; }

// Scales `[tile_row][group][16]` (f16) and codes `[tile_row][group][tile_bytes]` of a tile row.
__device__ INLINE void tile_row_at(const u8* model, const Matrix& w, u32 tile_row, const u16*& scales, const u8*& codes) {
    u64 groups = div_up(w.cols, GROUP);
    u64 scale_bytes = (div_up(w.rows, 16) * groups * 32 + 63) / 64 * 64;
    const u8* data = model + (u64)w.data * 64;
    scales = (const u16*)data + tile_row * groups * 16;
    codes = data + scale_bytes + tile_row * groups * tile_bytes(w);
}

// `dot` and the dot of `COUNT` words of codes of a row of weights with those of its input from `x` on; in q4 of half as many, whose bytes have two codes.
template <u32 COUNT>
__device__ INLINE int words_dot(u32 dtype, const u32 (&words)[COUNT], const u32* x, int dot = 0) {
#pragma unroll
    for (u32 j = 0; j < COUNT; j++) {
        if (dtype == Q8) {
            dot = __dp4a((int)words[j], (int)x[j], dot);
        } else if (j < COUNT / 2) {
            dot = __dp4a((int)(words[j] & 0x0f0f0f0fu), (int)x[2 * j], dot);
            dot = __dp4a((int)(words[j] >> 4 & 0x0f0f0f0fu), (int)x[2 * j + 1], dot);
        }
    }
    return dot;
}

// A CUDA device in C++: what `kernels/sarit.cu` needs of one, so that the kernels themselves run where there is none.
//
// Every thread of the grid is a fiber with a stack of its own; barriers and shuffles wait for the fibers that a device
// would wait for. Fibers run in an order that the seed shuffles, and go on until they wait: results that depend on the
// order differ between seeds. A grid in which all wait and none can go on is reported, as a device would hang.
#pragma once
#include <cstdint>
#include <cstring>
#include <vector>

#define __global__
#define __grid_constant__
#define __device__
#define __noinline__ static
#define __forceinline__ inline
#define __builtin_assume(condition)
#define __launch_bounds__(...)

#include <cmath>

#include "program.cuh"

namespace emulator {

struct Barrier {
    u32 arrived = 0, generation = 0, expected = 0;
};

struct Index {
    u32 x;
};

struct Fiber;
extern Fiber* self;
extern Index thread, block, grid;  // of the fiber that runs

// Waits until `expected` fibers have called it.
void await(Barrier& barrier);
// Lets the others run.
void yield();
// An effect that others may wait for.
void progress();

// Of the threads of a block that work, and of all.
Barrier& block_barrier();
Barrier& all_barrier();
u8* block_memory();
// Gives `words` to the other lanes of the warp and gets theirs, after all have come: `[32][count]`.
const u32* exchange(const u32* words, u32 count);

// A thread's part of a product by a group of warps, which goes on while the thread does.
struct GroupProduct {
    float (*d)[4];
    const u16 *a, *b;
};
// Those that the fiber has begun.
std::vector<GroupProduct>& products();
// As late as a device may: whatever lies there by then is multiplied.
void multiply_all_but(size_t later);

}  // namespace emulator

#define threadIdx emulator::thread
#define blockIdx emulator::block
#define gridDim emulator::grid

inline u32 __float_as_uint(float x) {
    u32 bits;
    memcpy(&bits, &x, 4);
    return bits;
}
inline float __uint_as_float(u32 bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
inline float __int_as_float(int bits) { return __uint_as_float((u32)bits); }

inline void __syncthreads() { emulator::await(emulator::all_barrier()); }
inline void sync_block() { emulator::await(emulator::block_barrier()); }
inline void __syncwarp() {
    u32 nothing = 0;
    emulator::exchange(&nothing, 1);
}
inline void relax() { emulator::yield(); }
inline void pause() { emulator::yield(); }
inline u32 load_acquire(const u32* p) { return *(const volatile u32*)p; }
inline u8* shared_memory() { return emulator::block_memory(); }

template <class T>
inline T __ldg(const T* p) {
    return *p;
}
template <class T>
inline const T* settled(const T* p) {
    return p;
}
inline u32 thread_in(u32) { return threadIdx.x; }
inline void give_registers() {}
inline void take_registers() {}
inline void come_nearer(const float*) {}
inline void store_floats(float* p, const Floats& v) { *(Floats*)p = v; }
inline u32 load_word(const u8* p) { return *(const u32*)p; }
inline Words load_words(const u8* p) { return *(const Words*)p; }
inline u32 load_codes(const u8* p) { return *(const u32*)p; }
inline u32 load_half(const u16* p) { return *p; }
inline float load_float(const float* p) { return *p; }
inline Words load_bits(const u16* p) { return *(const Words*)p; }
inline Pair load_pair(const float* p) { return *(const Pair*)p; }
inline Floats load_floats(const float* p) { return *(const Floats*)p; }
inline Posted load_posted(const Posted* p) { return {*(const volatile float*)&p->value, *(const volatile u32*)&p->turn}; }
inline void store_posted(Posted* p, Posted v) {
    emulator::progress();
    *p = v;
}

inline void copy_async(void* to, const void* from) { memcpy(to, from, 16); }
inline void copy_word_async(void* to, const void* from) { memcpy(to, from, 4); }
inline void await_copies() {}
inline void end_copies() {}
template <u32 LATER>
inline void await_sets() {}
// The word counts; copies come at once.
struct Arrival {
    volatile u64* word;

    explicit Arrival(u64* word) : word(word) {}
    void open() const { *word = 0; }
    static void opened() {}
    template <bool>
    void fill(void* to, const void* from, u32 bytes, void* to_second, const void* second, u32 second_bytes) const {
        memcpy(to, from, bytes);
        memcpy(to_second, second, second_bytes);
        *word = *word + 1;
        emulator::progress();
    }
    void arrive() const {
        *word = *word + 1;
        emulator::progress();
    }
    bool has(u32 round) const {
        if (*word % 2 != round % 2) return true;
        emulator::yield();
        return false;
    }
    void await(u32 round) const {
        while (!has(round)) {}
    }
};
struct Stages {
    Stages(u64*, u32) {}
    void fill(u32, void* to, const void* from, u32 bytes, void* to_second, const void* second, u32 second_bytes) const {
        if (threadIdx.x > 0) return;
        memcpy(to, from, bytes);
        memcpy(to_second, second, second_bytes);
    }
    void skip() const {}
    void await(u32, u32) const {}
    void close() const {}
};

inline u32 __shfl_xor_sync(u32, u32 x, int mask) { return emulator::exchange(&x, 1)[threadIdx.x % 32 ^ mask]; }
inline int __shfl_xor_sync(u32 all, int x, int mask) { return (int)__shfl_xor_sync(all, (u32)x, mask); }
inline float __shfl_xor_sync(u32 all, float x, int mask) {
    return __uint_as_float(__shfl_xor_sync(all, __float_as_uint(x), mask));
}
inline float __shfl_sync(u32, float x, u32 lane) {
    u32 own = __float_as_uint(x);
    return __uint_as_float(emulator::exchange(&own, 1)[lane]);
}
inline u32 __reduce_max_sync(u32, u32 x) {
    const u32* all = emulator::exchange(&x, 1);
    u32 most = 0;
    for (u32 i = 0; i < 32; i++) most = all[i] > most ? all[i] : most;
    return most;
}
inline int __reduce_add_sync(u32, int x) {
    u32 own = (u32)x, sum = 0;
    const u32* all = emulator::exchange(&own, 1);
    for (u32 i = 0; i < 32; i++) sum += all[i];
    return (int)sum;
}
inline u32 __ballot_sync(u32, bool x) {
    u32 own = x, all = 0;
    const u32* votes = emulator::exchange(&own, 1);
    for (u32 i = 0; i < 32; i++) all |= votes[i] << i;
    return all;
}
inline int __popc(u32 x) { return __builtin_popcount(x); }

inline u32 atomicAdd(u32* p, u32 x) {
    emulator::progress();
    u32 old = *p;
    *p += x;
    return old;
}
inline void add_release(u32* p) { atomicAdd(p, 1); }
inline u64 atomicMax(u64* p, u64 x) {
    u64 old = *p;
    *p = x > old ? x : old;
    return old;
}

inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 32; i += 8) c += (int)(int8_t)(a >> i) * (int)(int8_t)(b >> i);
    return c;
}

// The layouts of the PTX manual, "Matrix Fragments for mma.m16n8k32".
inline void mma_i8(int (&d)[4], const u32 (&a)[4], const u32 (&b)[2], int start) {
    u32 own[6] = {a[0], a[1], a[2], a[3], b[0], b[1]}, lane = threadIdx.x % 32;
    const u32* all = emulator::exchange(own, 6);
    for (u32 e = 0; e < 4; e++) {
        u32 lower = e / 2, row = lane / 4, column = lane % 4 * 2 + e % 2;
        d[e] = start;
        for (u32 part = 0; part < 4; part++) {
            const u32* x = all + (row * 4 + part) * 6;
            const u32* y = all + (column * 4 + part) * 6 + 4;
            d[e] = __dp4a((int)x[lower], (int)y[0], d[e]);
            d[e] = __dp4a((int)x[lower + 2], (int)y[1], d[e]);
        }
    }
}

inline float exp2_near(float x) { return std::exp2(x); }
inline float inverse_near(float x) { return 1.0f / x; }

struct HalfPlace {
    const u16* p;

    explicit HalfPlace(const u16* p) : p(p) {}
    HalfPlace operator+(u32 halves) const { return HalfPlace(p + halves); }
};

// The layouts of "ldmatrix": addresses go from lane to lane as two words.
inline void load_matrices(u32 (&to)[4], HalfPlace row, u32 row_step, u32 column_step) {
    u64 own = (u64)row.p;
    const u32* all = emulator::exchange((const u32*)&own, 2);
    u32 lane = threadIdx.x % 32;
    for (u32 i = 0; i < 4; i++) {
        to[i] = 0;
        for (u32 k = 0; k < 2; k++) {
            u32 r = lane / 4 * row_step + (lane % 4 * 2 + k) * column_step, c = lane / 4 * column_step + (lane % 4 * 2 + k) * row_step;
            u64 address;
            memcpy(&address, all + (i * 8 + r) * 2, 8);
            to[i] |= (u32)((const u16*)address)[c] << 16 * k;
        }
    }
}
inline void load_matrices(u32 (&to)[4], HalfPlace row) { load_matrices(to, row, 1, 0); }
inline void load_matrices_by_column(u32 (&to)[4], HalfPlace row) { load_matrices(to, row, 0, 1); }

inline float half_to_float(u16 bits) {
    u32 sign = (u32)(bits >> 15) << 31, exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent == 0) {
        float x = (float)fraction * (1.0f / 16777216.0f);
        return sign ? -x : x;
    }
    return __uint_as_float(sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13);
}

inline u32 rounded_half(float x) {
    u32 bits = __float_as_uint(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return sign | 0x7e00;
    if (magnitude >= 0x477ff000) return sign | 0x7c00;
    // Adding the power of two whose last bit is that of the half rounds to it, as the host's addition does.
    u32 exponent = magnitude >> 23 > 113 ? magnitude >> 23 : 113;
    float unit = __uint_as_float((exponent + 13) << 23), rounded = (__uint_as_float(magnitude) + unit) - unit;
    u32 units = (u32)(rounded * __uint_as_float((127 + 24 - (exponent - 113)) << 23));
    return sign | (units + ((exponent - 113) << 10));
}
inline u32 rounded_halves(float low, float high) { return rounded_half(low) | rounded_half(high) << 16; }

// The layouts of the PTX manual, "Matrix Fragments for mma.m16n8k16" of f16. The order of the sum is not the device's.
inline void mma_f16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    u32 own[6] = {a[0], a[1], a[2], a[3], b0, b1}, lane = threadIdx.x % 32;
    const u32* all = emulator::exchange(own, 6);
    for (u32 e = 0; e < 4; e++) {
        u32 lower = e / 2, row = lane / 4, column = lane % 4 * 2 + e % 2;
        for (u32 k = 0; k < 16; k++) {
            u32 x = all[(row * 4 + k % 8 / 2) * 6 + lower + k / 8 * 2] >> k % 2 * 16;
            u32 y = all[(column * 4 + k % 8 / 2) * 6 + 4 + k / 8] >> k % 2 * 16;
            d[e] += half_to_float((u16)x) * half_to_float((u16)y);
        }
    }
}

// Kernels made for a model multiply by groups of warps, so that both ways are tested.
#ifdef SARIT_SPECIAL
#define SARIT_WARP_GROUPS
inline void multiply_group(float (&d)[24][4], HalfPlace a, HalfPlace b) { emulator::products().push_back({d, a.p, b.p}); }
inline void await_earlier_groups() { emulator::multiply_all_but(1); }
inline void await_groups(float (&)[24][4]) { emulator::multiply_all_but(0); }
#endif

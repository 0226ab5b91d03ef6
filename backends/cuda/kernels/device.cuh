// What a device has and C++ has not. `emulator/src/emulator.h` has the same for tests without a device.
#pragma once
#include "program.cuh"

// Loads that stay where they stand, before a barrier: of weights, which nothing writes, and of floats that may be written. Of words whole
// lines come to the L2 cache, whose other parts other blocks load at about the same time.
__device__ INLINE Words load_words(const u8* p) {
    Words v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

__device__ INLINE u32 load_codes(const u8* p) {
    u32 v;
    asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
}

__device__ INLINE u32 load_half(const u16* p) {
    u16 v;
    asm volatile("ld.global.nc.u16 %0, [%1];" : "=h"(v) : "l"(p));
    return v;
}

__device__ INLINE float load_float(const float* p) {
    float v;
    asm volatile("ld.global.f32 %0, [%1];" : "=f"(v) : "l"(p));
    return v;
}

__device__ INLINE Pair load_pair(const float* p) {
    Pair v;
    asm volatile("ld.global.v2.f32 {%0,%1}, [%2];" : "=f"(v.x), "=f"(v.y) : "l"(p));
    return v;
}

__device__ INLINE Floats load_floats(const float* p) {
    Floats v;
    asm volatile("ld.global.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "l"(p));
    return v;
}

__device__ INLINE void store_floats(float* p, const Floats& v) {
    asm volatile("st.global.v4.f32 [%0], {%1,%2,%3,%4};" ::"l"(p), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory");
}

// Eight halves that may be written.
__device__ INLINE Words load_bits(const u16* p) {
    Words v;
    asm volatile("ld.global.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

// Posted numbers come from where all blocks see the same ones.
__device__ INLINE Posted load_posted(const Posted* p) {
    Posted v;
    asm volatile("{ .reg .b64 both; ld.relaxed.gpu.global.b64 both, [%2]; mov.b64 {%0,%1}, both; }" : "=f"(v.value), "=r"(v.turn) : "l"(p));
    return v;
}

__device__ INLINE void store_posted(Posted* p, Posted v) {
    asm volatile("{ .reg .b64 both; mov.b64 both, {%1,%2}; st.relaxed.gpu.global.b64 [%0], both; }" ::"l"(p), "f"(v.value), "r"(v.turn) : "memory");
}

// Waits for all threads of the block that work.
__device__ INLINE void sync_block() {
#ifdef SARIT_FEEDS
    asm volatile("barrier.sync 0, %0;" ::"n"(THREADS) : "memory");
#else
    __syncthreads();
#endif
}

// A pointer as it is: the compiler addresses what lies constants further from it, and does not keep a register for each
// through all operations.
template <class T>
__device__ INLINE const T* settled(const T* p) {
    asm("" : "+l"(p));
    return p;
}

// The number of a thread, seemingly dependent on `turn` of the operations: else what depends on the thread only would be
// computed before the first operation and kept through all, in registers that there are not.
__device__ INLINE u32 thread_in(u32 turn) {
    u32 thread = threadIdx.x;
    asm("" : "+r"(thread) : "r"(turn));
#ifdef SARIT_SPECIAL
    __builtin_assume(thread < THREADS);
#endif
    return thread;
}

// `THREADS + FEEDERS` threads have 96 registers each: the latter keep 32, and the others, who could use some more, get 112.
__device__ INLINE void give_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("setmaxnreg.dec.sync.aligned.u32 32;");
#endif
}

__device__ INLINE void take_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("setmaxnreg.inc.sync.aligned.u32 112;");
#endif
}

// Brings a line of memory to the L2 cache.
__device__ INLINE void come_nearer(const float* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

__device__ INLINE u32 load_word(const u8* p) { return __ldg((const u32*)p); }

__device__ INLINE float half_to_float(u16 bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}

// 16 bytes into shared memory, while the thread goes on; `await_copies` waits for all copies of a thread.
__device__ INLINE void copy_async(void* to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((u32)__cvta_generic_to_shared(to)), "l"(from) : "memory");
}

// The same of 4 bytes.
__device__ INLINE void copy_word_async(void* to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"((u32)__cvta_generic_to_shared(to)), "l"(from) : "memory");
}

__device__ INLINE void await_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Makes a set of a thread's copies since the last one; `await_sets` waits for all sets but the last `LATER`.
__device__ INLINE void end_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <u32 LATER>
__device__ INLINE void await_sets() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LATER) : "memory");
}

#if __CUDA_ARCH__ >= 900
#define SARIT_BULK
// A word of shared memory that knows when copies of whole pieces of memory have come, which the engine for such copies makes, two pieces a
// time; or when a thread has been there. One thread opens it and fills, others wait.
struct Arrival {
    u32 word;

    __device__ explicit Arrival(const u64* word) : word(place(word)) {}
    __device__ void open() const { asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(word) : "memory"); }
    // Copies see the words, and what was written as usual.
    __device__ static void opened() { asm volatile("fence.proxy.async;" ::: "memory"); }
    // `PASSES`: they are read once, and need not stay in the L2 cache.
    template <bool PASSES>
    __device__ void fill(void* to, const void* from, u32 bytes, void* to_second, const void* second, u32 second_bytes) const {
        asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(word), "r"(bytes + second_bytes) : "memory");
        copy<PASSES>(to, from, bytes);
        copy<PASSES>(to_second, second, second_bytes);
    }
    __device__ void arrive() const { asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(word) : "memory"); }
    // Whether that was once more, after `round` times; it may wait a while for it.
    __device__ bool has(u32 round) const {
        u32 done;
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                     : "=r"(done) : "r"(word), "r"(round & 1) : "memory");
        return done;
    }
    __device__ void await(u32 round) const {
        while (!has(round)) {}
    }
    __device__ void close() const { asm volatile("mbarrier.inval.shared.b64 [%0];" ::"r"(word) : "memory"); }

private:
    __device__ static u32 place(const void* p) { return (u32)__cvta_generic_to_shared(p); }
    template <bool PASSES>
    __device__ void copy(void* to, const void* from, u32 bytes) const {
        if (!PASSES) {
            asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(place(to)),
                         "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(word) : "memory");
            return;
        }
        asm volatile("{ .reg .b64 first; createpolicy.fractional.L2::evict_first.b64 first, 1.0; "
                     "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], first; }" ::"r"(place(to)),
                     "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(word) : "memory");
    }
};
#else
#ifdef SARIT_FEEDS
#error weights that come early need the engine for bulk copies of compute capability 9.0
#endif
// Nothing comes early here: what names it does not run.
struct Arrival {
    __device__ explicit Arrival(const u64*) {}
    __device__ void open() const {}
    __device__ static void opened() {}
    template <bool>
    __device__ void fill(void*, const void*, u32, void*, const void*, u32) const {}
    __device__ void arrive() const {}
    __device__ bool has(u32) const { return true; }
    __device__ void await(u32) const {}
};
#endif

// Stages of shared memory that are filled one after another while earlier ones are used, by copies of whole pieces of memory. All
// threads call each function. What other blocks wrote before a barrier may be copied.
#ifdef SARIT_BULK
// By the engine for such copies; `arrivals` has a word for each stage.
struct Stages {
    u64* arrivals;
    u32 count;

    __device__ Stages(u64* arrivals, u32 count) : arrivals(arrivals), count(count) {
        if (threadIdx.x == 0) {
            for (u32 k = 0; k < count; k++) Arrival(arrivals + k).open();
            Arrival::opened();
        }
        sync_block();
    }
    // Fills a stage, which all have used, with two pieces.
    __device__ void fill(u32 stage, void* to, const void* from, u32 bytes, void* to_second, const void* second, u32 second_bytes) const {
        if (threadIdx.x == 0) Arrival(arrivals + stage).fill<false>(to, from, bytes, to_second, second, second_bytes);
    }
    // In the place of `fill` where there is nothing more to copy.
    __device__ void skip() const {}
    // Until a stage is full once more, after `round` times.
    __device__ void await(u32 stage, u32 round) const { Arrival(arrivals + stage).await(round); }
    __device__ void close() const {
        sync_block();
        if (threadIdx.x > 0) return;
        for (u32 k = 0; k < count; k++) Arrival(arrivals + k).close();
    }
};
#else
// By all threads, 16 bytes each.
struct Stages {
    u32 count;

    __device__ Stages(u64*, u32 count) : count(count) {}
    __device__ void fill(u32, void* to, const void* from, u32 bytes, void* to_second, const void* second, u32 second_bytes) const {
        for (u32 i = 16 * threadIdx.x; i < bytes; i += 16 * THREADS) copy_async((u8*)to + i, (const u8*)from + i);
        for (u32 i = 16 * threadIdx.x; i < second_bytes; i += 16 * THREADS) copy_async((u8*)to_second + i, (const u8*)second + i);
        skip();
    }
    __device__ void skip() const { end_copies(); }
    // All but the last sets of copies have come.
    __device__ void await(u32, u32) const {
        switch (count) {
            case 2: await_sets<0>(); break;
            case 3: await_sets<1>(); break;
            default: await_sets<2>();
        }
    }
    __device__ void close() const {}
};
#endif

// A place of halves in shared memory. Places that are constants apart are so for the compiler too.
struct HalfPlace {
    u32 byte;

    __device__ explicit HalfPlace(const u16* p) : byte((u32)__cvta_generic_to_shared(p)) {}
    __device__ HalfPlace operator+(u32 halves) const {
        HalfPlace there = *this;
        there.byte += 2 * halves;
        return there;
    }
};

// Four matrices of 8 rows of 8 halves in shared memory, of which lane i has the place of row i % 8 of matrix i / 8: a lane gets two
// neighbours of row lane / 4 of each, or of column lane / 4.
__device__ INLINE void load_matrices(u32 (&to)[4], HalfPlace row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(row.byte));
}

__device__ INLINE void load_matrices_by_column(u32 (&to)[4], HalfPlace row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(row.byte));
}

// d (16x8) += a (16x16, rows) · b (16x8, columns), of halves.
__device__ INLINE void mma_f16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define SARIT_WARP_GROUPS
// Tiles of rows of 64 halves as `half_place` has them, from a multiple of 1,024 bytes on, as the tensor cores are told of them: the swizzle of
// 128 bytes (PTX, "wgmma", matrix descriptor), eight rows 1,024 bytes apart.
__device__ INLINE u64 tiles_at(HalfPlace p) { return (u64)((p.byte & 0x3ffff) >> 4) | (u64)(1024 >> 4) << 32 | 1ull << 62; }

#define SUMS_OF(n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define SUMS_OF_SIX(n) SUMS_OF(n), SUMS_OF(n + 1), SUMS_OF(n + 2), SUMS_OF(n + 3), SUMS_OF(n + 4), SUMS_OF(n + 5)

// d (64x192, by the warps of a group as `mma_f16` has its) += a (64x64) · b (192x64), both by rows. It goes on while the threads do.
__device__ INLINE void multiply_group(float (&d)[24][4], HalfPlace a, HalfPlace b) {
    u64 a_tiles = tiles_at(a), b_tiles = tiles_at(b);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (u32 k = 0; k < 4; k++)
        asm volatile(
            "{ .reg .pred adds; setp.eq.u32 adds, 0, 0; wgmma.mma_async.sync.aligned.m64n192k16.f32.f16.f16 "
            "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
            "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
            "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
            "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,"
            "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,"
            "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95}, "
            "%96, %97, adds, 1, 1, 0, 0; }"
            : SUMS_OF_SIX(0), SUMS_OF_SIX(6), SUMS_OF_SIX(12), SUMS_OF_SIX(18)
            // 16 columns are 32 bytes.
            : "l"(a_tiles + 2 * k), "l"(b_tiles + 2 * k));
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Until all but the last product that goes on have been added; and all.
__device__ INLINE void await_earlier_groups() { asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory"); }
__device__ INLINE void await_groups(float (&d)[24][4]) {
    asm volatile("wgmma.wait_group.sync.aligned 0;" : SUMS_OF_SIX(0), SUMS_OF_SIX(6), SUMS_OF_SIX(12), SUMS_OF_SIX(18)::"memory");
}
#endif

// Within some 2^-22 of the number, where programs need not have the contract's bits.
__device__ INLINE float exp2_near(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ INLINE float inverse_near(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Two floats in f16, rounded to even.
__device__ INLINE u32 rounded_halves(float low, float high) {
    u32 both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

// d (16x8) = start + a (16x32, rows) · b (32x8, columns), exact.
__device__ INLINE void mma_i8(int (&d)[4], const u32 (&a)[4], const u32 (&b)[2], int start) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(start));
}

__device__ INLINE void add_release(u32* p) {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(p) : "memory");
}

__device__ INLINE u32 load_acquire(const u32* p) {
    u32 x;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(p) : "memory");
    return x;
}

__device__ INLINE u8* shared_memory() {
    extern __shared__ __align__(16) u8 bytes[];
    return bytes;
}

// While a block waits for others; and while threads of all blocks ask for numbers that others write, whose way they would block.
__device__ INLINE void relax() {}
__device__ INLINE void pause() { __nanosleep(20); }

// One kernel runs a whole program: all blocks do one operation after another and wait for each other between them.
// `dispatch.cuh` here runs any program; that of a model's own kernels is written by `src/program/shapes.rs`.
// Two instances: for one row of activations (a decoded token), and for many (a prompt, or several streams).
#include "dispatch.cuh"

template <bool MANY>
__device__ INLINE void run_program(const Params& p) {
    Shared& shared = *(Shared*)shared_memory();
    if (threadIdx.x < sizeof(Params) / 4) ((u32*)&shared.params)[threadIdx.x] = ((const u32*)&p)[threadIdx.x];
    if (threadIdx.x == 0) {
        shared.rows = p.sequence_count * p.count, shared.step = 0;
        if (!MANY) shared.only_states = p.states + p.sequences->slot * p.state_len, shared.only_position = p.sequences->position;
    }
#ifdef SARIT_FEEDS
    if (!MANY) ring_open(p);
    __syncthreads();
    if (!MANY) {
        if (threadIdx.x >= THREADS) return ring_feed();
        take_registers();
    }
#else
    __syncthreads();
#endif
    Walk walk(p);
    walk.begin();
    while (true) {
        walk.fetch();
        if (MANY) walk.rest();
        run_ops<MANY>(walk);
        if (MANY) walk.rise();
        bool ends_step = walk.ends_step();
        // Nobody arrives at a barrier for which nobody waits: the last block to leave might set the counter back before that is seen.
        if (ends_step && walk.step + 1 == p.steps) break;
        walk.end(walk.op().wait);
        walk.advance();
        if (!ends_step) continue;
        // All have read the number of the step, and the word that says whether to stop has been written.
        walk.grid.wait();
        if (*(volatile u32*)(p.control + CONTROL_STOP)) break;
    }
#ifdef SARIT_FEEDS
    if (!MANY) ring_close();
#endif
    walk.grid.leave();
}

#ifdef SARIT_FEEDS
#define ONE_THREADS (THREADS + FEEDERS)
#else
#define ONE_THREADS THREADS
#endif

extern "C" __global__ void __launch_bounds__(ONE_THREADS, 1) sarit_one(const __grid_constant__ Params p) { run_program<false>(p); }

extern "C" __global__ void __launch_bounds__(THREADS, 1) sarit_many(const __grid_constant__ Params p) { run_program<true>(p); }

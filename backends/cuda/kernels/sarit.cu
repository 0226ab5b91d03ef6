// One kernel runs a whole program: all blocks do one operation after another and wait for each other between them.
// `dispatch.cuh` here runs any program; that of a model's own kernels is written by `src/program/shapes.rs`.
// Two instances: for one row of activations (a decoded token), and for many (a prompt, or several streams).
#ifdef SARIT_EMULATOR
#include "emulator.h"
#else
#include "device.cuh"
#endif
#include "dispatch.cuh"

template <bool MANY>
__device__ INLINE void run_program(const Params& p) {
    Run run = {threadIdx.x, p.turn};
    Shared& shared = run.shared();
    if (threadIdx.x < sizeof(Params) / 4) ((u32*)&shared.params)[threadIdx.x] = ((const u32*)&p)[threadIdx.x];
    if (threadIdx.x == 0) shared.rows = p.sequence_count * p.count, shared.step = 0;
    Grid grid = {p.control, 0};
    // Of the two operations after the one that runs, the first is in shared memory and the second on its way: each thread of the last
    // warps holds a word of it. The others have nothing to do with it, not even instructions.
    constexpr u32 FETCHES = THREADS - (sizeof(Op) / 4 + 31) / 32 * 32;  // the first of these threads
    bool has_word = threadIdx.x - FETCHES < sizeof(Op) / 4;
    auto own_word = [](const Op* op) { return (u32*)op + threadIdx.x - FETCHES; };
    auto word_of = [&](u32 n) { return *own_word(p.ops + n); };
    auto after = [&](u32 n) { return n + 1 < p.last ? n + 1 : p.first; };
    u32 turn = 0, step = 0, n = p.first, word = 0;
    bool waits = false;
    if (has_word) {
        *own_word(&shared.ops[0]) = word_of(n);
        word = word_of(after(n));
    }
    __syncthreads();
    while (true) {
        const Op& op = shared.ops[turn];
        u32 next_turn = turn == 2 ? 0 : turn + 1;
        if (has_word) {
            if (n == p.first && threadIdx.x == FETCHES) shared.step = step;
            *own_word(&shared.ops[next_turn]) = word;
            word = word_of(after(after(n)));
        }
        if (op.ahead_share > 0) fetch_ahead(run.p().model + (u64)(op.ahead + blockIdx.x * op.ahead_share) * 64, op.ahead_share * 64);
        bool skipped = op.kind >= OP_HISTOGRAM && !p.sampled;
        if (!skipped) {
            run_op<MANY>({thread_in(turn), run.turn}, turn, {grid, waits});
            waits = op.wait == WAIT_GRID;
        }
        bool ends_step = n + 1 == p.last;
        if (ends_step && step + 1 == p.steps) break;
        if (waits && !skipped) grid.arrive();
        else if (op.wait != WAIT_NONE) __syncthreads();
        n = after(n), step += ends_step, turn = next_turn, run.turn++;
        if (!ends_step) continue;
        // All have read the number of the step, and the word that says whether to stop has been written.
        if (waits) grid.wait();
        waits = false;
        if (*(volatile u32*)(p.control + CONTROL_STOP)) break;
    }
    grid.leave();
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) sarit_one(const __grid_constant__ Params p) { run_program<false>(p); }

extern "C" __global__ void __launch_bounds__(THREADS, 1) sarit_many(const __grid_constant__ Params p) { run_program<true>(p); }

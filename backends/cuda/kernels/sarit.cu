// One kernel runs a whole program: all blocks do one operation after another and wait for each other between them.
// Two instances: for one row of activations (a decoded token), and for many (a prompt, or several streams).
#ifdef SARIT_EMULATOR
#include "emulator.h"
#else
#include "device.cuh"
#endif
#include "attention.cuh"
#include "choose.cuh"
#include "moe.cuh"
#include "ssm.cuh"

// `token` of each row through the embedding.
__device__ __noinline__ void op_embed(Run run, const Op& op, const Embed& p) {
    u64 all = (u64)run.shared().rows * p.w.cols;
    for (u64 n = grid_thread(op); n < all; n += grid_threads()) {
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
        run.at(p.residual, row)[i] = x;
        if (p.embedded.start != NONE) run.at(p.embedded, row)[i] = x;
    }
}

// Barriers of the whole grid. The counter only grows during a launch; the last block to leave sets it back.
struct Grid {
    u32* control;
    u32 reached;

    __device__ void arrive() {
        __syncthreads();
        if (threadIdx.x == 0) add_release(control + CONTROL_BARRIER);
        reached += gridDim.x;
    }
    __device__ void wait() {
        if (threadIdx.x == 0)
            while ((int)(load_acquire(control + CONTROL_BARRIER) - reached) < 0) relax();
        __syncthreads();
    }
    __device__ void leave() {
        // All have read whether to stop.
        __syncthreads();
        if (threadIdx.x == 0 && atomicAdd(control + CONTROL_LEFT, 1u) == gridDim.x - 1) {
            control[CONTROL_BARRIER] = 0;
            control[CONTROL_LEFT] = 0;
            control[CONTROL_STOP] = 0;
        }
    }
};

template <bool MANY>
__device__ inline void run_op(Run run, const Op& op, Early& early) {
    const void* p = op.payload;
    switch (op.kind) {
        case OP_EMBED: return op_embed(run, op, *(const Embed*)p);
        case OP_PREPARE: return op_prepare(run, op, *(const Prepare*)p);
        case OP_PRODUCT: return op_product<MANY>(run, op, *(const Product*)p, early);
        case OP_CONVOLVE: return op_convolve(run, op, *(const Convolve*)p);
        case OP_WINDOW: return op_window(run, op, *(const Convolve*)p);
        case OP_TIMES: return op_times(run, op, *(const Times*)p);
        case OP_SCAN: return op_scan<MANY>(run, op, *(const Scan*)p, early);
        case OP_HOLD: return op_hold(run, op, *(const Scan*)p);
        case OP_ROTATE: return op_rotate(run, op, *(const Attend*)p);
        case OP_ATTEND: return op_attend(run, op, *(const Attend*)p);
        case OP_RING: return op_ring(run, op, *(const Attend*)p);
        case OP_ROUTE: return op_route(run, op, *(const Route*)p);
        case OP_EXPERTS: return op_experts(run, op, *(const Experts*)p);
        case OP_COMBINE: return op_combine(run, op, *(const Combine*)p);
        case OP_ARGMAX: return op_argmax(run, op, *(const Choose*)p);
        case OP_CHOOSE: return op_choose(run, op, *(const Choose*)p);
        default: return op_histogram(run, op, *(const Choose*)p, op.kind - OP_HISTOGRAM);
    }
}

// Asks for what the next operation needs and none before it makes.
__device__ inline Early ask(Run run, const Op& op) {
    Early early;
    if (op.kind == OP_PRODUCT) ask_product(run, op, *(const Product*)op.payload, early);
    else if (op.kind == OP_SCAN) ask_scan(run, op, *(const Scan*)op.payload, early);
    return early;
}

template <bool MANY>
__device__ inline void run_program(const Params& p) {
    Run run;
    Shared& shared = run.shared();
    if (threadIdx.x < sizeof(Params) / 4) ((u32*)&shared.params)[threadIdx.x] = ((const u32*)&p)[threadIdx.x];
    if (threadIdx.x == 0) shared.rows = p.sequence_count * p.count, shared.step = 0;
    Grid grid = {p.control, 0};
    // Of the two operations after the one that runs, the first is in shared memory and the second on its way: each thread
    // holds a word of it.
    bool has_word = threadIdx.x < sizeof(Op) / 4;
    auto word_of = [&](u32 n) { return has_word ? ((const u32*)(p.ops + n))[threadIdx.x] : 0; };
    auto after = [&](u32 n) { return n + 1 < p.last ? n + 1 : p.first; };
    u32 turn = 0, word = word_of(p.first);
    Early early;
    if (has_word) ((u32*)&shared.ops[0])[threadIdx.x] = word;
    word = word_of(after(p.first));
    __syncthreads();
    if (!MANY) early = ask(run, shared.ops[0]);
    for (u32 step = 0; step < p.steps; step++) {
        // The operation before has ended, the first of this step begins with a barrier of its own.
        if (threadIdx.x == 0) shared.step = step;
        for (u32 n = p.first; n < p.last; n++, turn ^= 1) {
            const Op &op = shared.ops[turn], &next = shared.ops[turn ^ 1];
            if (has_word) ((u32*)&next)[threadIdx.x] = word;
            word = word_of(after(after(n)));
            bool skipped = op.kind >= OP_HISTOGRAM && !p.sampled;
            if (!skipped) run_op<MANY>(run, op, early);
            bool waits = !skipped && op.barrier;
            if (waits) grid.arrive();
            else __syncthreads();
            if (!MANY) early = ask(run, next);
            if (waits) grid.wait();
        }
        if (*(volatile u32*)(p.control + CONTROL_STOP)) break;
    }
    grid.leave();
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) sarit_one(const __grid_constant__ Params p) { run_program<false>(p); }

extern "C" __global__ void __launch_bounds__(THREADS, 1) sarit_many(const __grid_constant__ Params p) { run_program<true>(p); }

// What all operations use: places, the parts of a block, and sums in the order of the contract.
#pragma once
#include "math.cuh"

#define PARTIALS 4096  // lanes of sums of a product's units, or tokens of a scan of many rows
#define STAGES_MOST 4  // see `Multiply`
#define TOKENS 1584    // floats of the held tokens of a scan of one row

#define OPS 4          // in shared memory
#define SLOTS_MOST 16  // see `Ahead`

// How far the weights that come early have: for each place when a piece has come and when it has been used, how many have been used, and
// whether no more will be.
struct alignas(16) Ring {
    u64 come[SLOTS_MOST], gone[SLOTS_MOST];
    u32 used;
    volatile u32 is_over;
};

// What is known of the way through the program while an operation runs.
struct Rest {
    u32 n, step, slot, turn, reached;
};

// Shared memory: what a launch is asked for; the operation that runs, the two after it, and the one before, which some threads may still be
// at, by turns; sums; what a scan has of held tokens; one row as floats and as codes.
struct Shared {
    Params params;
    float* only_states;  // of the one row's sequence, and the tokens it had read before the launch
    u64 only_position;
    u32 rows, step;      // rows of this launch; steps done
    volatile Rest rest;
    Op ops[OPS];
    float sums[256];
    alignas(16) u64 arrivals[STAGES_MOST];
    Ring ring;
    alignas(16) float partials[PARTIALS], tokens[TOKENS];
    float row[1];  // [shared_floats], then int codes [groups][8], float scales [groups], int sums [groups]
};

// The sequence of the one row. What is to be known of it is in shared memory too: its record would be a load before loads.
struct Only {};

// Where things are. All of it is in shared memory, which a barrier of the grid leaves alone: registers that do not last
// and parameters would come from a cache that it empties.
struct Run {
    u32 thread;  // of the block
    u32 turn;    // of the operation, counted over all launches

    __device__ u32 half_warp() const { return thread / 16; }
    __device__ u32 half_lane() const { return thread % 16; }
    __device__ u32 warp() const { return thread / 32; }
    __device__ u32 lane() const { return thread % 32; }
    __device__ Shared& shared() const { return *(Shared*)shared_memory(); }
    __device__ const Params& p() const { return shared().params; }
    __device__ float* row_codes_start() const { return shared().row + p().shared_floats; }
    // Scratch is no longer than a 4-byte number of floats.
    __device__ float* at(Vector v, u64 row) const { return p().scratch + (v.start + (u32)row * v.stride); }
    // Numbers in f16, and a row of them.
    __device__ u16* halves(u32 place) const { return (u16*)(p().scratch + place); }
    __device__ u16* half_row(Vector v, u64 row) const { return (u16*)at(v, row); }
    __device__ const float* weights(u32 data) const { return (const float*)(p().model + (u64)data * 64); }
    __device__ u32 sequence(u32 row) const { return row / p().count; }
    __device__ u32 time(u32 row) const { return row % p().count; }
    __device__ float* state(u32 sequence, u32 start) const {
        return p().states + p().sequences[sequence].slot * p().state_len + start;
    }
    __device__ float* state(Only, u32 start) const { return shared().only_states + start; }
    // Tokens that the sequence has read before this step.
    __device__ u64 position(u32 sequence) const {
        return p().sequences[sequence].position + (u64)shared().step * p().count;
    }
    __device__ u64 position(Only) const { return shared().only_position + shared().step; }
};

// Element `i + offset` of the one row `v`: asked for, and when it has come. What comes late is asked for again.
__device__ INLINE const Posted* posted_at(Run run, Vector v, u32 i, u32 offset) {
    return settled((const Posted*)(run.p().scratch + v.start) + i) + offset;
}

__device__ INLINE Posted ask(Run run, Vector v, u32 i, u32 offset = 0) {
    if (v.is_posted()) return load_posted(posted_at(run, v, i, offset));
    return {load_float(settled((const float*)run.at(v, 0) + i) + offset), 0};
}

__device__ INLINE float come(Run run, Vector v, u32 i, u32 offset, Posted asked) {
    if (v.is_posted())
        while (asked.turn != run.turn - v.age()) {
            pause();
            asked = load_posted(posted_at(run, v, i, offset));
        }
    return asked.value;
}

// Waits for all numbers that `each(visit)` visits, as `visit(v, i, offset, asked)`: those that are late are asked for again together.
template <class Each>
__device__ INLINE void come_all(Run run, Each each) {
    auto is_late = [&](Vector v, const Posted& asked) { return v.is_posted() && asked.turn != run.turn - v.age(); };
    while (true) {
        bool is_any = false;
        each([&](Vector v, u32, u32, const Posted& asked) { is_any |= is_late(v, asked); });
        if (!is_any) return;
        pause();
        each([&](Vector v, u32 i, u32 offset, Posted& asked) {
            if (is_late(v, asked)) asked = load_posted(posted_at(run, v, i, offset));
        });
    }
}

// Element `i` of a row.
__device__ INLINE float value_at(Run run, Vector v, u64 row, u32 i) {
    return v.is_posted() ? come(run, v, i, 0, ask(run, v, i)) : run.at(v, row)[i];
}

__device__ INLINE void put(Run run, Vector v, u64 row, u32 i, float x) {
    if (v.is_posted()) store_posted((Posted*)(run.p().scratch + v.start) + i, {x, run.turn});
    else run.at(v, row)[i] = x;
}

__device__ INLINE u32 div_up(u32 n, u32 by) { return (n + by - 1) / by; }

// Blocks of the grid.
__device__ INLINE u32 blocks() {
#ifdef SARIT_BLOCKS
    return SARIT_BLOCKS;
#else
    return gridDim.x;
#endif
}

// The first unit of this block: units go round the grid, from the block after those that the `passed` units before took.
__device__ INLINE u32 first_unit(u32 passed) {
    u32 before = passed % blocks();
    return blockIdx.x >= before ? blockIdx.x - before : blockIdx.x + blocks() - before;
}

// This thread among those of the whole grid, and their number: for work that needs no block.
__device__ INLINE u64 grid_thread(Run run, u32 passed) { return (u64)first_unit(passed) * THREADS + run.thread; }
__device__ INLINE u64 grid_threads() { return (u64)blocks() * THREADS; }

// Folds the 16 lanes of a half-warp; all get the sum. Every thread of the warp takes part.
__device__ INLINE float fold16(float lane) {
    for (int half = 8; half > 0; half /= 2) lane += __shfl_xor_sync(FULL, lane, half);
    return lane;
}

__device__ INLINE float fold8(const float* lanes, u32 stride) {
    float a0 = lanes[0] + lanes[4 * stride], a1 = lanes[stride] + lanes[5 * stride];
    float a2 = lanes[2 * stride] + lanes[6 * stride], a3 = lanes[3 * stride] + lanes[7 * stride];
    return (a0 + a2) + (a1 + a3);
}

// The larger number; NaN counts as less than all.
__device__ INLINE float larger(float a, float b) { return a > b ? a : b; }

__device__ OUTLINED float activate(u32 activation, float x) {
    switch (activation) {
        case SILU: return silu(x);
        case GELU: return gelu(x);
        case GELU_TANH: return gelu_tanh(x);
        case RELU2: return relu(x) * relu(x);
        case RELU: return relu(x);
        default: return x;
    }
}

__device__ INLINE float biased(Run run, const Target& to, u64 row, u32 i, float v) {
    if (to.addend.start != NONE) v += run.at(to.addend, row)[i];
    return to.bias != NONE ? v + run.weights(to.bias)[i] : v;
}

// Takes a result to where it goes; `before` is what is there, where it is added to.
__device__ INLINE void finish(Run run, const Target& to, u64 row, u32 i, float v, float before) {
    v = biased(run, to, row, i, v);
    put(run, to.y, row, i, to.kind == STORE ? v : to.kind == ADD ? before + to.scale * v : to.scale * v);
}

__device__ INLINE void finish(Run run, const Target& to, u64 row, u32 i, float v) {
    finish(run, to, row, i, v, to.kind == ADD ? value_at(run, to.before, row, i) : 0.0f);
}

// The same of the one row, where what is there may have been asked for.
__device__ INLINE void finish_asked(Run run, const Target& to, u32 i, float v, bool is_asked, Posted before) {
    if (is_asked) finish(run, to, 0, i, v, come(run, to.before, i, 0, before));
    else finish(run, to, 0, i, v);
}

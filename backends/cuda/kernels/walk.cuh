// A block's way through the program.
#pragma once
#include "grid.cuh"

// Of the two operations after the one that runs, the first is in shared memory and the second on its way: each thread of the last
// warps holds a word of it. The others have nothing to do with it, not even instructions.
#define OP_WORDS (sizeof(Op) / 4)
#define FETCHES (THREADS - (OP_WORDS + 31) / 32 * 32)  // the first of these threads

// Whether the way is in shared memory while an operation of many rows runs: in kernels with operations that need all registers.
#ifdef SARIT_RESTS
#define RESTS MANY
#else
#define RESTS false
#endif

struct Walk {
    Grid grid;
    u32 n, step;       // the operation, and the step, that runs
    u32 slot, turn;    // its place in shared memory; see `Run`
    u32 word;          // of the operation after the next one
    bool waits;        // the operations before it have a barrier after them

    __device__ Walk(const Params& p) : grid{p.control, 0}, n(p.first), step(0), slot(0), turn(p.turn), word(0), waits(false) {}

    __device__ Run run() const { return {thread_in(slot), turn}; }
    __device__ const Op& op() const { return shared().ops[slot]; }
    // Of the way in shared memory, if `RESTING`.
    template <bool RESTING>
    __device__ Wait wait() const {
        if (RESTING) return {{grid.control, shared().rest.reached}, shared().rest.waits != 0};
        return {grid, waits};
    }
    __device__ bool ends_step() const { return n + 1 == params().last; }

    // Brings the first operation to shared memory.
    __device__ void begin() {
        if (has_word()) {
            own_word(shared().ops) = word_of(n);
            word = word_of(after(n));
        }
        __syncthreads();
    }
    // Brings what comes after the operation that runs.
    __device__ void fetch() {
        if (!has_word()) return;
        if (n == params().first && threadIdx.x == FETCHES) shared().step = step;
        own_word(shared().ops + next_slot()) = word;
        word = word_of(after(after(n)));
    }
    // The way to shared memory and back. All have read it, and been at a barrier since, before it is written anew.
    __device__ void rest() {
        volatile Rest& r = shared().rest;
        if (threadIdx.x == 0) r.n = n, r.step = step, r.slot = slot, r.turn = turn, r.reached = grid.reached, r.waits = waits;
        __syncthreads();
    }
    __device__ void rise() {
        const volatile Rest& r = shared().rest;
        n = r.n, step = r.step, slot = r.slot, turn = r.turn, grid.reached = r.reached, waits = r.waits;
    }
    // The operation has run: waits for `whom`, one of `WAIT_…`.
    __device__ void end(u32 whom) {
        waits = whom == WAIT_GRID;
        if (waits) grid.arrive();
        else if (whom != WAIT_NONE) __syncthreads();
    }
    // The operation does not run, for it serves sequences that are not greedy and there is none.
    __device__ bool skips() const {
        if (params().sampled) return false;
        __syncthreads();
        return true;
    }
    __device__ void advance() {
        step += ends_step();
        n = after(n), slot = next_slot(), turn++;
    }
    // On to the next operation of the same step.
    __device__ void pass() {
        n++, slot = next_slot(), turn++;
        fetch();
    }

private:
    __device__ static Shared& shared() { return *(Shared*)shared_memory(); }
    __device__ static const Params& params() { return shared().params; }
    __device__ static bool has_word() { return threadIdx.x - FETCHES < OP_WORDS; }
    __device__ static u32& own_word(Op* op) { return ((u32*)op)[threadIdx.x - FETCHES]; }
    __device__ static u32 word_of(u32 n) { return ((const u32*)(params().ops + n))[threadIdx.x - FETCHES]; }
    __device__ static u32 after(u32 n) { return n + 1 < params().last ? n + 1 : params().first; }
    __device__ u32 next_slot() const { return slot == 2 ? 0 : slot + 1; }
};

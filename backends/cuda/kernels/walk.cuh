// A block's way through the program.
#pragma once
#include "grid.cuh"

// Of the two operations after the one that runs, the first is in shared memory and the second on its way there, by some threads of one
// warp. The others have nothing to do with it, not even instructions.
#define OP_PIECES (sizeof(Op) / 16)
#define FETCHES (THREADS - 64)  // the first of these threads
static_assert(sizeof(Op) % 16 == 0 && OP_PIECES <= 32, "not pieces of a warp");

struct Walk {
    Grid grid;
    u32 n, step;       // the operation, and the step, that runs
    u32 slot, turn;    // its place in shared memory; see `Run`

    __device__ Walk(const Params& p) : grid{0}, n(p.first), step(0), slot(0), turn(p.turn) {}

    __device__ Run run() const { return {thread_in(slot), turn}; }
    __device__ const Op& op() const { return shared().ops[slot]; }
    // What the operation waits for, if it `waits`; the way is in shared memory, if it `RESTS`.
    template <bool RESTS>
    __device__ Wait wait(bool waits) const {
        return {RESTS ? Grid{0} : grid, waits, RESTS};
    }
    __device__ bool ends_step() const { return n + 1 == params().last; }

    // Brings the first operations to shared memory.
    __device__ void begin() {
        if (has_piece()) bring(n, 0), bring(after(n), 1), await_copies();
        sync_block();
    }
    // Brings what comes after the operation that runs.
    __device__ void fetch() {
        if (!has_piece()) return;
        if (n == params().first && threadIdx.x == FETCHES) shared().step = step;
        await_copies();
        bring(after(after(n)), (slot + 2) % OPS);
    }
    // The way to shared memory and back, where operations need all registers. All have read it, and been at a barrier since, before it is written anew.
    __device__ void rest() {
        volatile Rest& r = shared().rest;
        if (threadIdx.x == 0) r.n = n, r.step = step, r.slot = slot, r.turn = turn, r.reached = grid.reached;
        // Else the block meets when it waits, and asks before that for what is there; who has arrived does not go on until its writes are seen.
        if (!op().waits) sync_block();
    }
    __device__ void rise() {
        const volatile Rest& r = shared().rest;
        n = r.n, step = r.step, slot = r.slot, turn = r.turn, grid.reached = r.reached;
    }
    // The operation has run: waits for `whom`, one of `WAIT_…`.
    __device__ void end(u32 whom) {
        if (whom == WAIT_GRID) grid.arrive();
        else if (whom != WAIT_NONE) sync_block();
    }
    __device__ void advance() {
        step += ends_step();
        n = after(n), slot = next_slot(), turn++;
    }
    // From the operation that has run to the next one of the same step.
    template <bool MANY>
    __device__ void pass(u32 whom) {
        if (MANY) rise();
        end(whom);
        n++, slot = next_slot(), turn++;
        fetch();
        if (MANY) rest();
    }

private:
    __device__ static Shared& shared() { return *(Shared*)shared_memory(); }
    __device__ static const Params& params() { return shared().params; }
    __device__ static bool has_piece() { return threadIdx.x - FETCHES < OP_PIECES; }
    __device__ static void bring(u32 n, u32 slot) {
        u32 byte = (threadIdx.x - FETCHES) * 16;
        copy_async((u8*)(shared().ops + slot) + byte, (const u8*)(params().ops + n) + byte);
    }
    __device__ static u32 after(u32 n) {
        u32 next = n + 1 < params().last ? n + 1 : params().first;
        return next == params().over_first ? params().over_end : next;
    }
    __device__ u32 next_slot() const { return (slot + 1) % OPS; }
};

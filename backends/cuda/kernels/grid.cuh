// Blocks that wait for each other.
#pragma once
#include "block.cuh"

// Barriers of the whole grid. The counter only grows during a launch; the last block to leave sets it back.
struct Grid {
    u32 reached;

    __device__ static u32* control() { return ((Shared*)shared_memory())->params.control; }

    // Not by the thread that waits: until its writes are seen, a warp that arrives asks for nothing.
    __device__ void arrive() {
        sync_block();
        if (threadIdx.x == THREADS - 1) add_release(control() + CONTROL_BARRIER);
        reached += blocks();
    }
    __device__ void wait() {
        if (threadIdx.x == 0) {
            const u32* arrived = control() + CONTROL_BARRIER;
            while ((int)(load_acquire(arrived) - reached) < 0) relax();
        }
        sync_block();
    }
    __device__ void leave() {
        // All have read whether to stop.
        sync_block();
        if (threadIdx.x == 0 && atomicAdd(control() + CONTROL_LEFT, 1u) == blocks() - 1) {
            control()[CONTROL_BARRIER] = 0;
            control()[CONTROL_LEFT] = 0;
            control()[CONTROL_STOP] = 0;
        }
    }
};

// What an operation calls before it reads what those before it have made. `rests`: how far the grid has come is in shared memory, where
// one thread has written it and reads it.
struct Wait {
    Grid grid;
    bool waits, rests;

    __device__ void operator()() {
        if (!waits) return;
        if (rests && threadIdx.x == 0) grid.reached = ((Shared*)shared_memory())->rest.reached;
        grid.wait();
    }
};

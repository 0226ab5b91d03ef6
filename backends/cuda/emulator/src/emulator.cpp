#include "emulator.h"

#include <algorithm>
#include <csetjmp>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <ucontext.h>
#include <vector>

#include "sarit.cu"

namespace emulator {

constexpr size_t STACK_BYTES = 64 << 10;
constexpr u32 EXCHANGE_WORDS = 6;
// Beyond a block's shared memory lie so many words that nothing may change.
constexpr size_t GUARD_WORDS = 4096;
constexpr u64 GUARD = 0x5a17d0075a17d007;

struct Warp {
    Barrier barrier;
    // Two, by turns: a lane may write for the next exchange while others still read this one.
    u32 words[2][32 * EXCHANGE_WORDS];
};

struct Block {
    Barrier barrier, all;
    Warp warps[WARPS + FEEDERS / 32];
    std::vector<u64> memory;
};

struct Fiber {
    jmp_buf context;
    u32 thread, block;
    Barrier* waiting = nullptr;
    u32 generation = 0, exchanges = 0;
    bool started = false, done = false;
    std::vector<GroupProduct> products;
};

Fiber* self;
Index thread, block, grid;

static jmp_buf scheduler;
static ucontext_t origin;
static std::vector<Block> blocks;
static std::vector<Fiber> fibers;
static std::vector<u8> stacks;
static Params params;
static bool many, progressed;

void progress() { progressed = true; }

void yield() {
    if (_setjmp(self->context) == 0) _longjmp(scheduler, 1);
}

void await(Barrier& barrier) {
    u32 generation = barrier.generation;
    progress();
    if (++barrier.arrived == barrier.expected) {
        barrier.arrived = 0;
        barrier.generation++;
        return;
    }
    self->waiting = &barrier;
    self->generation = generation;
    yield();
    self->waiting = nullptr;
}

Barrier& block_barrier() { return blocks[self->block].barrier; }
Barrier& all_barrier() { return blocks[self->block].all; }

u8* block_memory() { return (u8*)blocks[self->block].memory.data(); }

const u32* exchange(const u32* words, u32 count) {
    Warp& warp = blocks[self->block].warps[self->thread / 32];
    u32* all = warp.words[self->exchanges++ % 2];
    memcpy(all + self->thread % 32 * count, words, count * 4);
    await(warp.barrier);
    return all;
}

static void enter() {
    if (many) sarit_many(params);
    else sarit_one(params);
    self->done = true;
    progress();
    _longjmp(scheduler, 1);
}

std::vector<GroupProduct>& products() { return self->products; }

// The layout of the PTX manual, "Register Fragments for wgmma.mma_async.m64nNk16", D; rows lie as `half_place` has them.
void multiply_all_but(size_t later) {
    auto at = [](const u16* tiles, u32 row, u32 i) { return half_to_float(tiles[half_place(0, row, i)]); };
    while (self->products.size() > later) {
        GroupProduct p = self->products.front();
        self->products.erase(self->products.begin());
        for (u32 n = 0; n < 24; n++)
            for (u32 e = 0; e < 4; e++) {
                u32 row = thread.x % 128 / 32 * 16 + thread.x % 32 / 4 + e / 2 * 8, column = n * 8 + thread.x % 4 * 2 + e % 2;
                for (u32 i = 0; i < HALF_DEPTH; i++) p.d[n][e] += at(p.a, row, i) * at(p.b, column, i);
            }
    }
}

static void resume(Fiber& fiber) {
    self = &fiber;
    thread.x = fiber.thread;
    block.x = fiber.block;
    if (_setjmp(scheduler)) return;
    if (fiber.started) _longjmp(fiber.context, 1);
    fiber.started = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = stacks.data() + (&fiber - fibers.data()) * STACK_BYTES;
    context.uc_stack.ss_size = STACK_BYTES;
    context.uc_link = nullptr;
    makecontext(&context, enter, 0);
    swapcontext(&origin, &context);
}

static void run(u32 grid_size, u32 threads, u64 shared_bytes, u64 seed) {
    grid.x = grid_size;
    blocks.assign(grid_size, Block());
    fibers.assign(grid_size * threads, Fiber());
    stacks.resize(fibers.size() * STACK_BYTES);
    std::mt19937_64 random(seed);
    for (Block& b : blocks) {
        b.barrier.expected = THREADS;
        b.all.expected = threads;
        for (Warp& w : b.warps) w.barrier.expected = 32;
        // Shared memory comes with whatever was there before.
        b.memory.resize((shared_bytes + 7) / 8);
        for (u64& word : b.memory) word = random() | 0x7fc000007fc00000ull;
        b.memory.resize(b.memory.size() + GUARD_WORDS, GUARD);
    }
    for (u32 i = 0; i < fibers.size(); i++) fibers[i].thread = i % threads, fibers[i].block = i / threads;
    std::vector<u32> order(fibers.size());
    std::iota(order.begin(), order.end(), 0);
    for (u32 pass = 0;; pass++) {
        if (pass % 16 == 0 && seed) std::shuffle(order.begin(), order.end(), random);
        progressed = false;
        bool all_done = true;
        for (u32 i : order) {
            Fiber& fiber = fibers[i];
            if (fiber.done) continue;
            all_done = false;
            if (!fiber.waiting || fiber.waiting->generation != fiber.generation) {
                if (fiber.waiting) progress();
                resume(fiber);
            }
        }
        if (all_done) break;
        if (!progressed) {
            fprintf(stderr, "emulator: the grid hangs; operation %u\n", ((Shared*)blocks[0].memory.data())->ops[0].kind);
            abort();
        }
    }
    for (const Block& b : blocks)
        if (std::any_of(b.memory.end() - GUARD_WORDS, b.memory.end(), [](u64 word) { return word != GUARD; })) {
            fprintf(stderr, "emulator: a block wrote beyond its %llu bytes of shared memory\n", (unsigned long long)shared_bytes);
            abort();
        }
}

}  // namespace emulator

extern "C" void emulator_run(bool many, const Params* params, u32 grid, u32 threads, u64 shared_bytes, u64 seed) {
    emulator::many = many;
    emulator::params = *params;
    emulator::run(grid, threads, shared_bytes, seed);
}

// Sizes in bytes of what the host and the kernels share.
extern "C" void emulator_sizes(u64* sizes) {
    u64 all[] = {sizeof(Op),       sizeof(Params),   sizeof(LongProduct), sizeof(Embed),    sizeof(Prepare), sizeof(Product), sizeof(Widen),
                 sizeof(Multiply), sizeof(Convolve), sizeof(Times),    sizeof(Scan),    sizeof(Elements), sizeof(Attend),  sizeof(Route),
                 sizeof(Experts),  sizeof(Combine),  sizeof(Choose),   sizeof(Sequence), sizeof(Sampling), offsetof(Shared, row)};
    memcpy(sizes, all, sizeof all);
}

// The elementary function with this number, of `n` floats.
extern "C" void emulator_function(u32 number, const float* x, float* y, u64 n) {
    float (*functions[])(float) = {exp2_core, exp_core, softplus, silu, sigmoid, rsqrt_core, gelu, gelu_tanh};
    for (u64 i = 0; i < n; i++) y[i] = functions[number](x[i]);
}

extern "C" float emulator_half(u16 bits) { return half_to_float(bits); }

extern "C" void emulator_sin_cos(u64 turns, float* sine, float* cosine) { sin_cos(turns, *sine, *cosine); }

// Any operation of any model. The kernels for one model have another file in the place of this one, with a case for each
// shape of operation, whose numbers are constants there.
#pragma once
#include "operations.cuh"

// An operation that asks for what the ones before it do not make, and then waits for them.
template <bool MANY>
__device__ INLINE void run_early(Run run, const Op& op, Wait wait) {
    const void* p = op.payload;
    switch (op.kind) {
        case OP_PRODUCT: return op_product<MANY>(run, op.first, *(const Product*)p, wait);
        case OP_STEP: return op_step(run, op.first, *(const Scan*)p, wait);
        case OP_ELEMENTS: return op_elements(run, op.first, *(const Elements*)p, wait);
        default: return op_scan<MANY>(run, op.first, *(const Scan*)p, wait);
    }
}

// Any other.
template <bool MANY>
__device__ INLINE void run_late(Run run, const Op& op) {
    const void* p = op.payload;
    switch (op.kind) {
        case OP_EMBED: return op_embed(run, op.first, *(const Embed*)p);
        case OP_PREPARE: return op_prepare(run, op.first, *(const Prepare*)p);
        case OP_WIDEN: return op_widen(run, op.first, *(const Widen*)p);
        case OP_MULTIPLY: return op_multiply(run, op.first, *(const Multiply*)p);
        case OP_CONVOLVE: return op_convolve(run, op.first, *(const Convolve*)p);
        case OP_WINDOW: return op_window<MANY>(run, op.first, *(const Convolve*)p);
        case OP_TIMES: return op_times(run, op.first, *(const Times*)p);
        case OP_WEIGH: return op_weigh(run, op.first, *(const Scan*)p);
        case OP_PARTS: return op_parts(run, op.first, *(const Scan*)p);
        case OP_CHUNKS: return op_chunks(run, op.first, *(const Scan*)p);
        case OP_HOLD: return op_hold(run, op.first, *(const Scan*)p);
        case OP_ROTATE: return op_rotate(run, op.first, *(const Attend*)p);
        case OP_ATTEND: return op_attend(run, op.first, *(const Attend*)p);
        case OP_RING: return op_ring(run, op.first, *(const Attend*)p);
        case OP_ROUTE: return op_route(run, op.first, *(const Route*)p);
        case OP_EXPERTS: return op_experts(run, op.first, *(const Experts*)p);
        case OP_COMBINE: return op_combine(run, op.first, *(const Combine*)p);
        case OP_ARGMAX: return op_argmax(run, op.first, *(const Choose*)p);
        case OP_CHOOSE: return op_choose(run, op.first, *(const Choose*)p);
        default: return op_histogram(run, op.first, *(const Choose*)p, op.kind - OP_HISTOGRAM);
    }
}

// Runs the operation at which the walk is.
template <bool MANY>
__device__ INLINE void run_ops(Walk& walk) {
    const Op& op = walk.op();
    if (op.kind == OP_PRODUCT || op.kind == OP_STEP || op.kind == OP_ELEMENTS || op.kind == OP_SCAN) {
        run_early<MANY>(walk.run(), op, walk.wait<MANY>(op.waits));
    } else {
        walk.wait<MANY>(op.waits)();
        run_late<MANY>(walk.run(), op);
    }
}

// The program that the kernels run: records of 4-byte numbers, written by `src/program` (whose structs mirror these).
//
// Places: a matrix or vector of the model by its offset in the file in units of 64 bytes, scratch and states in
// floats, tables in 4-byte words. NONE where there is none.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

// How functions become code: in the kernels made for a model all are parts of its operations, whose constants they know.
// SARIT_BLOCKS is then the number of blocks.
#ifdef SARIT_SPECIAL
#define INLINE __forceinline__
#define OUTLINED __forceinline__
#else
#define INLINE inline
#define OUTLINED __noinline__
#endif

// Of kernels for a model with long products, whose weights come by a warp group of its own of each block for one row; and of those for any model on the
// emulator. On a device all functions of both kernels would have as few registers as so many threads leave.
#if defined(SARIT_EMULATOR) && !defined(SARIT_SPECIAL)
#define SARIT_FEEDS
#endif

#define NONE 0xffffffffu
#define THREADS 512    // of a block that work
#define FEEDERS 128    // beside them where weights come early, of which one does something: as many as can give registers away
#define WARPS 16
#define HALVES 32      // half-warps: 16 lanes, as the sums over elements have
#define GROUP 32       // columns that share a scale
#define GROUP_LANES 8  // of a sum over groups
#define HELD 16        // tokens after which a state with a decay per head is taken forward
#define FULL 0xffffffffu

enum { F32, F16, Q8, Q4 };
enum { IDENTITY, RMS, LAYER };
enum { SILU, GELU, GELU_TANH, RELU2, RELU, LINEAR };

struct alignas(16) Words {
    u32 x, y, z, w;
};

struct alignas(16) Floats {
    float x, y, z, w;
};

struct alignas(8) Pair {
    float x, y;
};

// `[rows][cols]` in the file's layout.
struct Matrix {
    u32 data, dtype, rows, cols;
};

// Rows in scratch, row `r` at `start + r · stride`. Or one row as `Posted` numbers: `stride` is then POSTED plus how many
// operations before the one that reads it wrote it; who writes it has any age there.
#define POSTED 0x80000000u
struct Vector {
    u32 start, stride;

    __device__ bool is_posted() const { return stride >= POSTED; }
    __device__ u32 age() const { return stride - POSTED; }
};

// A number and the turn at which it was written: who reads it needs no barrier, but waits until the turn is the one it is to
// see. Both are read and written at once.
struct alignas(8) Posted {
    float value;
    u32 turn;
};

// In `groups` equal parts.
struct Norm {
    u32 kind, weight, bias;
    float eps;
    u32 groups;
};

// Depthwise convolution of the rows `x`, or `x · factor`; `window` in the state.
struct Conv {
    Vector x, factor;
    u32 window, weight, bias, width, channels, silu;
};

// Where the input of a product comes from: element i of a row is
//   PLAIN a;  SUM a + b;  CONCAT [a | b], a of length `split`;  ACTIVATE act(b) · a, or act(a);  CONVOLVED conv(i);  IN_HALVES a, rows in f16
// then normed, then multiplied by silu(after).
enum { PLAIN, SUM, CONCAT, ACTIVATE, CONVOLVED, IN_HALVES };
struct Source {
    u32 kind, len, split, activation;
    Vector a, b;
    Norm norm;
    Vector after;
    Conv conv;
};

// Rows as codes `[groups][stride][32]`, scales and sums of codes `[groups][stride]`; as floats; and in f16, as `half_place` has them, with
// `half_rows` rows. Each may be NONE. Where codes are `paired`, words of 4 of them that are 4 words apart lie side by side.
struct Codes {
    u32 codes, scales, sums, stride;
    Vector floats;
    u32 halves, half_rows, paired;
};

// Where a result v goes: v += addend; v += bias; then y = v, y = before + scale · v, or y = scale · v. Or y = v in rows in f16, of which
// `stride` is half the length.
enum { STORE, ADD, SET, STORE_HALVES };
struct Target {
    u32 kind;
    float scale;
    Vector y, before;
    u32 bias;
    Vector addend;
};

struct Embed {
    Matrix w;
    float scale;
    Vector residual, embedded;
};

// `multiple` rows of the source for each row; with `head` the rows whose logits are made.
struct Prepare {
    Source source;
    u32 multiple, head;
    Codes to;
};

struct TimeStep {
    u32 sigmoid, bias;
    float min, max;
    u32 a_log2, per_element;
};

// Results from number `first` on go through the convolution, whose results go to y, as far as it has channels, then become steps of time; codes
// of `codes_len` of them go to `codes`, if anywhere. None if `first` is NONE; a multiple of `GROUP` else.
struct Through {
    u32 first;
    Conv conv;
    Vector y;
    TimeStep time;
    u32 heads;
    Vector dt, decay;
    Codes codes;
    u32 codes_len;
};

// A product with one row of a long matrix, the units before its own, and the row of tiles with which it begins: those before it come last.
struct LongProduct {
    Matrix w;
    u32 passed, begin;
};

// How the weights of long products with one row come: through `slots` places in shared memory, in pieces of up to `groups` groups of a row of
// tiles, a multiple of those that a warp has of a row; up to `under_way` of them at a time. `table` has the program's `LongProduct`s; `first` to
// `last` are those of a launch, which start over again. Without slots they do not come so.
struct Ahead {
    u32 slots, groups, place_bytes, under_way, table, first, last;
};

// FUSED: each block makes the input of the one row for itself; REUSED: it has it from the operation before;
// PREPARED: it lies in scratch. `settled`: what is added to was there before the operations that the last barrier ended, or is posted.
// `shift`: a convolution whose window takes in the one row meanwhile. `through` is of a token of each of several sequences. `begin` is as in `LongProduct`.
enum { FUSED, REUSED, PREPARED };
struct Product {
    u32 input, head, settled;
    Source source;
    Codes codes;
    Matrix w;
    Target to;
    Conv shift;
    Through through;
    Ahead ahead;
    u32 begin;
};

// With `halves` rows go there, in f16, and only those of the last `HELD` tokens to `y`; those of `conv.x` are in f16 too. `shifts`: sequences
// have a token each, which their windows, of up to `TAPS` taps, take in at once.
struct Convolve {
    Conv conv;
    Vector y, halves;
    u32 shifts;
};

// A matrix in f16, as `half_place` has it.
struct Widen {
    Matrix w;
    u32 to;
};

// Rows in f16, of length `len` and in memory for `x_rows`, times such a matrix, which has `w_rows`. `stages`: parts of the columns of both in shared memory, of which one
// is multiplied while the others are on their way; there is room for those of units of up to `most_rows`. `pairs`: results beside each other lie in
// pairs of floats, with neither bias nor addend.
struct Multiply {
    u32 x, x_rows, w, w_rows, len, stages, most_rows, pairs;
    Target to;
};

// `halves`: the raw ones are in rows in f16.
struct Times {
    TimeStep time;
    u32 heads, halves;
    Vector raw, dt, decay;
};

// `reads`, of many rows: a `HeadRead` for each head; of a scan in chunks x, B and C in f16; z and y are in rows in f16 there too. `parts`: what it keeps of the parts of a
// sequence. Of one row x, B, C are convolved and dt is made on the way; with `dt_proj` B and C come from `select`. `places`: of pieces
// of states in shared memory, of a token of each sequence.
struct Scan {
    u32 heads, head_dim, d_state, n_groups, d, state, held;
    Vector x, b, c, dt, decay, reads, parts, z, y;
    TimeStep time;
    Conv conv;
    Vector select;
    u32 rank;
    Norm dt_norm, b_norm, c_norm;
    Matrix dt_proj;
    u32 places;
};

// A token of each sequence, with a decay per element. dt is there, or projected from `dt_codes`; the result goes to y, or as codes to `codes`.
struct Elements {
    u32 channels, head_dim, d_state, n_groups, d, state;
    Vector x, z, dt, b, c, y;
    TimeStep time;
    Matrix dt_proj;
    Codes dt_codes, codes;
};

struct Attend {
    u32 heads, kv_heads, head_dim, window, keys, values, scores;
    float scale;
    Vector qkv, y;
    Norm q_norm, k_norm;
    u32 rotary_dims, turns;
};

struct Route {
    Vector logits, ids, weights;
    u32 experts, chosen, groups, chosen_groups, routing, correction;
    float weight_scale;
};

// The products of the chosen experts; with `shared` all of a row read the same input.
struct Experts {
    u32 table, chosen, shared, rows;
    Vector ids, y;
    Codes codes;
};

struct Combine {
    Vector parts, weights;
    u32 chosen, width;
    Target to;
};

struct Choose {
    Vector logits;
    u32 vocab;
};

enum {
    OP_EMBED, OP_PREPARE, OP_PRODUCT, OP_WIDEN, OP_MULTIPLY, OP_CONVOLVE, OP_WINDOW, OP_TIMES, OP_WEIGH, OP_STEP, OP_ELEMENTS, OP_SCAN, OP_PARTS, OP_CHUNKS, OP_HOLD, OP_ROTATE, OP_ATTEND,
    OP_RING, OP_ROUTE, OP_EXPERTS, OP_COMBINE, OP_ARGMAX, OP_CHOOSE, OP_HISTOGRAM /* and three more: one a byte */
};

// Who waits for whom after an operation: the threads of a block for each other; all blocks; nobody, where what comes next touches nothing
// in shared memory that this one still reads before all have come to a barrier within it.
enum { WAIT_BLOCK, WAIT_GRID, WAIT_NONE };

#define PAYLOAD_WORDS 104
// `shape` is the number of the kind's case in the kernels made for a model. `first`: units of the operations before it with
// no barrier between; its own go to the blocks after those. `waits`: the operation before it has a barrier after it. `next`: the shape of
// the one after it, of tokens through blocks.
struct alignas(16) Op {
    u16 kind, shape, wait, waits;
    u32 next, first;
    u32 payload[PAYLOAD_WORDS];
};

// A stream's part of a launch.
struct Sequence {
    u64 position;  // tokens read before
    u32 slot;      // its state
    u32 reserved;
};

struct Sampling {
    u64 random;
    float temperature, top_p;
    u32 top_k, reserved;
};

// Words of `control`.
enum { CONTROL_BARRIER, CONTROL_LEFT, CONTROL_STOP, CONTROL_WORDS = 16 };

struct Params {
    const u8* model;
    float* states;
    float* scratch;
    const Op* ops;
    const u32* tables;
    const Sequence* sequences;
    u32* control;
    u32* tokens;     // [rows], or [sequences] while they are chosen here
    u32* chosen;     // [steps][sequences]
    u64* best;       // [sequences]
    u32* histogram;  // [4][sequences][256]
    Sampling* sampling;
    const u32* stop;
    u64 state_len;
    u32 first, last;  // operations
    u32 sequence_count, count, steps, stop_count;
    u32 head_row, head_count;  // rows whose logits are made
    u32 shared_floats, shared_groups;  // room for one row in shared memory: floats, and groups of codes
    Ahead ahead;
    u32 over_first, over_end;  // operations that are passed over: those that serve sequences that are not greedy, if there is none
    u32 turn;     // of the first operation: no launch of one row has one that another had
};

/* Sarit for C: streaming inference in memory that the caller lends.
 *
 * Made from capi/src by cbindgen (SARIT_WRITE_HEADER=1 cargo test -p sarit-capi): do not edit.
 *
 * Nothing here allocates, keeps a pointer longer than its documentation says, or aborts on bad input: every function
 * that can fail returns a status, 0 (SARIT_OK) for success. What it means, sarit_error_message() says. A step that
 * fails leaves the state as it was; an init, load or map function that fails leaves its struct empty.
 *
 *     sarit_model model;                                    // sarit_* structs may lie anywhere
 *     sarit_needs need;
 *     sarit_model_init(&model, file, file_bytes);           // file: 64-byte aligned, stays where it is
 *     sarit_memory(&model, 1, &need);
 *     sarit_state_init(&state, &model, state_memory, need.state_bytes);        // one per stream
 *     sarit_scratch_init(&scratch, &model, scratch_memory, need.scratch_bytes, 1);
 *     float *result;
 *     sarit_step_frame(&model, &state, &scratch, frame, frame_len, 1.0f, &result);
 *
 * A model may be used by any number of threads at once; a state or a scratch by one at a time.
 * sarit_* structs hold addresses: do not copy or save them, and do not use one after the memory that it was given is
 * gone. A struct that no init function has filled is noticed if it is filled with zeros, as static ones are.
 */

#ifndef SARIT_H
#define SARIT_H

#include <stddef.h>
#include <stdint.h>

/*
 Version of the functions and structs: a program runs with any library of the same number.
 */
#define SARIT_ABI_VERSION 1

/*
 Result of a function. Values stay the same in all versions; new ones may be added.
 */
enum sarit_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /*
   Success.
   */
  SARIT_OK = 0,
  /*
   A pointer is null.
   */
  SARIT_NULL = 1,
  /*
   A struct was not filled by its init function.
   */
  SARIT_NOT_READY = 2,
  /*
   Memory is too small.
   */
  SARIT_TOO_SMALL = 3,
  /*
   A pointer is not aligned: models, states and scratch to 64 bytes, others as their type asks.
   */
  SARIT_MISALIGNED = 4,
  /*
   State, scratch and input overlap.
   */
  SARIT_OVERLAP = 5,
  /*
   A length or a chunk is 0 or larger than the machine can address.
   */
  SARIT_LENGTH = 6,
  /*
   The state, snapshot or scratch belongs to another model, or has elements of another type.
   */
  SARIT_OTHER_MODEL = 7,
  /*
   A token id is outside the vocabulary.
   */
  SARIT_TOKEN = 8,
  /*
   The model takes frames, not tokens.
   */
  SARIT_TAKES_FRAMES = 9,
  /*
   The model takes tokens, not frames.
   */
  SARIT_TAKES_TOKENS = 10,
  /*
   A frame has another number of floats than the model takes.
   */
  SARIT_FRAME_LEN = 11,
  /*
   A frame holds an infinite number or NaN.
   */
  SARIT_FRAME_NOT_FINITE = 12,
  /*
   An interval is not above 0 and at most 1e6.
   */
  SARIT_INTERVAL = 13,
  /*
   A temperature or top-p is out of range.
   */
  SARIT_SAMPLING = 14,
  /*
   The bytes are not a .sarit model.
   */
  SARIT_NOT_A_MODEL = 20,
  /*
   The model needs a newer Sarit.
   */
  SARIT_MODEL_VERSION = 21,
  /*
   The model is damaged or truncated.
   */
  SARIT_MODEL_DAMAGED = 22,
  /*
   The model is too large for this machine.
   */
  SARIT_MODEL_TOO_LARGE = 23,
  /*
   The bytes are not a snapshot of a state.
   */
  SARIT_NOT_A_STATE = 30,
  /*
   The snapshot was written by another version of Sarit.
   */
  SARIT_STATE_VERSION = 31,
  /*
   The snapshot is damaged, truncated or not finite.
   */
  SARIT_STATE_DAMAGED = 32,
  /*
   A file cannot be opened or mapped.
   */
  SARIT_FILE = 40,
  /*
   A fault of the library itself. The objects of the call must be initialized again.
   */
  SARIT_INTERNAL = 50,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum sarit_status sarit_status;
#else
typedef int32_t sarit_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/*
 A file in memory. Fill it with sarit_map().
 */
typedef struct sarit_mapping {
  uint64_t tag;
  size_t opaque[7];
} sarit_mapping;

/*
 A model. Fill it with sarit_model_init().
 */
typedef struct sarit_model {
  uint64_t tag;
  size_t opaque[63];
} sarit_model;

/*
 Memory that a model needs beside its file, in bytes.
 */
typedef struct sarit_needs {
  /*
   For the state of a stream.
   */
  size_t state_bytes;
  /*
   For the scratch, which streams can share.
   */
  size_t scratch_bytes;
  /*
   Alignment of both: 64.
   */
  size_t align;
  /*
   For a snapshot of a state; any alignment.
   */
  size_t snapshot_bytes;
} sarit_needs;

/*
 A random sequence of tokens. Fill it with sarit_sampler_init().
 */
typedef struct sarit_sampler {
  uint64_t tag;
  uint64_t opaque[7];
} sarit_sampler;

/*
 How to choose the next token.
 */
typedef struct sarit_sampling {
  /*
   0: always the likeliest token; otherwise logits are divided by it.
   */
  float temperature;
  /*
   Only the likeliest tokens that together reach this probability are considered; 1 for all.
   */
  float top_p;
  /*
   Only this many of the likeliest tokens are considered; 0 for all.
   */
  size_t top_k;
  /*
   The same seed and logits give the same tokens.
   */
  uint64_t seed;
} sarit_sampling;

/*
 Working memory of a step. Fill it with sarit_scratch_init().
 */
typedef struct sarit_scratch {
  uint64_t tag;
  size_t opaque[63];
} sarit_scratch;

/*
 A stream. Fill it with sarit_state_init() or sarit_state_load().
 */
typedef struct sarit_state {
  uint64_t tag;
  size_t opaque[15];
} sarit_state;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 SARIT_ABI_VERSION of the library that runs; compare it with that of the header where the library is shared.
 */
uint32_t sarit_abi_version(void);

/*
 Version of the library, such as "0.1.0", in static memory.
 */
const char *sarit_version(void);

/*
 Maps the file at path, a text that ends with a zero. bytes and len: its content, aligned as a model must be.

 The file must not be written to while it is mapped; replace it by renaming a new one over it.

 # Safety
 `mapping`, `bytes` and `len` may be written; `path` is null or ends with a zero.
 */
sarit_status sarit_map(struct sarit_mapping *mapping, const char *path, const void **bytes, size_t *len);

/*
 Ends a mapping. No model made of its bytes may be used any more.

 # Safety
 `mapping` may be written and is used by nothing else, nor are its bytes.
 */
sarit_status sarit_unmap(struct sarit_mapping *mapping);

/*
 Checks the bytes of a whole .sarit file, and makes a model of them.

 bytes: 64-byte aligned; must stay there, unchanged, while the model is used.

 # Safety
 `model` may be written; `len` bytes at `bytes` may be read for as long as the model is used.
 */
sarit_status sarit_model_init(struct sarit_model *model, const void *bytes, size_t len);

/*
 Says how much memory a state, a scratch for up to chunk tokens or frames at once, and a snapshot need.

 # Safety
 `model` may be read, `needs` written.
 */
sarit_status sarit_memory(const struct sarit_model *model, size_t chunk, struct sarit_needs *needs);

/*
 Number of token ids; 0 for a frame model, and for a struct that holds no model.

 # Safety
 `model` may be read.
 */
size_t sarit_vocab_len(const struct sarit_model *model);

/*
 Number of floats in a frame; 0 for a token model, and for a struct that holds no model.

 # Safety
 `model` may be read.
 */
size_t sarit_frame_len(const struct sarit_model *model);

/*
 Number of floats in a result: logits, scores of classes or regression values; 0 for a struct that holds no model.

 # Safety
 `model` may be read.
 */
size_t sarit_output_len(const struct sarit_model *model);

/*
 JSON about the model (its name, licence, labels of classes): len bytes of UTF-8 at text, which do not end with a zero.

 # Safety
 `model` may be read, `text` and `len` written.
 */
sarit_status sarit_meta(const struct sarit_model *model,
                        const char **text,
                        size_t *len);

/*
 The index of the largest of len numbers; of equal ones the first, and 0 if none is a number.

 # Safety
 `len` floats at `logits` may be read, and `index` written.
 */
sarit_status sarit_argmax(const float *logits, size_t len, uint32_t *index);

/*
 Starts a random sequence.

 # Safety
 `sampler` may be written, `sampling` read.
 */
sarit_status sarit_sampler_init(struct sarit_sampler *sampler, const struct sarit_sampling *sampling);

/*
 Chooses the next token. Overwrites the logits, unless the temperature is 0.

 # Safety
 `sampler`, `len` floats at `logits`, and `token` may be written and are used by nothing else.
 */
sarit_status sarit_sample(struct sarit_sampler *sampler, float *logits, size_t len, uint32_t *token);

/*
 Makes scratch of memory (64-byte aligned, of scratch_bytes of sarit_memory() for the same chunk), for steps of model.
 Any number of streams can share it, one after another.

 # Safety
 `scratch` may be written and `model` read; `bytes` bytes at `memory` are the scratch's alone for as long as it is used.
 */
sarit_status sarit_scratch_init(struct sarit_scratch *scratch,
                                const struct sarit_model *model,
                                void *memory,
                                size_t bytes,
                                size_t chunk);

/*
 Starts a stream in memory (64-byte aligned, of state_bytes of sarit_memory()).

 # Safety
 `state` may be written and `model` read; `bytes` bytes at `memory` are the state's alone for as long as it is used.
 */
sarit_status sarit_state_init(struct sarit_state *state,
                              const struct sarit_model *model,
                              void *memory,
                              size_t bytes);

/*
 Forgets all that the stream has read.

 # Safety
 `state` may be written and is used by nothing else.
 */
sarit_status sarit_state_reset(struct sarit_state *state);

/*
 Number of tokens or frames that the stream has read; 0 for a struct that holds no state.

 # Safety
 `state` may be read and is not written meanwhile.
 */
uint64_t sarit_state_position(const struct sarit_state *state);

/*
 Hash of the state: equal states have equal hashes on every machine. 0 for a struct that holds no state.

 # Safety
 `state` may be read and is not written meanwhile.
 */
uint64_t sarit_state_hash(const struct sarit_state *state);

/*
 Writes a snapshot of the stream to out, of snapshot_bytes of sarit_memory() at least.
 written: its length in bytes.

 # Safety
 `state` may be read and is not written meanwhile; `bytes` bytes at `out`, and `written`, may be written.
 */
sarit_status sarit_state_save(const struct sarit_state *state, void *out, size_t bytes, size_t *written);

/*
 Goes on from a snapshot that any machine has saved, in memory as for sarit_state_init(). The snapshot need not be
 aligned, and is not needed any more afterwards.

 # Safety
 As for [`sarit_state_init`]; `len` bytes at `snapshot` may be read.
 */
sarit_status sarit_state_load(struct sarit_state *state,
                              const struct sarit_model *model,
                              const void *snapshot,
                              size_t len,
                              void *memory,
                              size_t bytes);

/*
 What a status means: one sentence, in static memory. Never null, whatever the number is.
 */
const char *sarit_error_message(int32_t status);

/*
 Reads one token. logits: the sarit_vocab_len() logits of the next, in the scratch, until that is used again.

 # Safety
 `model` may be read; `state` and `scratch` may be written and are used by nothing else; `logits` may be written.
 */
sarit_status sarit_step(const struct sarit_model *model,
                        struct sarit_state *state,
                        struct sarit_scratch *scratch,
                        uint32_t token,
                        float **logits);

/*
 Reads count tokens, in chunks as large as the scratch allows, and computes no logits. All tokens are checked first.

 # Safety
 As for [`sarit_step`]; `count` numbers at `tokens` may be read.
 */
sarit_status sarit_feed(const struct sarit_model *model,
                        struct sarit_state *state,
                        struct sarit_scratch *scratch,
                        const uint32_t *tokens,
                        size_t count);

/*
 Reads one frame of len floats. result: the sarit_output_len() scores of classes or regression values after it, in the
 scratch, until that is used again.

 interval: time since the frame before, relative to the interval of training; 1 for frames that come as in training.

 # Safety
 As for [`sarit_step`]; `len` floats at `frame` may be read, and `result` may be written.
 */
sarit_status sarit_step_frame(const struct sarit_model *model,
                              struct sarit_state *state,
                              struct sarit_scratch *scratch,
                              const float *frame,
                              size_t len,
                              float interval,
                              float **result);

/*
 Reads frames, len floats in all, each at the same interval, in chunks as large as the scratch allows, and computes no
 results. All frames are checked first.

 # Safety
 As for [`sarit_step`]; `len` floats at `frames` may be read.
 */
sarit_status sarit_feed_frames(const struct sarit_model *model,
                               struct sarit_state *state,
                               struct sarit_scratch *scratch,
                               const float *frames,
                               size_t len,
                               float interval);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SARIT_H */

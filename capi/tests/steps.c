/* 10,000 steps of a frame model in which no allocation happens: malloc and its kin are traps.
 * steps FRAMES.sarit INPUT: INPUT holds frames of 32-bit floats, read again and again. Prints the state's hash. */
#include "read_file.h"

#include <sarit.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Alignas(64) unsigned char file[ROOM], memory[ROOM], working[ROOM], snapshot[ROOM];
static float input[ROOM / 4];

/* What the C library asks for before the trap is set comes from here and is never given back. */
static _Alignas(16) unsigned char heap[1 << 16];
static size_t used;
static int set, caught;

void *malloc(size_t bytes)
{
    caught += set;
    size_t start = (used + 15) / 16 * 16;
    if (bytes > sizeof heap - start)
        abort();
    used = start + bytes;
    return heap + start;
}

void *calloc(size_t count, size_t bytes) { return memset(malloc(count * bytes), 0, count * bytes); }

void *realloc(void *old, size_t bytes)
{
    unsigned char *fresh = malloc(bytes);
    size_t have = old ? (size_t)(heap + sizeof heap - (unsigned char *)old) : 0;
    return memcpy(fresh, old ? old : fresh, bytes < have ? bytes : have);
}

void free(void *pointer) { caught += set && pointer; }

#define MUST(call)                                                                                  \
    do {                                                                                            \
        int status = (call);                                                                        \
        if (status != SARIT_OK) {                                                                   \
            set = 0;                                                                                \
            printf("%s: %s\n", #call, sarit_error_message(status));                                 \
            return 1;                                                                               \
        }                                                                                           \
    } while (0)

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    static sarit_model model;
    static sarit_state state;
    static sarit_scratch scratch;
    size_t len = read_file(argv[1], file), floats = read_file(argv[2], input) / 4;
    sarit_needs need;
    size_t written;

    set = 1;
    MUST(sarit_model_init(&model, file, len));
    MUST(sarit_memory(&model, 1, &need));
    MUST(sarit_state_init(&state, &model, memory, sizeof memory));
    MUST(sarit_scratch_init(&scratch, &model, working, sizeof working, 1));
    size_t frame_len = sarit_frame_len(&model), frames = floats / frame_len;
    for (size_t i = 0; i < 10000; i++) {
        float *result;
        MUST(sarit_step_frame(&model, &state, &scratch, input + i % frames * frame_len, frame_len, 1, &result));
    }
    MUST(sarit_state_save(&state, snapshot, sizeof snapshot, &written));
    MUST(sarit_state_load(&state, &model, snapshot, written, memory, sizeof memory));
    uint64_t hash = sarit_state_hash(&state);
    set = 0;

    printf("%016llx\n", (unsigned long long)hash);
    if (caught)
        printf("%d allocations\n", caught);
    return caught != 0;
}

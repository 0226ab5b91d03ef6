/* One model, four threads with a state each: all reach the same state. threads FRAMES.sarit INPUT, as steps.c. */
#include "read_file.h"

#include <sarit.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { THREADS = 4 };
static _Alignas(64) unsigned char file[ROOM];
static float input[ROOM / 4];
static sarit_model model;
static size_t frame_len, frames;

static void *stream(void *hash)
{
    static _Alignas(64) unsigned char all[THREADS][2][ROOM / 4];
    static _Atomic unsigned next;
    unsigned char(*mine)[ROOM / 4] = all[next++];
    sarit_state state;
    sarit_scratch scratch;
    int status = sarit_state_init(&state, &model, mine[0], sizeof mine[0]);
    if (!status)
        status = sarit_scratch_init(&scratch, &model, mine[1], sizeof mine[1], 1);
    for (size_t i = 0; i < 2000 && !status; i++) {
        float *result;
        status = sarit_step_frame(&model, &state, &scratch, input + i % frames * frame_len, frame_len, 1, &result);
    }
    *(uint64_t *)hash = status ? 0 : sarit_state_hash(&state);
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    size_t len = read_file(argv[1], file), floats = read_file(argv[2], input) / 4;
    if (sarit_model_init(&model, file, len))
        return 1;
    frame_len = sarit_frame_len(&model), frames = floats / frame_len;
    pthread_t threads[THREADS];
    uint64_t hashes[THREADS];
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, stream, &hashes[i]))
            return 1;
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < THREADS; i++)
        if (hashes[i] == 0 || hashes[i] != hashes[0]) {
            printf("thread %d reached another state\n", i);
            return 1;
        }
    return 0;
}

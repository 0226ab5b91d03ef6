/* Steps a frame model through rows of numbers from standard input: frames.c MODEL.sarit < rows.
 * Prints the class (the index of the largest score) and its score after every row. */
#include <sarit.h>

#include <stdio.h>
#include <stdlib.h>

static void must(sarit_status status, const char *what)
{
    if (status != SARIT_OK) {
        fprintf(stderr, "%s: %s\n", what, sarit_error_message(status));
        exit(1);
    }
}

/* Memory for states and scratch is aligned to 64 bytes. */
static void *lend(size_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (memory == NULL) {
        fputs("not enough memory\n", stderr);
        exit(1);
    }
    return memory;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fputs("usage: frames MODEL.sarit < rows\n", stderr);
        return 2;
    }
    static sarit_mapping file;
    static sarit_model model;
    static sarit_state state;
    static sarit_scratch scratch;

    const void *bytes;
    size_t len;
    must(sarit_map(&file, argv[1], &bytes, &len), argv[1]);
    must(sarit_model_init(&model, bytes, len), argv[1]);
    sarit_needs need;
    must(sarit_memory(&model, 1, &need), "memory");
    void *state_memory = lend(need.state_bytes), *scratch_memory = lend(need.scratch_bytes);
    must(sarit_state_init(&state, &model, state_memory, need.state_bytes), "state");
    must(sarit_scratch_init(&scratch, &model, scratch_memory, need.scratch_bytes, 1), "scratch");

    size_t frame_len = sarit_frame_len(&model), filled = 0;
    float *frame = lend(frame_len * sizeof *frame + 1);
    while (scanf(" %f%*[ ,]", &frame[filled]) == 1) {
        if (++filled < frame_len)
            continue;
        filled = 0;
        float *scores;
        uint32_t class;
        must(sarit_step_frame(&model, &state, &scratch, frame, frame_len, 1.0f, &scores), "frame");
        must(sarit_argmax(scores, sarit_output_len(&model), &class), "class");
        printf("%u %.6f\n", (unsigned)class, scores[class]);
    }
    printf("state %016llx\n", (unsigned long long)sarit_state_hash(&state));
    free(frame);
    free(scratch_memory);
    free(state_memory);
    must(sarit_unmap(&file), "unmap");
    return 0;
}

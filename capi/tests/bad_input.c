/* Every wrong call gets its status and a message, and the state stays as it was.
 * bad_input FRAMES.sarit TOKENS.sarit */
#include "read_file.h"

#include <sarit.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int wrong;

#define EXPECT(status, call)                                                                        \
    do {                                                                                            \
        int got = (call);                                                                           \
        if (got != (status) || sarit_error_message(got)[0] == '\0') {                               \
            printf("line %d: %s gives %d (%s), not %s\n", __LINE__, #call, got,                     \
                   sarit_error_message(got), #status);                                              \
            wrong++;                                                                                \
        }                                                                                           \
    } while (0)

#define HOLDS(condition)                                                                            \
    do {                                                                                            \
        if (!(condition)) {                                                                         \
            printf("line %d: %s does not hold\n", __LINE__, #condition);                            \
            wrong++;                                                                                \
        }                                                                                           \
    } while (0)

enum { FRAME = 40 };
static _Alignas(64) unsigned char file[ROOM], other_file[ROOM], memory[ROOM], more[ROOM], snapshot[ROOM];

static sarit_model model, tokens, empty;
static sarit_state state;
static sarit_scratch scratch;
static sarit_needs need;

static void models(size_t len)
{
    EXPECT(SARIT_NULL, sarit_model_init(NULL, file, len));
    EXPECT(SARIT_NULL, sarit_model_init(&empty, NULL, len));
    EXPECT(SARIT_NOT_A_MODEL, sarit_model_init(&empty, NULL, 0));
    EXPECT(SARIT_MISALIGNED, sarit_model_init((sarit_model *)(memory + 1), file, len));
    EXPECT(SARIT_LENGTH, sarit_model_init(&empty, file, (size_t)-1));
    EXPECT(SARIT_NOT_A_MODEL, sarit_model_init(&empty, file, 63));
    EXPECT(SARIT_MODEL_DAMAGED, sarit_model_init(&empty, file, len - 1));
    memcpy(memory + 4, file, len);
    EXPECT(SARIT_MISALIGNED, sarit_model_init(&empty, memory + 4, len));
    memcpy(memory, file, len);
    memory[0] ^= 1;
    EXPECT(SARIT_NOT_A_MODEL, sarit_model_init(&empty, memory, len));
    memory[0] ^= 1, memory[16] = 99;
    EXPECT(SARIT_MODEL_VERSION, sarit_model_init(&empty, memory, len));
    for (size_t at = 24; at < len; at += len / 50) {
        memcpy(memory, file, len);
        memory[at] ^= 0x10;
        EXPECT(SARIT_MODEL_DAMAGED, sarit_model_init(&empty, memory, len));
    }

    EXPECT(SARIT_NOT_READY, sarit_memory(&empty, 1, &need));
    EXPECT(SARIT_NULL, sarit_memory(NULL, 1, &need));
    EXPECT(SARIT_OK, sarit_model_init(&model, file, len));
    EXPECT(SARIT_NULL, sarit_memory(&model, 1, NULL));
    EXPECT(SARIT_LENGTH, sarit_memory(&model, 0, &need));
    EXPECT(SARIT_LENGTH, sarit_memory(&model, (size_t)-1 / 2, &need));
    EXPECT(SARIT_OK, sarit_memory(&model, 4, &need));
    HOLDS(need.align == 64 && need.state_bytes + need.scratch_bytes < ROOM && need.snapshot_bytes < ROOM);
    HOLDS(sarit_frame_len(&model) == FRAME && sarit_output_len(&model) == 10 && sarit_vocab_len(&model) == 0);
    HOLDS(sarit_frame_len(&empty) == 0 && sarit_output_len(NULL) == 0 && sarit_vocab_len(&empty) == 0);
    const char *text;
    size_t bytes;
    EXPECT(SARIT_OK, sarit_meta(&model, &text, &bytes));
    HOLDS(bytes > 2 && text[0] == '{' && text[bytes - 1] == '}');
    EXPECT(SARIT_NULL, sarit_meta(&model, NULL, &bytes));
    EXPECT(SARIT_NOT_READY, sarit_meta(&empty, &text, &bytes));
}

static void states(void)
{
    EXPECT(SARIT_NOT_READY, sarit_state_init(&state, &empty, memory, ROOM));
    EXPECT(SARIT_NULL, sarit_state_init(NULL, &model, memory, ROOM));
    EXPECT(SARIT_NULL, sarit_state_init(&state, NULL, memory, ROOM));
    EXPECT(SARIT_NULL, sarit_state_init(&state, &model, NULL, ROOM));
    EXPECT(SARIT_TOO_SMALL, sarit_state_init(&state, &model, NULL, 0));
    EXPECT(SARIT_TOO_SMALL, sarit_state_init(&state, &model, memory, need.state_bytes - 1));
    EXPECT(SARIT_MISALIGNED, sarit_state_init(&state, &model, memory + 32, ROOM - 32));
    EXPECT(SARIT_LENGTH, sarit_state_init(&state, &model, memory, (size_t)-1));
    EXPECT(SARIT_NOT_READY, sarit_state_reset(&state));
    EXPECT(SARIT_NULL, sarit_state_reset(NULL));
    HOLDS(sarit_state_position(&state) == 0 && sarit_state_hash(&state) == 0);
    EXPECT(SARIT_TOO_SMALL, sarit_scratch_init(&scratch, &model, more, need.scratch_bytes - 1, 4));
    EXPECT(SARIT_LENGTH, sarit_scratch_init(&scratch, &model, more, ROOM, 0));
    EXPECT(SARIT_MISALIGNED, sarit_scratch_init(&scratch, &model, more + 1, ROOM - 1, 1));
    EXPECT(SARIT_NULL, sarit_scratch_init(&scratch, &model, NULL, ROOM, 1));
    EXPECT(SARIT_OK, sarit_state_init(&state, &model, memory, need.state_bytes));
    EXPECT(SARIT_OK, sarit_scratch_init(&scratch, &model, more, need.scratch_bytes, 4));
}

static void steps(void)
{
    static float frame[FRAME], four[4 * FRAME];
    static sarit_state none;
    static sarit_scratch no_scratch, same;
    float *result = frame;
    for (int i = 0; i < 4 * FRAME; i++)
        four[i] = (float)(i % 7) - 3;
    memcpy(frame, four, sizeof frame);
    EXPECT(SARIT_OK, sarit_feed_frames(&model, &state, &scratch, four, 4 * FRAME, 1));
    uint64_t hash = sarit_state_hash(&state);
    HOLDS(sarit_state_position(&state) == 4 && hash != 0);

    EXPECT(SARIT_NULL, sarit_step_frame(NULL, &state, &scratch, frame, FRAME, 1, &result));
    HOLDS(result == NULL);
    EXPECT(SARIT_NULL, sarit_step_frame(&model, NULL, &scratch, frame, FRAME, 1, &result));
    EXPECT(SARIT_NULL, sarit_step_frame(&model, &state, NULL, frame, FRAME, 1, &result));
    EXPECT(SARIT_NULL, sarit_step_frame(&model, &state, &scratch, NULL, FRAME, 1, &result));
    EXPECT(SARIT_NULL, sarit_step_frame(&model, &state, &scratch, frame, FRAME, 1, NULL));
    EXPECT(SARIT_NOT_READY, sarit_step_frame(&empty, &state, &scratch, frame, FRAME, 1, &result));
    EXPECT(SARIT_NOT_READY, sarit_step_frame(&model, &none, &scratch, frame, FRAME, 1, &result));
    EXPECT(SARIT_NOT_READY, sarit_step_frame(&model, &state, &no_scratch, frame, FRAME, 1, &result));
    EXPECT(SARIT_MISALIGNED,
           sarit_step_frame(&model, &state, &scratch, (float *)((char *)frame + 1), FRAME - 1, 1, &result));
    EXPECT(SARIT_FRAME_LEN, sarit_step_frame(&model, &state, &scratch, frame, FRAME - 1, 1, &result));
    EXPECT(SARIT_FRAME_LEN, sarit_step_frame(&model, &state, &scratch, four, 2 * FRAME, 1, &result));
    EXPECT(SARIT_FRAME_LEN, sarit_step_frame(&model, &state, &scratch, NULL, 0, 1, &result));
    EXPECT(SARIT_FRAME_LEN, sarit_feed_frames(&model, &state, &scratch, four, 2 * FRAME - 1, 1));
    EXPECT(SARIT_LENGTH, sarit_step_frame(&model, &state, &scratch, frame, (size_t)-1, 1, &result));
    const float intervals[] = {0, -1, NAN, INFINITY, 2e6f};
    for (size_t i = 0; i < sizeof intervals / sizeof *intervals; i++)
        EXPECT(SARIT_INTERVAL, sarit_step_frame(&model, &state, &scratch, frame, FRAME, intervals[i], &result));
    const float not_finite[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < 3; i++) {
        four[i * 50] = not_finite[i];
        EXPECT(SARIT_FRAME_NOT_FINITE, sarit_feed_frames(&model, &state, &scratch, four, 4 * FRAME, 1));
        four[i * 50] = 0;
    }
    uint32_t token = 0;
    EXPECT(SARIT_TAKES_FRAMES, sarit_feed(&model, &state, &scratch, &token, 1));
    EXPECT(SARIT_TAKES_FRAMES, sarit_step(&model, &state, &scratch, 0, &result));

    /* Memory that two of the three use. */
    EXPECT(SARIT_OVERLAP, sarit_step_frame(&model, &state, &scratch, (float *)more, FRAME, 1, &result));
    EXPECT(SARIT_OVERLAP, sarit_step_frame(&model, &state, &scratch, (float *)memory + 1, FRAME, 1, &result));
    EXPECT(SARIT_OK, sarit_scratch_init(&same, &model, memory, need.scratch_bytes, 4));
    EXPECT(SARIT_OVERLAP, sarit_step_frame(&model, &state, &same, frame, FRAME, 1, &result));
    HOLDS(sarit_state_position(&state) == 4 && sarit_state_hash(&state) == hash);
    EXPECT(SARIT_OK, sarit_step_frame(&model, &state, &scratch, frame, FRAME, 1, &result));
    HOLDS(result != NULL && isfinite(result[9]) && sarit_state_hash(&state) != hash);
}

static void token_models(size_t len)
{
    static _Alignas(64) unsigned char a[ROOM], b[ROOM];
    static sarit_state its_state;
    static sarit_scratch its_scratch;
    float frame[FRAME] = {0}, *result;
    sarit_needs its_need;
    EXPECT(SARIT_OK, sarit_model_init(&tokens, other_file, len));
    EXPECT(SARIT_OK, sarit_memory(&tokens, 1, &its_need));
    EXPECT(SARIT_OK, sarit_state_init(&its_state, &tokens, a, its_need.state_bytes));
    EXPECT(SARIT_OK, sarit_scratch_init(&its_scratch, &tokens, b, its_need.scratch_bytes, 1));
    uint32_t vocab = (uint32_t)sarit_vocab_len(&tokens), ids[] = {1, 2, vocab};
    EXPECT(SARIT_TOKEN, sarit_step(&tokens, &its_state, &its_scratch, vocab, &result));
    EXPECT(SARIT_TOKEN, sarit_feed(&tokens, &its_state, &its_scratch, ids, 3));
    EXPECT(SARIT_NULL, sarit_feed(&tokens, &its_state, &its_scratch, NULL, 3));
    EXPECT(SARIT_LENGTH, sarit_feed(&tokens, &its_state, &its_scratch, ids, (size_t)-1 / 4));
    EXPECT(SARIT_TAKES_TOKENS, sarit_step_frame(&tokens, &its_state, &its_scratch, frame, FRAME, 1, &result));
    EXPECT(SARIT_OTHER_MODEL, sarit_step(&tokens, &state, &its_scratch, 1, &result));
    EXPECT(SARIT_OTHER_MODEL, sarit_step(&tokens, &its_state, &scratch, 1, &result));
    EXPECT(SARIT_OTHER_MODEL, sarit_step_frame(&model, &its_state, &scratch, frame, FRAME, 1, &result));
    HOLDS(sarit_state_position(&its_state) == 0);
    EXPECT(SARIT_OK, sarit_feed(&tokens, &its_state, &its_scratch, NULL, 0));
    EXPECT(SARIT_OK, sarit_feed(&tokens, &its_state, &its_scratch, ids, 2));
    EXPECT(SARIT_OK, sarit_step(&tokens, &its_state, &its_scratch, 3, &result));
    HOLDS(sarit_state_position(&its_state) == 3);

    static sarit_sampler sampler;
    uint32_t best, token = vocab;
    sarit_sampling sampling = {.temperature = -1, .top_p = 1, .top_k = 0, .seed = 1};
    EXPECT(SARIT_NOT_READY, sarit_sample(&sampler, result, vocab, &token));
    EXPECT(SARIT_SAMPLING, sarit_sampler_init(&sampler, &sampling));
    sampling.temperature = 0, sampling.top_p = NAN;
    EXPECT(SARIT_SAMPLING, sarit_sampler_init(&sampler, &sampling));
    EXPECT(SARIT_NULL, sarit_sampler_init(&sampler, NULL));
    EXPECT(SARIT_NULL, sarit_sampler_init(NULL, &sampling));
    sampling.top_p = 1;
    EXPECT(SARIT_OK, sarit_sampler_init(&sampler, &sampling));
    EXPECT(SARIT_NULL, sarit_sample(&sampler, NULL, vocab, &token));
    EXPECT(SARIT_LENGTH, sarit_sample(&sampler, result, 0, &token));
    EXPECT(SARIT_NULL, sarit_sample(&sampler, result, vocab, NULL));
    EXPECT(SARIT_OK, sarit_sample(&sampler, result, vocab, &token));
    EXPECT(SARIT_OK, sarit_argmax(result, vocab, &best));
    HOLDS(token == best && best < vocab);
    EXPECT(SARIT_NULL, sarit_argmax(NULL, 1, &best));
    EXPECT(SARIT_NULL, sarit_argmax(result, 1, NULL));
    EXPECT(SARIT_LENGTH, sarit_argmax(result, 0, &best));
}

static void snapshots(void)
{
    static _Alignas(64) unsigned char again[ROOM];
    static sarit_state none, loaded;
    size_t len;
    uint64_t hash = sarit_state_hash(&state);
    EXPECT(SARIT_NOT_READY, sarit_state_save(&none, snapshot, ROOM, &len));
    EXPECT(SARIT_NULL, sarit_state_save(NULL, snapshot, ROOM, &len));
    EXPECT(SARIT_NULL, sarit_state_save(&state, NULL, ROOM, &len));
    EXPECT(SARIT_NULL, sarit_state_save(&state, snapshot, ROOM, NULL));
    EXPECT(SARIT_TOO_SMALL, sarit_state_save(&state, snapshot, need.snapshot_bytes - 1, &len));
    EXPECT(SARIT_OVERLAP, sarit_state_save(&state, memory, ROOM, &len));
    EXPECT(SARIT_OK, sarit_state_save(&state, snapshot + 1, need.snapshot_bytes, &len));
    HOLDS(len == need.snapshot_bytes);
    const unsigned char *saved = snapshot + 1;
    EXPECT(SARIT_NULL, sarit_state_load(&loaded, &model, NULL, len, again, ROOM));
    EXPECT(SARIT_NULL, sarit_state_load(&loaded, &model, saved, len, NULL, ROOM));
    EXPECT(SARIT_NULL, sarit_state_load(NULL, &model, saved, len, again, ROOM));
    EXPECT(SARIT_NOT_READY, sarit_state_load(&loaded, &empty, saved, len, again, ROOM));
    EXPECT(SARIT_TOO_SMALL, sarit_state_load(&loaded, &model, saved, len, again, need.state_bytes - 1));
    EXPECT(SARIT_MISALIGNED, sarit_state_load(&loaded, &model, saved, len, again + 8, ROOM - 8));
    EXPECT(SARIT_OTHER_MODEL, sarit_state_load(&loaded, &tokens, saved, len, again, ROOM));
    EXPECT(SARIT_STATE_DAMAGED, sarit_state_load(&loaded, &model, saved, len - 1, again, ROOM));
    EXPECT(SARIT_STATE_DAMAGED, sarit_state_load(&loaded, &model, saved, 10, again, ROOM));
    EXPECT(SARIT_NOT_A_STATE, sarit_state_load(&loaded, &model, file, len, again, ROOM));
    EXPECT(SARIT_OVERLAP, sarit_state_load(&loaded, &model, snapshot, len, snapshot, ROOM));
    snapshot[1 + len / 2] ^= 1;
    EXPECT(SARIT_STATE_DAMAGED, sarit_state_load(&loaded, &model, saved, len, again, ROOM));
    unsigned char version = snapshot[1 + 8];
    snapshot[1 + len / 2] ^= 1, snapshot[1 + 8] = 77;
    EXPECT(SARIT_STATE_VERSION, sarit_state_load(&loaded, &model, saved, len, again, ROOM));
    snapshot[1 + 8] = version;
    EXPECT(SARIT_NOT_READY, sarit_state_reset(&loaded));
    EXPECT(SARIT_OK, sarit_state_load(&loaded, &model, saved, len, again, need.state_bytes));
    HOLDS(sarit_state_hash(&loaded) == hash && sarit_state_position(&loaded) == sarit_state_position(&state));
    EXPECT(SARIT_OK, sarit_state_reset(&loaded));
    HOLDS(sarit_state_position(&loaded) == 0 && sarit_state_hash(&loaded) != hash);
}

static void files(const char *path, size_t expected)
{
    sarit_mapping mapping = {0};
    const void *bytes = path;
    size_t len = 1;
    EXPECT(SARIT_FILE, sarit_map(&mapping, "/nonexistent/model.sarit", &bytes, &len));
    HOLDS(bytes == NULL && len == 0);
    EXPECT(SARIT_FILE, sarit_map(&mapping, "/", &bytes, &len));
    EXPECT(SARIT_FILE, sarit_map(&mapping, "", &bytes, &len));
    EXPECT(SARIT_NULL, sarit_map(&mapping, NULL, &bytes, &len));
    EXPECT(SARIT_NULL, sarit_map(NULL, path, &bytes, &len));
    EXPECT(SARIT_NULL, sarit_map(&mapping, path, NULL, &len));
    EXPECT(SARIT_NOT_READY, sarit_unmap(&mapping));
    EXPECT(SARIT_OK, sarit_map(&mapping, path, &bytes, &len));
    HOLDS(len == expected && memcmp(bytes, file, len) == 0);
    EXPECT(SARIT_OK, sarit_unmap(&mapping));
    EXPECT(SARIT_NOT_READY, sarit_unmap(&mapping));
    EXPECT(SARIT_NULL, sarit_unmap(NULL));
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    size_t len = read_file(argv[1], file), other_len = read_file(argv[2], other_file);
    HOLDS(sarit_abi_version() == SARIT_ABI_VERSION);
    HOLDS(strchr(sarit_version(), '.') != NULL);
    HOLDS(strcmp(sarit_error_message(12345), sarit_error_message(-1)) == 0);
    models(len);
    states();
    steps();
    token_models(other_len);
    snapshots();
    files(argv[1], len);
    printf("%d wrong\n", wrong);
    return wrong != 0;
}

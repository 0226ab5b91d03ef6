/* Keyword spotting on a Cortex-M7 in C, with the freestanding libsarit.a: a timer interrupt brings the frames through a
 * queue, the main loop steps the model where it lies in flash, in static memory. Ends with 0 if results and state have
 * the bits that the host computed, 1 if not, 2 if the model is refused, 3 if a frame was lost. */
#include "board.h"
#include "case.h"

#include <sarit.h>

enum { QUEUE = 2, SAME = 0, DIFFERENT = 1, REFUSED = 2, FRAME_LOST = 3, FAULT = 101 };

/* From case.S. */
extern const unsigned char case_model[];
extern const float case_frames[FRAMES][WIDTH];
extern const uint32_t case_results[FRAMES][OUTPUTS];

static sarit_model model;
static sarit_state state;
static sarit_scratch scratch;
static _Alignas(64) unsigned char state_memory[STATE_BYTES], scratch_memory[SCRATCH_BYTES];

/* One producer, the interrupt, and one consumer, the main loop: each writes its own count. */
static float queue[QUEUE][WIDTH];
static volatile uint32_t come, gone, lost;

void on_tick(void)
{
    static uint32_t frame;
    if (frame == FRAMES)
        return;
    if (come - gone == QUEUE) {
        lost++;
        return;
    }
    for (int i = 0; i < WIDTH; i++)
        queue[come % QUEUE][i] = case_frames[frame][i];
    frame++;
    come++;
}

static void must(sarit_status status)
{
    if (status == SARIT_OK)
        return;
    say("the model in flash is refused: ");
    say(sarit_error_message(status));
    say("\n");
    leave(REFUSED);
}

int main(void)
{
    must(sarit_model_init(&model, case_model, MODEL_BYTES));
    must(sarit_state_init(&state, &model, state_memory, sizeof state_memory));
    must(sarit_scratch_init(&scratch, &model, scratch_memory, sizeof scratch_memory, 1));
    start_ticks();

    int same = 1;
    uint32_t class = 0, instructions = 0;
    for (uint32_t frame = 0; frame < FRAMES; frame++) {
        while (come == gone)
            sleep();
        float *scores;
        uint32_t start = now();
        sarit_status status = sarit_step_frame(&model, &state, &scratch, queue[gone % QUEUE], WIDTH, 1.0f, &scores);
        instructions += now() - start;
        must(status);
        gone++;
        for (int i = 0; i < OUTPUTS; i++)
            same &= ((const uint32_t *)(const void *)scores)[i] == case_results[frame][i];
        must(sarit_argmax(scores, OUTPUTS, &class));
    }
    if (lost > 0)
        leave(FRAME_LOST);
    same &= sarit_state_hash(&state) == STATE_HASH;

    report("class", class);
    report("frames", FRAMES);
    report("instructions_per_frame", instructions / FRAMES);
    report("state_bytes", STATE_BYTES);
    report("model_bytes", MODEL_BYTES);
    report_memory();
    say(same ? "the same bits as on the host\n" : "OTHER BITS than on the host\n");
    leave(same ? SAME : DIFFERENT);
}

void on_fault(void)
{
    leave(FAULT);
}

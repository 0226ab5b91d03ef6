/* The board: QEMU's mps2-an500, with the host's console and exit code through semihosting. */
#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

/* The program's part. */
int main(void);
void on_tick(void);
void on_fault(void);

/* Starts the timer that calls on_tick(). */
void start_ticks(void);
/* Instructions executed so far; differences wrap. */
uint32_t now(void);
/* Sleeps until an interrupt. */
void sleep(void);

/* Writes text on the console. */
void say(const char *text);
/* Writes `name value` as a line. */
void report(const char *name, uint32_t value);
/* Reports static_bytes, stack_bytes (by painting) and flash_bytes. */
void report_memory(void);
/* Ends the program. */
_Noreturn void leave(int code);

#endif

#include "board.h"

/* From link.ld. */
extern uint32_t flash_start[], flash_end[], data_start[], data_end[], data_init[], bss_end[], stack_top[];

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define SYST_CSR REGISTER(0xe000e010)
#define SYST_RVR REGISTER(0xe000e014)
#define SYST_CVR REGISTER(0xe000e018)
#define CPACR REGISTER(0xe000ed88)

/* Ticks from frame to frame, 40 ns each at 25 MHz: more than a step needs. */
#define PERIOD (1u << 20)
#define NANOSECONDS 40u
/* What free memory is painted with. */
#define PAINT 0x7a110c8du

static volatile uint32_t ticks;

_Noreturn void reset(void)
{
    for (uint32_t *word = data_start, *from = data_init; word < data_end; word++)
        *word = *from++;
    for (uint32_t *word = data_end; word < bss_end; word++)
        *word = 0;
    /* Up to a little below this function's own part of the stack. */
    uint32_t here;
    for (volatile uint32_t *word = bss_end; (uintptr_t)word < (uintptr_t)&here - 128; word++)
        *word = PAINT;
    CPACR |= 0xfu << 20; /* the floating-point unit */
    __asm__ volatile("dsb\nisb");
    main();
    leave(0);
}

static void tick(void)
{
    ticks++;
    on_tick();
}

__attribute__((section(".vectors"), used)) static const struct {
    uint32_t *stack;
    void (*handlers[15])(void);
} vectors = {
    stack_top,
    {reset, on_fault, on_fault, on_fault, on_fault, on_fault, 0, 0, 0, 0, on_fault, on_fault, 0, on_fault, tick},
};

void start_ticks(void)
{
    SYST_RVR = PERIOD - 1;
    SYST_CVR = 0;
    SYST_CSR = 7; /* the core's clock, with interrupt */
}

uint32_t now(void)
{
    for (;;) {
        uint32_t before = ticks, left = SYST_CVR;
        if (ticks == before)
            return (before * PERIOD + (PERIOD - left) % PERIOD) * NANOSECONDS; /* at 0 the interrupt has come */
    }
}

void sleep(void)
{
    __asm__ volatile("wfi");
}

static uint32_t call_host(uint32_t operation, const void *argument)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void say(const char *text)
{
    call_host(0x04, text); /* SYS_WRITE0 */
}

void report(const char *name, uint32_t value)
{
    char text[12];
    char *start = text + sizeof text;
    *--start = 0;
    *--start = '\n';
    do
        *--start = (char)('0' + value % 10);
    while ((value /= 10) > 0);
    say(name);
    say(" ");
    say(start);
}

void report_memory(void)
{
    const volatile uint32_t *word = bss_end;
    while (word < stack_top && *word == PAINT)
        word++;
    report("static_bytes", (uint32_t)((char *)bss_end - (char *)data_start));
    report("stack_bytes", (uint32_t)((char *)stack_top - (char *)word));
    report("flash_bytes", (uint32_t)((char *)flash_end - (char *)flash_start));
}

_Noreturn void leave(int code)
{
    const uint32_t reason[2] = {0x20026, (uint32_t)code}; /* the application's own end */
    call_host(0x20, reason);                              /* SYS_EXIT_EXTENDED */
    for (;;)
        sleep();
}

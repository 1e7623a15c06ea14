/* Reads examples of TICKET_INPUTS floats from the file examples.f32 of the host until it ends, writes the outputs of
 * each to outputs.f32, and what was measured to measured.u32: the examples, the bytes of stack that ticket_predict used
 * at most, the bytes that the whole program did, and the ticks that all calls took, low word first (all ones if a
 * call took more than the timer counts). */
#include <stdint.h>

#include "runtime.h"
#include "ticket.h"

#define SYSTICK_CONTROL (*(volatile uint32_t *)0xe000e010u)
#define SYSTICK_RELOAD (*(volatile uint32_t *)0xe000e014u)
#define SYSTICK_CURRENT (*(volatile uint32_t *)0xe000e018u)
#define SYSTICK_MOST 0xffffffu
#define SYSTICK_WRAPPED (1u << 16)

static float input[TICKET_INPUTS];
static float output[TICKET_OUTPUTS];
static uint32_t buffer[TICKET_BUFFER_WORDS];

static uint32_t network_stack;
static uint32_t *deepest;
static uint64_t ticks;

static uint32_t open_file(const char *name, uint32_t length, uint32_t mode)
{
    const uint32_t arguments[3] = {(uint32_t)name, mode, length};
    const uint32_t handle = ask_host(0x01 /* SYS_OPEN */, arguments);
    if (handle == 0xffffffffu) leave(STATUS_FILE);
    return handle;
}

static void write_file(uint32_t handle, const void *bytes, uint32_t count)
{
    const uint32_t arguments[3] = {handle, (uint32_t)bytes, count};
    if (ask_host(0x05 /* SYS_WRITE */, arguments) != 0) leave(STATUS_FILE);
}

static void close_file(uint32_t handle)
{
    if (ask_host(0x02 /* SYS_CLOSE */, &handle) != 0) leave(STATUS_FILE);
}

/* Return whether another example was read. */
static int read_example(uint32_t handle)
{
    const uint32_t arguments[3] = {handle, (uint32_t)input, sizeof input};
    const uint32_t missing = ask_host(0x06 /* SYS_READ */, arguments);
    if (missing != 0 && missing != sizeof input) leave(STATUS_PARTIAL);
    return missing == 0;
}

static void note_depth(void)
{
    uint32_t *word = deepest_word();
    if (word == stack_limit) leave(STATUS_STACK);
    if (word < deepest) deepest = word;
}

/* Call the network with an empty stack below it; all that is touched there meanwhile is its own. */
static __attribute__((noinline)) void predict(void)
{
    note_depth();
    paint_stack();
    SYSTICK_CURRENT = 0;
    while (SYSTICK_CURRENT == 0) continue;
    const uint32_t before = SYSTICK_CURRENT;
    (void)SYSTICK_CONTROL; /* reading it forgets a wrap */
    ticket_predict(input, output, buffer);
    const uint32_t after = SYSTICK_CURRENT;
    const int wrapped = (SYSTICK_CONTROL & SYSTICK_WRAPPED) != 0;
    const uint32_t used = 4 * (uint32_t)(stack_pointer() - deepest_word());
    if (used > network_stack) network_stack = used;
    note_depth();
    ticks = wrapped || ticks == UINT64_MAX ? UINT64_MAX : ticks + (before - after);
}

int main(void)
{
    const uint32_t examples = open_file("examples.f32", 12, 1 /* "rb" */);
    const uint32_t outputs = open_file("outputs.f32", 11, 5 /* "wb" */);
    uint32_t count = 0;
    deepest = stack_top;
    SYSTICK_RELOAD = SYSTICK_MOST;
    SYSTICK_CONTROL = 5; /* count, on the processor's clock, without an interrupt */
    for (; read_example(examples); count++) {
        predict();
        write_file(outputs, output, sizeof output);
    }
    close_file(outputs);
    note_depth();
    const uint32_t whole_stack = 4 * (uint32_t)(stack_top - deepest);
    const uint32_t measured[5] = {count, network_stack, whole_stack, (uint32_t)ticks, (uint32_t)(ticks >> 32)};
    const uint32_t file = open_file("measured.u32", 12, 5);
    write_file(file, measured, sizeof measured);
    close_file(file);
    return 0;
}

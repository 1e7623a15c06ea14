/* What a Cortex-M4 needs before main: vectors, the FPU, memory as C expects it, and a stack whose use can be seen. */
#include <stdint.h>

#include "runtime.h"

#define CPACR (*(volatile uint32_t *)0xe000ed88u) /* who may use the coprocessors; 10 and 11 are the FPU */

extern uint32_t data_image[], data_start[], data_end[], bss_start[], bss_end[];

int main(void);
void reset(void);

static void fault(void)
{
    leave(STATUS_FAULT);
}

static const struct {
    uint32_t *stack;
    void (*handlers[15])(void);
} vectors __attribute__((section(".vectors"), used)) = {
    stack_top, {reset, fault, fault, fault, fault, fault, 0, 0, 0, 0, fault, fault, 0, fault, fault}};

void reset(void)
{
    CPACR |= 0xfu << 20;
    __asm__ volatile("dsb\n\tisb" ::: "memory");
    for (uint32_t *to = data_start, *from = data_image; to < data_end;) *to++ = *from++;
    for (uint32_t *to = bss_start; to < bss_end;) *to++ = 0;
    paint_stack();
    leave(main());
}

/* The stack, and the way out, of a program on a bare Cortex-M4 under a debugger or qemu. */
#ifndef RUNTIME_H
#define RUNTIME_H

#include <stdint.h>

enum { STATUS_FILE = 2, STATUS_PARTIAL = 3, STATUS_FAULT = 4, STATUS_STACK = 5 };

extern uint32_t stack_limit[], stack_top[];

/* Ask the host for something (Arm semihosting 2.0, section 5); the answer depends on the operation. */
static inline uint32_t ask_host(uint32_t operation, const void *arguments)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = arguments;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

/* End the program with a status. */
static inline void leave(int status)
{
    const uint32_t arguments[2] = {0x20026u /* the application has ended */, (uint32_t)status};
    for (;;) ask_host(0x20 /* SYS_EXIT_EXTENDED */, arguments);
}

/* Always in the caller, whose frame lies above what is painted. */
static inline __attribute__((always_inline)) uint32_t *stack_pointer(void)
{
    uint32_t *pointer;
    __asm__ volatile("mov %0, sp" : "=r"(pointer));
    return pointer;
}

/* Fill what the stack does not use yet with a pattern. The pointer is volatile: a call of memset would need the stack. */
#define STACK_PAINT 0x5ac3f00du
static inline __attribute__((always_inline)) void paint_stack(void)
{
    for (volatile uint32_t *word = stack_limit, *end = stack_pointer(); word < end; word++) *word = STACK_PAINT;
}

/* Return the lowest word of the stack that does not carry the pattern any more. */
static inline uint32_t *deepest_word(void)
{
    volatile uint32_t *word = stack_limit;
    while (word < stack_top && *word == STACK_PAINT) word++;
    return (uint32_t *)word;
}

#endif

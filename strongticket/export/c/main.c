/* Reads examples of TICKET_INPUTS floats from standard input, one after another, each float as four bytes with the
 * lowest first (IEEE 754 binary32), and prints a line with the TICKET_OUTPUTS outputs of each. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "ticket.h"

static unsigned char bytes[4 * TICKET_INPUTS];
static float input[TICKET_INPUTS];
static float output[TICKET_OUTPUTS];
static uint32_t buffer[TICKET_BUFFER_WORDS];

int main(void)
{
    size_t count;
    while ((count = fread(bytes, 1, sizeof bytes, stdin)) == sizeof bytes) {
        for (size_t i = 0; i < TICKET_INPUTS; i++) {
            const uint32_t bits = (uint32_t)bytes[4 * i] | (uint32_t)bytes[4 * i + 1] << 8 |
                                  (uint32_t)bytes[4 * i + 2] << 16 | (uint32_t)bytes[4 * i + 3] << 24;
            memcpy(&input[i], &bits, sizeof bits);
        }
        ticket_predict(input, output, buffer);
        for (size_t i = 0; i < TICKET_OUTPUTS; i++) printf(i ? " %.9g" : "%.9g", (double)output[i]);
        putchar('\n');
    }
    if (ferror(stdin) || fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "error: standard input cannot be read, or standard output cannot be written\n");
        return 1;
    }
    if (count > 0) {
        fprintf(stderr, "error: the last example ends after %lu of %lu bytes\n", (unsigned long)count,
                (unsigned long)sizeof bytes);
        return 1;
    }
    return 0;
}

/*
 * One pass over float32 scores: which of them lie above a bracket, how many do, and where those inside it are.
 *
 * threshold.py says what for, and does the same with numpy where this file was not compiled. No Python header is
 * needed, so that any C compiler will do.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* What the processor has is found out when the library is loaded. */
#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && (!defined(__clang__) || __clang_major__ >= 14)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

#ifdef _WIN32
#define PUBLIC __declspec(dllexport)
#else
#define PUBLIC
#endif

enum { RUN = 256 }; /* scores between two looks at whether any of them was inside */

/* A bit pattern without its sign is the magnitude's; NaN stays NaN. */
static inline float value_of(uint32_t bits, uint32_t kept_bits) {
    union {
        uint32_t bits;
        float value;
    } score = {bits & kept_bits};
    return score.value;
}

/*
 * Writes 1 to mask where a score (or its magnitude) is greater than high, and 0 elsewhere; adds how many there are to
 * *above. Writes the positions of those neither greater than high nor less than low, NaN among them, to places, and
 * returns how many there are; if there are more than room, it ends early and returns more than that.
 */
FOR_EACH_PROCESSOR
static size_t sort_out(const uint32_t *scores, size_t size, float low, float high, int magnitudes, uint8_t *mask,
                       int64_t *places, size_t room, size_t *above) {
    const uint32_t kept_bits = magnitudes ? 0x7fffffffu : 0xffffffffu;
    uint8_t others[RUN] = {0};
    size_t inside = 0;
    for (size_t start = 0; start < size; start += RUN) {
        const uint32_t *run = scores + start;
        uint8_t *marks = mask + start;
        const size_t length = size - start < RUN ? size - start : RUN;
        uint32_t greater = 0, between = 0;
        for (size_t i = 0; i < length; i++) {
            const float value = value_of(run[i], kept_bits);
            const uint32_t is_above = value > high, is_below = value < low;
            marks[i] = (uint8_t)is_above;
            others[i] = (uint8_t)((is_above | is_below) ^ 1);
            greater += is_above;
            between += is_above | is_below;
        }
        *above += greater;
        between = (uint32_t)length - between;
        if (between == 0)
            continue;
        if (between > room - inside)
            return room + 1;
        for (size_t i = 0; i < length; i += 8) {
            uint64_t eight;
            memcpy(&eight, others + i, 8);
            if (eight == 0)
                continue;
            for (size_t k = i; k < i + 8 && k < length; k++)
                if (others[k])
                    places[inside++] = (int64_t)(start + k);
        }
    }
    return inside;
}

/*
 * Does so by several threads (OpenMP), each with a part of the scores and of the room, of equal sizes: part t begins at
 * t * ceil(size / threads), and at t * (room / threads) of places, which count from the part's begin. inside and above
 * have a number a part.
 *
 * Its name has another number whenever its arguments change, so that a file compiled before is not called with them.
 */
PUBLIC void strongticket_sort_out_2(const uint32_t *scores, size_t size, float low, float high, int magnitudes,
                                  uint8_t *mask, int64_t *places, size_t room, int threads, size_t *inside,
                                  size_t *above) {
    const size_t part = (size + (size_t)threads - 1) / (size_t)threads, share = room / (size_t)threads;
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static, 1) if (threads > 1)
#endif
    for (int t = 0; t < threads; t++) {
        const size_t start = (size_t)t * part < size ? (size_t)t * part : size;
        const size_t length = size - start < part ? size - start : part;
        above[t] = 0;
        inside[t] = sort_out(scores + start, length, low, high, magnitudes, mask + start, places + (size_t)t * share,
                             share, above + t);
    }
}

#ifdef _WIN32 /* whose linker exports it because extensions of Python have one; nobody imports this library */
PUBLIC void *PyInit__threshold(void) { return NULL; }
#endif

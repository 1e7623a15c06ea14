/*
 * The largest of many float32 scores, for several selections at once, where a bracket for each threshold is known.
 *
 * threshold.py says how, and does the same with numpy where this file was not compiled. No Python header is needed, so
 * that any C compiler will do.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
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

/* Some scores, passed over in shares of equal sizes; each share has room for so many places. */
typedef struct {
    const uint32_t *scores;
    uint8_t *mask;
    int64_t *places;
    size_t size, shares, room;
    size_t reached, level; /* how many reach the threshold; how many equal it, the first of places in rising order */
} part;

/* Parts, from number `first` on, that compete for `kept` places. */
typedef struct {
    size_t first, parts, kept;
    float low, high; /* where the threshold most likely lies; nothing is done if low is not at most high */
    float value;     /* the threshold, NaN if any score is */
    int is_found;    /* else nothing that was written means anything */
} contest;

/* What a pass found in a share; more than its room inside if there were too many. */
typedef struct {
    size_t above, inside;
} finding;

/* A score, and its bits. */
typedef union {
    float value;
    uint32_t bits;
} score;

static float float_of(uint32_t bits) { return ((score){.bits = bits}).value; }

static uint32_t bits_of(float value) { return ((score){.value = value}).bits; }

/*
 * Writes 1 to mask where a score (or its magnitude) is greater than high, and 0 elsewhere, and counts those above.
 * Writes the positions of those neither greater than high nor less than low, NaN among them, to places.
 */
FOR_EACH_PROCESSOR
static finding sort_out(const uint32_t *scores, size_t size, float low, float high, uint32_t kept_bits, uint8_t *mask,
                        int64_t *places, size_t room) {
    uint8_t others[RUN] = {0};
    finding found = {0, 0};
    for (size_t start = 0; start < size; start += RUN) {
        const uint32_t *run = scores + start;
        uint8_t *marks = mask + start;
        const size_t length = size - start < RUN ? size - start : RUN;
        uint32_t greater = 0, between = 0;
        for (size_t i = 0; i < length; i++) {
            const float value = float_of(run[i] & kept_bits);
            const uint32_t is_above = value > high, is_below = value < low;
            marks[i] = (uint8_t)is_above;
            greater += is_above;
            between += is_above | is_below;
        }
        found.above += greater;
        between = (uint32_t)length - between;
        if (between == 0)
            continue;
        if (between > room - found.inside) {
            found.inside = room + 1;
            return found;
        }
        for (size_t i = 0; i < length; i++) {
            const float value = float_of(run[i] & kept_bits);
            others[i] = (uint8_t)(!(value > high) & !(value < low));
        }
        for (size_t i = 0; i < length; i += 8) {
            uint64_t eight;
            memcpy(&eight, others + i, 8);
            if (eight == 0)
                continue;
            for (size_t k = i; k < i + 8 && k < length; k++)
                if (others[k])
                    places[found.inside++] = (int64_t)(start + k);
        }
    }
    return found;
}

static size_t start_of(const part *of, size_t share) {
    const size_t start = share * ((of->size + of->shares - 1) / of->shares);
    return start < of->size ? start : of->size;
}

/* Unsigned numbers in the order of the scores: a negative score's bits rise with its magnitude. */
static uint32_t rank_of(uint32_t bits) {
    if (bits == 0x80000000u) /* -0 equals 0 */
        bits = 0;
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static uint32_t bits_with(uint32_t rank) { return rank & 0x80000000u ? rank & 0x7fffffffu : ~rank; }

/* Returns the m-th largest of so many numbers up to `most`, byte by byte from the highest; 1 <= m <= size. */
static uint32_t mth_largest(const uint32_t *ranks, size_t size, size_t m, uint32_t most) {
    uint32_t found = 0, known = 0;
    int shift = 24;
    while (shift > 0 && most >> shift == 0)
        shift -= 8;
    for (; shift >= 0; shift -= 8) {
        size_t counts[256] = {0};
        for (size_t i = 0; i < size; i++)
            if ((ranks[i] & known) == found)
                counts[ranks[i] >> shift & 255]++;
        uint32_t byte = 255;
        while (counts[byte] < m)
            m -= counts[byte--];
        found |= byte << shift;
        known |= (uint32_t)255 << shift;
    }
    return found;
}

/* Finds the threshold among the scores inside the bracket, for whose ranks there is room, and completes the masks. */
static void settle(contest *all, part *parts, const finding *findings, size_t shares, uint32_t kept_bits,
                   uint32_t *ranks) {
    const uint32_t lowest = rank_of(bits_of(all->low)), most = rank_of(bits_of(all->high)) - lowest;
    size_t above = 0, inside = 0;
    for (size_t p = 0; p < all->parts; p++) {
        parts[p].reached = parts[p].level = 0;
        for (size_t s = 0; s < parts[p].shares; s++) {
            const finding found = findings[p * shares + s];
            const uint32_t *const scores = parts[p].scores + start_of(parts + p, s);
            const int64_t *const places = parts[p].places + s * parts[p].room;
            for (size_t i = 0; i < found.inside; i++) {
                const uint32_t bits = scores[places[i]] & kept_bits;
                if ((bits & 0x7fffffffu) > 0x7f800000u) {
                    all->value = float_of(bits);
                    all->is_found = 1;
                    return;
                }
                ranks[inside++] = rank_of(bits) - lowest;
            }
            parts[p].reached += found.above;
            above += found.above;
        }
    }
    if (all->kept <= above || all->kept - above > inside)
        return;
    const uint32_t threshold = mth_largest(ranks, inside, all->kept - above, most);
    for (size_t p = 0; p < all->parts; p++)
        for (size_t s = 0; s < parts[p].shares; s++) {
            const size_t start = start_of(parts + p, s), number = findings[p * shares + s].inside;
            const int64_t *const places = parts[p].places + s * parts[p].room;
            for (size_t i = 0; i < number; i++) {
                const uint32_t rank = *ranks++;
                const int64_t place = (int64_t)start + places[i];
                if (rank >= threshold) {
                    parts[p].mask[place] = 1;
                    parts[p].reached++;
                }
                if (rank == threshold)
                    parts[p].places[parts[p].level++] = place; /* not beyond the one just read */
            }
        }
    all->value = float_of(bits_with(threshold + lowest));
    all->is_found = 1;
}

/* Returns how many scores are inside the bracket, SIZE_MAX if they are too many for some share. */
static size_t number_inside(const contest *all, const part *parts, const finding *findings, size_t shares) {
    size_t inside = 0;
    for (size_t p = 0; p < all->parts; p++)
        for (size_t s = 0; s < parts[p].shares; s++) {
            if (findings[p * shares + s].inside > parts[p].room)
                return SIZE_MAX;
            inside += findings[p * shares + s].inside;
        }
    return inside;
}

static void pass_over(const part *of, size_t share, const contest *all, uint32_t kept_bits, finding *found) {
    if (share >= of->shares)
        return;
    const size_t start = start_of(of, share), size = start_of(of, share + 1) - start;
    *found = sort_out(of->scores + start, size, all->low, all->high, kept_bits, of->mask + start,
                      of->places + share * of->room, of->room);
}

/*
 * Decides contests by several threads (OpenMP), the first of which passes over the first share of each part, and so on;
 * no part has more than so many shares.
 *
 * Its name has another number whenever its arguments change, so that a file compiled before is not called with them.
 */
PUBLIC void strongticket_largest_3(contest *contests, size_t number, part *parts, size_t parts_in_all, size_t shares,
                                   int magnitudes, int threads) {
    const uint32_t kept_bits = magnitudes ? 0x7fffffffu : 0xffffffffu; /* without its sign a score is its magnitude */
    finding *const findings = malloc((parts_in_all * shares + 1) * sizeof(finding));
    for (size_t c = 0; c < number; c++)
        contests[c].is_found = 0;
    if (findings == NULL)
        return;
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static, 1) if (threads > 1)
#else
    (void)threads;
#endif
    for (int share = 0; share < (int)shares; share++)
        for (const contest *all = contests; all < contests + number; all++)
            if (all->low <= all->high)
                for (size_t p = all->first; p < all->first + all->parts; p++)
                    pass_over(parts + p, (size_t)share, all, kept_bits, findings + p * shares + (size_t)share);
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (threads > 1 && number > 1)
#endif
    for (int c = 0; c < (int)number; c++) {
        contest *const all = contests + c;
        if (!(all->low <= all->high))
            continue;
        const finding *const theirs = findings + all->first * shares;
        const size_t inside = number_inside(all, parts + all->first, theirs, shares);
        uint32_t *const ranks = inside < SIZE_MAX / sizeof(uint32_t) ? malloc((inside + 1) * sizeof(uint32_t)) : NULL;
        if (ranks != NULL)
            settle(all, parts + all->first, theirs, shares, kept_bits, ranks);
        free(ranks);
    }
    free(findings);
}

#ifdef _WIN32 /* whose linker exports it because extensions of Python have one; nobody imports this library */
PUBLIC void *PyInit__threshold(void) { return NULL; }
#endif

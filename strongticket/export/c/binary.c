/*@ binary_sums */
/* Layers that read +1 and -1. A bit is 1 for +1; 32 channels make a word, the words of a pixel lie together. With the
 * kept edges of an output in a plane `mask`, and those of them that are positive in a plane `sign`,
 *
 *     w * x = popcount(mask) - 2 * popcount(mask & (x ^ sign)).
 *
 * Weights come in blocks of `lanes` outputs, which read the same words: for each word one of `mask` for each output,
 * then one of `sign`. Padding is neither +1 nor -1; it is stored as -1, and what that adds is taken off again. */
typedef struct {
    window window;
    int32_t lanes;
    int32_t dense;          /* 1: every edge is kept, and planes hold `sign` alone */
    const uint32_t *planes; /* or, where this is none, */
    const uint8_t *edges;
    int32_t gap_bits;
    const int16_t *thresholds;      /* an output is +1 where the sum is at least this; */
    const int32_t *wide_thresholds; /* or this; or, where there is neither, */
    const float *scale, *shift;     /* it is sum * scale + shift */
    int32_t scale_step, shift_step;
    int32_t relu;
} binary_layer;

enum { LANES = 32, PIXELS = 4, GROUP = 8 };

/* The outputs from `first` on that are worked on together, and the words of a pixel that they read. */
typedef struct {
    int32_t first, outputs;
    int32_t first_word, words; /* of each tap */
    const uint32_t *mask, *sign;
    int32_t mask_step, sign_step; /* from one word to the next */
} binary_block;

static const uint32_t all_ones[LANES] = {
    0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu,
    0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu,
    0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu,
    0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu};
static const uint32_t all_zeros[LANES];

#if defined(__AVX512VPOPCNTDQ__) && defined(__GNUC__)
#define HAS_VECTOR_POPCOUNT 1
#define POPCOUNT(bits) ((uint32_t)__builtin_popcount(bits))
#else
#define HAS_VECTOR_POPCOUNT 0
#define POPCOUNT popcount
/* Written so that compilers make vector code of it, which they do not of their own popcount. */
static inline uint32_t popcount(uint32_t bits)
{
    bits -= (bits >> 1) & 0x55555555u;
    bits = (bits & 0x33333333u) + ((bits >> 2) & 0x33333333u);
    bits = (bits + (bits >> 4)) & 0x0f0f0f0fu;
    bits += bits >> 8;
    return (bits + (bits >> 16)) & 0x3fu;
}
#endif

/* Numbers of bits, one of each output: ones + 2 * twos + 4 * fours, counted in each bit, + 8 * eights. */
typedef struct {
    uint32_t ones[LANES], twos[LANES], fours[LANES], eights[LANES];
} counter;

/* Add the bits of eight words, mask & (x ^ sign), through a chain of full adders: one word is left to be counted. */
static inline void add_words(counter *restrict sums, const uint32_t *const mask[GROUP],
                             const uint32_t *const sign[GROUP], const uint32_t x[GROUP], int32_t lanes)
{
    for (int32_t lane = 0; lane < lanes; lane++) {
        uint32_t one = sums->ones[lane], two = sums->twos[lane], four = sums->fours[lane];
        uint32_t a, b, half, two_a, two_b, four_a, four_b;
#define WORD(i) (mask[i][lane] & (x[i] ^ sign[i][lane]))
        a = WORD(0), b = WORD(1), half = a ^ b, two_a = (a & b) | (half & one), one ^= half;
        a = WORD(2), b = WORD(3), half = a ^ b, two_b = (a & b) | (half & one), one ^= half;
        half = two_a ^ two_b, four_a = (two_a & two_b) | (half & two), two ^= half;
        a = WORD(4), b = WORD(5), half = a ^ b, two_a = (a & b) | (half & one), one ^= half;
        a = WORD(6), b = WORD(7), half = a ^ b, two_b = (a & b) | (half & one), one ^= half;
        half = two_a ^ two_b, four_b = (two_a & two_b) | (half & two), two ^= half;
        half = four_a ^ four_b, sums->eights[lane] += POPCOUNT((four_a & four_b) | (half & four)), four ^= half;
#undef WORD
        sums->ones[lane] = one, sums->twos[lane] = two, sums->fours[lane] = four;
    }
}

/* Where outputs and inputs differ, counted over all words of one pixel, for any number of outputs. */
static void count_pixel(const binary_block *block, const uint32_t *pixel, const uint32_t *offset, int32_t words,
                        uint32_t *restrict count)
{
    counter sums;
    memset(&sums, 0, sizeof sums);
    for (int32_t start = 0; start < words; start += GROUP) {
        const uint32_t *mask[GROUP], *sign[GROUP];
        uint32_t x[GROUP];
        for (int32_t i = 0; i < GROUP; i++) {
            const int there = start + i < words;
            mask[i] = there ? block->mask + (start + i) * block->mask_step : all_zeros;
            sign[i] = there ? block->sign + (start + i) * block->sign_step : all_zeros;
            x[i] = there ? pixel[offset[start + i]] : 0u;
        }
        if (block->outputs == LANES)
            add_words(&sums, mask, sign, x, LANES);
        else
            add_words(&sums, mask, sign, x, block->outputs);
    }
    for (int32_t lane = 0; lane < LANES; lane++)
        count[lane] = 8u * sums.eights[lane] + 4u * POPCOUNT(sums.fours[lane]) + 2u * POPCOUNT(sums.twos[lane]) +
                      POPCOUNT(sums.ones[lane]);
}

/* The same for four pixels and a full block: what a processor that counts the bits of a vector keeps in registers. */
#if HAS_VECTOR_POPCOUNT
static void count_block(const uint32_t *restrict mask, int32_t mask_step, const uint32_t *restrict sign,
                        int32_t sign_step, const uint32_t *restrict image, const uint32_t at[PIXELS],
                        const uint32_t *restrict offset, int32_t words, uint32_t count[PIXELS][LANES])
{
    uint32_t sum[PIXELS][LANES];
    memset(sum, 0, sizeof sum);
    for (int32_t i = 0; i < words; i++) {
        const uint32_t *pixel = image + offset[i], *masks = mask + i * mask_step, *signs = sign + i * sign_step;
        for (int32_t p = 0; p < PIXELS; p++) {
            const uint32_t x = pixel[at[p]];
            for (int32_t lane = 0; lane < LANES; lane++) sum[p][lane] += POPCOUNT(masks[lane] & (x ^ signs[lane]));
        }
    }
    memcpy(count, sum, sizeof sum);
}
#endif

/* The planes of a block out of its kept edges. */
static void planes_of(const binary_block *block, const window *w, edge_reader *edges, uint32_t *planes)
{
    edge_reader reader = *edges;
    const int32_t taps = w->kernel_height * w->kernel_width, group = w->outputs / w->groups;
    memset(planes, 0, (size_t)(taps * block->words * 2 * block->outputs) * sizeof *planes);
    for (int32_t lane = 0; lane < block->outputs; lane++) {
        const int32_t channel = (block->first + lane) / group * (w->channels / w->groups) - 32 * block->first_word;
        for (; reader.tap < taps; next_edge(&reader)) {
            const int32_t bit = channel + reader.channel;
            uint32_t *at = planes + (reader.tap * block->words + (bit >> 5)) * 2 * block->outputs + lane;
            at[0] |= 1u << (bit & 31);
            at[block->outputs] |= (uint32_t)(reader.negative == 0u) << (bit & 31);
        }
        reader.tap -= taps;
    }
    *edges = reader;
}

/* The sum of an output's weights over each tap, and how many edges it keeps in all. */
static void sum_taps(const binary_block *block, const binary_layer *layer, int32_t taps, int32_t *sums, int32_t *kept)
{
    memset(kept, 0, LANES * sizeof *kept);
    for (int32_t tap = 0; tap < taps; tap++, sums += block->outputs) {
        int32_t edges[LANES] = {0}, positive[LANES] = {0};
        for (int32_t i = tap * block->words; i < (tap + 1) * block->words; i++) {
            const uint32_t *mask = block->mask + i * block->mask_step, *sign = block->sign + i * block->sign_step;
            for (int32_t lane = 0; lane < block->outputs; lane++) {
                edges[lane] += (int32_t)POPCOUNT(mask[lane]);
                positive[lane] += (int32_t)POPCOUNT(mask[lane] & sign[lane]);
            }
        }
        for (int32_t lane = 0; lane < block->outputs; lane++) {
            const int32_t count = layer->dense ? layer->window.channels : edges[lane];
            sums[lane] = 2 * positive[lane] - count;
            kept[lane] += count;
        }
    }
}

/* Add to `base` what stored padding took from the outputs at the pixel (y, x), for each tap that lies outside. */
static void correct_border(const window *w, int32_t y, int32_t x, const int32_t *sums, int32_t lanes, int32_t *base)
{
    for (int32_t ky = 0; ky < w->kernel_height; ky++)
        for (int32_t kx = 0; kx < w->kernel_width; kx++, sums += lanes) {
            const int32_t row = y * w->stride_y - w->padding_y + ky * w->dilation_y;
            const int32_t column = x * w->stride_x - w->padding_x + kx * w->dilation_x;
            if (row >= 0 && row < w->height && column >= 0 && column < w->width) continue;
            for (int32_t lane = 0; lane < lanes; lane++) base[lane] += sums[lane];
        }
}

/* Store the outputs of a block at one pixel: the sums, less the thresholds if there are any, are base - 2 * count. */
static void put_block(const binary_layer *layer, const binary_block *block, const int32_t *restrict base,
                      const uint32_t *restrict count, int32_t pixel, uint32_t *out)
{
    const window *w = &layer->window;
    if (!layer->scale) {
        uint32_t bits = 0;
        if (block->outputs == LANES)
            for (int32_t lane = 0; lane < LANES; lane++)
                bits |= (uint32_t)(base[lane] >= (int32_t)(2u * count[lane])) << lane;
        else
            for (int32_t lane = 0; lane < block->outputs; lane++)
                bits |= (uint32_t)(base[lane] >= (int32_t)(2u * count[lane])) << lane;
        out[pixel * ((w->outputs + 31) >> 5) + (block->first >> 5)] |= bits << (block->first & 31);
    } else {
        for (int32_t lane = 0; lane < block->outputs; lane++) {
            const int32_t output = block->first + lane;
            const float sum = (float)(base[lane] - (int32_t)(2u * count[lane]));
            const float scaled = sum * layer->scale[output * layer->scale_step];
            const float value = scaled + layer->shift[output * layer->shift_step];
            out[output * w->out_height * w->out_width + pixel] = word(layer->relu && !(value > 0.0f) ? 0.0f : value);
        }
    }
}
/*@ binary */
/* The image with its padding around it, as far as the kernel reaches; `row` pixels in a row. */
static void frame_bits(const window *w, const uint32_t *image, int32_t rows, int32_t row, uint32_t *frame)
{
    const int32_t words = (w->channels + 31) >> 5;
    const int32_t across = row - w->padding_x < w->width ? row - w->padding_x : w->width;
    memset(frame, 0, (size_t)(rows * row * words) * sizeof *frame);
    for (int32_t y = 0; y < w->height && y + w->padding_y < rows; y++)
        if (across > 0)
            memcpy(frame + ((y + w->padding_y) * row + w->padding_x) * words, image + y * w->width * words,
                   (size_t)(across * words) * sizeof *frame);
}

/* The sums of a block at all pixels of the output. */
static void run_block(const binary_layer *layer, const binary_block *block, const uint32_t *image, int32_t row,
                      const uint32_t *offset, const int32_t *sums, const int32_t *base, uint32_t *out)
{
    const window *w = &layer->window;
    const int32_t pixel_words = (w->channels + 31) >> 5, pixels = w->out_height * w->out_width;
    const int32_t words = w->kernel_height * w->kernel_width * block->words;
    const int32_t reach_y = (w->kernel_height - 1) * w->dilation_y, reach_x = (w->kernel_width - 1) * w->dilation_x;
    int32_t y = 0, x = 0;
    for (int32_t pixel = 0; pixel < pixels; pixel += PIXELS) {
        const int32_t here = pixels - pixel < PIXELS ? pixels - pixel : PIXELS;
        uint32_t at[PIXELS] = {0}, count[PIXELS][LANES];
        int32_t top[PIXELS], left[PIXELS];
        for (int32_t p = 0; p < here; p++) {
            top[p] = y, left[p] = x;
            at[p] = (uint32_t)((y * w->stride_y * row + x * w->stride_x) * pixel_words);
            if (++x == w->out_width) x = 0, y++;
        }
#if HAS_VECTOR_POPCOUNT
        if (block->outputs == LANES)
            count_block(block->mask, block->mask_step, block->sign, block->sign_step, image, at, offset, words, count);
        else
#endif
            for (int32_t p = 0; p < here; p++) count_pixel(block, image + at[p], offset, words, count[p]);
        for (int32_t p = 0; p < here; p++) {
            const int32_t y0 = top[p] * w->stride_y - w->padding_y, x0 = left[p] * w->stride_x - w->padding_x;
            if (y0 < 0 || x0 < 0 || y0 + reach_y >= w->height || x0 + reach_x >= w->width) {
                int32_t corrected[LANES];
                memcpy(corrected, base, sizeof corrected);
                correct_border(w, top[p], left[p], sums, block->outputs, corrected);
                put_block(layer, block, corrected, count[p], pixel + p, out);
            } else {
                put_block(layer, block, base, count[p], pixel + p, out);
            }
        }
    }
}

static void binary(const binary_layer *layer, const uint32_t *image, uint32_t *out, uint32_t *scratch)
{
    const window *w = &layer->window;
    const int32_t taps = w->kernel_height * w->kernel_width, pixel_words = (w->channels + 31) >> 5;
    const int32_t channels = w->channels / w->groups, group = w->outputs / w->groups;
    const uint32_t *planes = layer->planes;
    int32_t row = w->width;
    edge_reader reader = {0};
    if (w->padding_y > 0 || w->padding_x > 0) {
        const int32_t rows = (w->out_height - 1) * w->stride_y + (w->kernel_height - 1) * w->dilation_y + 1;
        row = (w->out_width - 1) * w->stride_x + (w->kernel_width - 1) * w->dilation_x + 1;
        frame_bits(w, image, rows, row, scratch);
        image = scratch, scratch += rows * row * pixel_words;
    }
    int32_t *sums = (int32_t *)scratch; /* an unsigned word may be used as a signed one */
    uint32_t *offset = scratch + taps * layer->lanes;
    if (layer->edges) reader = read_edges(layer->edges, layer->gap_bits, 1, channels);
    if (!layer->scale)
        memset(out, 0, (size_t)(w->out_height * w->out_width * ((w->outputs + 31) >> 5)) * sizeof *out);
    for (int32_t first = 0; first < w->outputs; first += layer->lanes) {
        binary_block block = {0};
        int32_t base[LANES];
        block.first = first;
        block.outputs = w->outputs - first < layer->lanes ? w->outputs - first : layer->lanes;
        block.first_word = first / group * channels >> 5;
        block.words = ((((first + block.outputs - 1) / group + 1) * channels - 1) >> 5) + 1 - block.first_word;
        for (int32_t tap = 0; tap < taps; tap++)
            for (int32_t i = 0; i < block.words; i++)
                offset[tap * block.words + i] =
                    (uint32_t)((tap / w->kernel_width * w->dilation_y * row + tap % w->kernel_width * w->dilation_x) *
                                   pixel_words + block.first_word + i);
        if (layer->edges) {
            planes = offset + taps * block.words;
            planes_of(&block, w, &reader, offset + taps * block.words);
        }
        block.mask = layer->dense ? all_ones : planes;
        block.mask_step = layer->dense ? 0 : 2 * block.outputs;
        block.sign = layer->dense ? planes : planes + block.outputs;
        block.sign_step = layer->dense ? block.outputs : 2 * block.outputs;
        planes += taps * block.words * (layer->dense ? 1 : 2) * block.outputs;
        sum_taps(&block, layer, taps, sums, base);
        for (int32_t lane = 0; lane < block.outputs && !layer->scale; lane++)
            base[lane] -= layer->thresholds ? layer->thresholds[first + lane] : layer->wide_thresholds[first + lane];
        run_block(layer, &block, image, row, offset, sums, base, out);
    }
}

/*@ real_float */
/* Layers with real inputs compute in floating point; their inputs lie in words. */
typedef uint32_t frame_value;
typedef float frame_sum;

static inline frame_sum value_of(frame_value held) { return real(held); }

static inline frame_sum sum_of(uint32_t held) { return real(held); }
/*@ real_int8 */
/* Layers with real inputs compute in integers: their inputs are rounded to 8 bits, -127 to 127, times a quantum. */
typedef int8_t frame_value;
typedef int32_t frame_sum;

static inline frame_sum value_of(frame_value held) { return held; }

static inline frame_sum sum_of(uint32_t held)
{
    frame_sum sum;
    memcpy(&sum, &held, sizeof sum);
    return sum;
}

/* The nearest integer in that range; halves are rounded away from zero. */
static inline int8_t nearest(float value)
{
    if (!(value > -127.0f)) return -127;
    if (value >= 127.0f) return 127;
    value += value < 0.0f ? -0.5f : 0.5f;
    return (int8_t)value;
}
/*@ real_layer */
/* A layer whose input is real. It reads a frame: the image with zeros around it, as far as the kernel reaches. Where
 * the kernel moves by more than one pixel, each channel is split into as many images as there are steps in a stride, so
 * that for every tap neighbouring outputs read neighbouring values. */
typedef struct {
    window window;
    int32_t step_y, step_x;  /* a channel of the frame is step_y * step_x images */
    int32_t rows, row;       /* of each of them */
    int32_t frame_values;    /* in all, with what the last tile reads beyond them */
    int32_t edges_max;       /* kept edges of one output, at most */
    int32_t gap_bits;
    const uint8_t *edges;
    const float *values;     /* of the kept edges; where this is none, they are +1 and -1 */
    float inverse_quantum;   /* of an input of 8 bits */
    const frame_sum *limits; /* an output is +1 where its sum is at least this; or, where this is none, */
    const float *scale, *shift; /* it is sum * scale + shift */
    int32_t scale_step, shift_step;
    int32_t relu;
    int32_t to_int8; /* 1: outputs are rounded to 8 bits */
} real_layer;
/*@ fill_frame */
static void fill_frame_from_@NAME@(const real_layer *layer, const @TYPE@ *image, frame_value *frame)
{
    const window *w = &layer->window;
    memset(frame, 0, (size_t)layer->frame_values * sizeof *frame);
    for (int32_t channel = 0; channel < w->channels; channel++)
        for (int32_t y = 0; y < w->height; y++, image += w->width) {
            const int32_t line = (y + w->padding_y) / layer->step_y, phase_y = (y + w->padding_y) % layer->step_y;
            if (line >= layer->rows) continue;
            for (int32_t phase_x = 0; phase_x < layer->step_x; phase_x++) {
                const int32_t images = (channel * layer->step_y + phase_y) * layer->step_x + phase_x;
                const int32_t step = layer->step_x;
                int32_t at = (w->padding_x - phase_x + step - 1) / step; /* the first column that the image reaches */
                frame_value *to = frame + (images * layer->rows + line) * layer->row;
                for (int32_t x = at * step + phase_x - w->padding_x; x < w->width && at < layer->row; x += step, at++)
                    to[at] = @VALUE@;
            }
        }
}
/*@ sums */
/* How many neighbouring sums are added up together: as many as the processor's registers hold. */
#if defined(__AVX512F__)
enum { TILE = 64 };
#elif defined(__SSE2__) || defined(__ARM_NEON)
enum { TILE = 32 };
#else
enum { TILE = 8 };
#endif

/* List where the kept edges of the next output read, from its first position on: positive ones from the front of the
 * list, negative ones from the back of its `edges_max` places. Return how many stand in front. */
static int32_t list_edges(const real_layer *layer, edge_reader *edges, const uint32_t *offset, uint32_t *list,
                          int32_t *behind)
{
    const int32_t taps = layer->window.kernel_height * layer->window.kernel_width;
    const uint32_t channel = (uint32_t)(layer->step_y * layer->step_x * layer->rows * layer->row);
    int32_t front = 0, back = layer->edges_max;
    edge_reader reader = *edges;
    for (; reader.tap < taps; next_edge(&reader)) {
        const int32_t negative = (int32_t)reader.negative;
        back -= negative;
        list[front + negative * (back - front)] = offset[reader.tap] + (uint32_t)reader.channel * channel;
        front += 1 - negative;
    }
    reader.tap -= taps;
    *edges = reader;
    *behind = back;
    return front;
}

/* The sum of one output at a single position. Additions and subtractions alternate: the sum stays small, and exact. */
static frame_sum sum_single(const frame_value *frame, const uint32_t *plus, int32_t additions, const uint32_t *minus,
                            int32_t subtractions)
{
    const int32_t pairs = additions < subtractions ? additions : subtractions;
    frame_sum sum = 0;
    for (int32_t i = 0; i < pairs; i++) {
        const frame_sum difference = value_of(frame[plus[i]]) - value_of(frame[minus[i]]);
        sum += difference;
    }
    for (int32_t i = pairs; i < additions; i++) sum += value_of(frame[plus[i]]);
    for (int32_t i = pairs; i < subtractions; i++) sum -= value_of(frame[minus[i]]);
    return sum;
}

static inline void add_tile(frame_sum sum[TILE], const frame_value *added)
{
    for (int32_t k = 0; k < TILE; k++) sum[k] += value_of(added[k]);
}

static inline void take_tile(frame_sum sum[TILE], const frame_value *taken)
{
    for (int32_t k = 0; k < TILE; k++) sum[k] -= value_of(taken[k]);
}

/* The sums of one output at TILE neighbouring positions. Two edges at a time: compilers that see one loop in another
 * may turn them round, and then gather values from everywhere. */
static void sum_tile(const frame_value *frame, const uint32_t *plus, int32_t additions, const uint32_t *minus,
                     int32_t subtractions, uint32_t *restrict sums)
{
    const int32_t pairs = additions < subtractions ? additions : subtractions;
    int32_t i;
    frame_sum sum[TILE];
    for (int32_t k = 0; k < TILE; k++) sum[k] = 0;
    for (i = 0; i < pairs; i++) {
        add_tile(sum, frame + plus[i]);
        take_tile(sum, frame + minus[i]);
    }
    for (i = pairs; i + 1 < additions; i += 2) {
        add_tile(sum, frame + plus[i]);
        add_tile(sum, frame + plus[i + 1]);
    }
    if (i < additions) add_tile(sum, frame + plus[i]);
    for (i = pairs; i + 1 < subtractions; i += 2) {
        take_tile(sum, frame + minus[i]);
        take_tile(sum, frame + minus[i + 1]);
    }
    if (i < subtractions) take_tile(sum, frame + minus[i]);
    memcpy(sums, sum, sizeof sum);
}
/*@ weighted */
/* The same sums where kept edges have weights of their own; edges stand in the front of the list alone. */
static float weighted_single(const frame_value *frame, const uint32_t *list, const float *values, int32_t edges)
{
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int32_t i = 0; i < edges; i++) {
        const float product = values[i] * value_of(frame[list[i]]);
        sum[i & 3] += product;
    }
    for (int32_t i = 1; i < 4; i++) sum[0] += sum[i];
    return sum[0];
}

static void weighted_tile(const frame_value *frame, const uint32_t *list, const float *values, int32_t edges,
                          uint32_t *restrict sums)
{
    float sum[TILE];
    for (int32_t k = 0; k < TILE; k++) sum[k] = 0.0f;
    for (int32_t i = 0; i < edges; i++) {
        const frame_value *from = frame + list[i];
        const float weight = values[i];
        for (int32_t k = 0; k < TILE; k++) {
            const float product = weight * value_of(from[k]);
            sum[k] += product;
        }
    }
    memcpy(sums, sum, sizeof sum);
}
/*@ real */
/* Store one output, given its sums on the frame's rows. */
static void put_sums(const real_layer *layer, int32_t output, const uint32_t *restrict sums, uint32_t *restrict out)
{
    const window *w = &layer->window;
    const float scale = layer->scale[output * layer->scale_step], shift = layer->shift[output * layer->shift_step];
    for (int32_t y = 0; y < w->out_height; y++)
        for (int32_t x = 0; x < w->out_width; x++) {
            const int32_t at = (output * w->out_height + y) * w->out_width + x;
            float value = (float)sum_of(sums[y * layer->row + x]) * scale;
            value += shift;
            if (layer->relu && !(value > 0.0f)) value = 0.0f;
#if INT8
            if (layer->to_int8)
                ((int8_t *)out)[at] = nearest(value);
            else
#endif
                out[at] = word(value);
        }
}

/* Set the bit of one output in `plane`, a word for each pixel; a full word of outputs goes where it belongs. */
static void put_signs(const real_layer *layer, int32_t output, const uint32_t *restrict sums,
                      uint32_t *restrict plane, uint32_t *restrict out)
{
    const window *w = &layer->window;
    const int32_t words = (w->outputs + 31) >> 5, pixels = w->out_height * w->out_width;
    const frame_sum limit = layer->limits[output];
    if ((output & 31) == 0) memset(plane, 0, (size_t)pixels * sizeof *plane);
    for (int32_t y = 0; y < w->out_height; y++)
        for (int32_t x = 0; x < w->out_width; x++)
            plane[y * w->out_width + x] |= (uint32_t)(sum_of(sums[y * layer->row + x]) >= limit) << (output & 31);
    if ((output & 31) == 31 || output == w->outputs - 1)
        for (int32_t pixel = 0; pixel < pixels; pixel++) out[pixel * words + (output >> 5)] = plane[pixel];
}

static void real_outputs(const real_layer *layer, const frame_value *frame, uint32_t *out, uint32_t *scratch)
{
    const window *w = &layer->window;
    const int32_t taps = w->kernel_height * w->kernel_width, channels = w->channels / w->groups;
    const int32_t positions = (w->out_height - 1) * layer->row + w->out_width;
    const int32_t channel_values = layer->step_y * layer->step_x * layer->rows * layer->row;
    uint32_t *offset = scratch, *list = offset + taps, *sums = list + layer->edges_max;
    uint32_t *plane = sums + (positions == 1 ? 1 : (positions + 63) / 64 * 64);
    edge_reader reader = read_edges(layer->edges, layer->gap_bits, layer->values == 0, channels);
#if HAS_VALUES
    const float *values = layer->values;
#endif
    for (int32_t tap = 0; tap < taps; tap++) {
        const int32_t y = tap / w->kernel_width * w->dilation_y, x = tap % w->kernel_width * w->dilation_x;
        const int32_t images = y % layer->step_y * layer->step_x + x % layer->step_x;
        offset[tap] = (uint32_t)((images * layer->rows + y / layer->step_y) * layer->row + x / layer->step_x);
    }
    for (int32_t output = 0; output < w->outputs; output++) {
        const frame_value *from = frame + output / (w->outputs / w->groups) * channels * channel_values;
        int32_t behind;
        const int32_t front = list_edges(layer, &reader, offset, list, &behind);
        const uint32_t *minus = list + behind;
        const int32_t subtractions = layer->edges_max - behind;
        if (positions == 1) {
            frame_sum sum;
#if HAS_VALUES
            if (values)
                sum = weighted_single(from, list, values, front);
            else
#endif
                sum = sum_single(from, list, front, minus, subtractions);
            memcpy(sums, &sum, sizeof sum);
        } else {
            for (int32_t at = 0; at < positions; at += TILE) {
#if HAS_VALUES
                if (values)
                    weighted_tile(from + at, list, values, front, sums + at);
                else
#endif
                    sum_tile(from + at, list, front, minus, subtractions, sums + at);
            }
        }
#if HAS_VALUES
        if (values) values += front;
#endif
        if (layer->limits)
            put_signs(layer, output, sums, plane, out);
        else
            put_sums(layer, output, sums, out);
    }
}

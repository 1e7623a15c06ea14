/*@ bounds */
/* The part of a window that lies in the image, along one axis. */
typedef struct {
    int32_t first, end;
} bounds;

static bounds inside(int32_t at, int32_t stride, int32_t padding, int32_t kernel, int32_t size)
{
    const int32_t first = at * stride - padding, end = first + kernel;
    const bounds found = {first > 0 ? first : 0, end < size ? end : size};
    return found;
}
/*@ max_pool */
static void max_pool(const window *w, const uint32_t *image, uint32_t *out)
{
    for (int32_t channel = 0; channel < w->channels; channel++, image += w->height * w->width)
        for (int32_t y = 0; y < w->out_height; y++)
            for (int32_t x = 0; x < w->out_width; x++) {
                const bounds rows = inside(y, w->stride_y, w->padding_y, w->kernel_height, w->height);
                const bounds columns = inside(x, w->stride_x, w->padding_x, w->kernel_width, w->width);
                float largest = real(image[rows.first * w->width + columns.first]);
                for (int32_t row = rows.first; row < rows.end; row++)
                    for (int32_t column = columns.first; column < columns.end; column++) {
                        const float value = real(image[row * w->width + column]);
                        if (value > largest) largest = value;
                    }
                *out++ = word(largest);
            }
}
/*@ max_pool_int8 */
static void max_pool_int8(const window *w, const int8_t *image, int8_t *out)
{
    for (int32_t channel = 0; channel < w->channels; channel++, image += w->height * w->width)
        for (int32_t y = 0; y < w->out_height; y++)
            for (int32_t x = 0; x < w->out_width; x++) {
                const bounds rows = inside(y, w->stride_y, w->padding_y, w->kernel_height, w->height);
                const bounds columns = inside(x, w->stride_x, w->padding_x, w->kernel_width, w->width);
                int8_t largest = -127;
                for (int32_t row = rows.first; row < rows.end; row++)
                    for (int32_t column = columns.first; column < columns.end; column++)
                        if (image[row * w->width + column] > largest) largest = image[row * w->width + column];
                *out++ = largest;
            }
}
/*@ max_pool_bits */
/* The largest of +1 and -1 in a window, and the smallest where a bit is set in `smallest` (none: nowhere). */
static void max_pool_bits(const window *w, const uint32_t *image, const uint32_t *smallest, uint32_t *out)
{
    const int32_t words = (w->channels + 31) >> 5;
    for (int32_t y = 0; y < w->out_height; y++)
        for (int32_t x = 0; x < w->out_width; x++) {
            const bounds rows = inside(y, w->stride_y, w->padding_y, w->kernel_height, w->height);
            const bounds columns = inside(x, w->stride_x, w->padding_x, w->kernel_width, w->width);
            for (int32_t i = 0; i < words; i++) {
                const uint32_t flipped = smallest ? smallest[i] : 0u;
                uint32_t any = 0;
                for (int32_t row = rows.first; row < rows.end; row++)
                    for (int32_t column = columns.first; column < columns.end; column++)
                        any |= image[(row * w->width + column) * words + i] ^ flipped;
                *out++ = any ^ flipped;
            }
        }
}
/*@ average_pool */
/* The mean over a window, in which padding counts as 0. */
static void average_pool(const window *w, const uint32_t *image, uint32_t *out)
{
    const float area = (float)(w->kernel_height * w->kernel_width);
    for (int32_t channel = 0; channel < w->channels; channel++, image += w->height * w->width)
        for (int32_t y = 0; y < w->out_height; y++)
            for (int32_t x = 0; x < w->out_width; x++) {
                const bounds rows = inside(y, w->stride_y, w->padding_y, w->kernel_height, w->height);
                const bounds columns = inside(x, w->stride_x, w->padding_x, w->kernel_width, w->width);
                float sum = 0.0f;
                for (int32_t row = rows.first; row < rows.end; row++)
                    for (int32_t column = columns.first; column < columns.end; column++)
                        sum += real(image[row * w->width + column]);
                *out++ = word(sum / area);
            }
}
/*@ average_pool_bits */
/* The same of +1 and -1; the mean is real, and its channels lie one after another. */
static void average_pool_bits(const window *w, const uint32_t *image, uint32_t *out)
{
    const int32_t words = (w->channels + 31) >> 5;
    const float area = (float)(w->kernel_height * w->kernel_width);
    for (int32_t channel = 0; channel < w->channels; channel++)
        for (int32_t y = 0; y < w->out_height; y++)
            for (int32_t x = 0; x < w->out_width; x++) {
                const bounds rows = inside(y, w->stride_y, w->padding_y, w->kernel_height, w->height);
                const bounds columns = inside(x, w->stride_x, w->padding_x, w->kernel_width, w->width);
                int32_t sum = 0;
                for (int32_t row = rows.first; row < rows.end; row++)
                    for (int32_t column = columns.first; column < columns.end; column++) {
                        const uint32_t bits = image[(row * w->width + column) * words + (channel >> 5)];
                        sum += bits >> (channel & 31) & 1u ? 1 : -1;
                    }
                *out++ = word((float)sum / area);
            }
}

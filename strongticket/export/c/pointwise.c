/*@ load */
/* Take the input into the buffer. */
static void load(const float *input, int32_t count, uint32_t *out)
{
    for (int32_t i = 0; i < count; i++) out[i] = word(input[i]);
}
/*@ store */
static void store(const uint32_t *image, int32_t count, float *output)
{
    for (int32_t i = 0; i < count; i++) output[i] = real(image[i]);
}
/*@ add */
/* The sum of two images, and the larger of it and 0 if `relu`. */
static void add(const uint32_t *image, const uint32_t *other, int32_t count, int32_t relu, uint32_t *out)
{
    for (int32_t i = 0; i < count; i++) {
        const float value = real(image[i]) + real(other[i]);
        out[i] = word(relu && !(value > 0.0f) ? 0.0f : value);
    }
}
/*@ relu */
static void relu(const uint32_t *image, int32_t count, uint32_t *out)
{
    for (int32_t i = 0; i < count; i++) out[i] = real(image[i]) > 0.0f ? image[i] : word(0.0f);
}
/*@ silu */
/* e^-x for x >= 0, as 2^-n e^r with a whole n and |r| <= ln(2) / 2, where a few terms of Taylor's series are enough. */
static float decay(float x)
{
    static const float terms[] = {1.0f / 5040.0f, 1.0f / 720.0f, 1.0f / 120.0f, 1.0f / 24.0f,
                                  1.0f / 6.0f,    0.5f,          1.0f,          1.0f};
    if (!(x <= 87.0f)) return 0.0f; /* e^-87 is nearly the smallest normal number */
    const float turns = x * 1.44269504f, above = turns + 0.5f;
    const uint32_t n = (uint32_t)above;
    /* ln 2 in two parts: n times the first is exact. */
    const float high = (float)n * 0.693145752f, low = (float)n * 1.42860677e-6f;
    const float left = high - x, r = left + low;
    float sum = 0.0f;
    for (int32_t i = 0; i < 8; i++) {
        const float product = sum * r;
        sum = product + terms[i];
    }
    sum *= real((127u - n) << 23);
    return sum;
}

/* x / (1 + e^-x), without a power that is too large. */
static void silu(const uint32_t *image, int32_t count, uint32_t *out)
{
    for (int32_t i = 0; i < count; i++) {
        const float x = real(image[i]), power = decay(x < 0.0f ? -x : x), below = 1.0f + power;
        const float share = x < 0.0f ? power / below : 1.0f / below;
        out[i] = word(x * share);
    }
}
/*@ normalise */
/* image * scale + shift, with one of each for a channel of `pixels` values. */
static void normalise(const uint32_t *image, const float *scale, const float *shift, int32_t channels, int32_t pixels,
                      int32_t relu, uint32_t *out)
{
    for (int32_t channel = 0; channel < channels; channel++)
        for (int32_t i = channel * pixels; i < (channel + 1) * pixels; i++) {
            const float scaled = real(image[i]) * scale[channel], value = scaled + shift[channel];
            out[i] = word(relu && !(value > 0.0f) ? 0.0f : value);
        }
}
/*@ signs */
/* Real numbers, channel after channel, to bits: 1 where the number is at least 0; the words of a pixel lie together. */
static void signs(const uint32_t *image, int32_t channels, int32_t pixels, uint32_t *out)
{
    const int32_t words = (channels + 31) >> 5;
    for (int32_t first = 0; first < channels; first += 32)
        for (int32_t start = 0; start < pixels; start += 64) {
            const int32_t here = pixels - start < 64 ? pixels - start : 64;
            uint32_t bits[64] = {0};
            for (int32_t channel = first; channel < channels && channel < first + 32; channel++)
                for (int32_t i = 0; i < here; i++)
                    bits[i] |= (uint32_t)(real(image[channel * pixels + start + i]) >= 0.0f) << (channel & 31);
            for (int32_t i = 0; i < here; i++) out[(start + i) * words + (first >> 5)] = bits[i];
        }
}
/*@ unpack */
/* Bits to +1.0 and -1.0, channel after channel. */
static void unpack(const uint32_t *image, int32_t channels, int32_t pixels, uint32_t *out)
{
    const int32_t words = (channels + 31) >> 5;
    for (int32_t channel = 0; channel < channels; channel++)
        for (int32_t pixel = 0; pixel < pixels; pixel++)
            *out++ = word(image[pixel * words + (channel >> 5)] >> (channel & 31) & 1u ? 1.0f : -1.0f);
}

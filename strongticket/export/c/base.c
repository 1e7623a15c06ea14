/*@ base */
/* How a layer walks over an image: a convolution, a pool, or a linear layer, for which the image is one pixel. */
typedef struct {
    int32_t channels, height, width;         /* of the input */
    int32_t outputs, out_height, out_width;  /* of the output */
    int32_t groups;
    int32_t kernel_height, kernel_width;
    int32_t stride_y, stride_x;
    int32_t padding_y, padding_x;
    int32_t dilation_y, dilation_x;
} window;

/* The buffer holds words; a real number lies in one with all its bits. */
static inline float real(uint32_t word)
{
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

/* Every float operation is assigned to a variable before the next one: then machines that compute with more digits in
 * between, as C allows, give the same numbers. */
static inline uint32_t word(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
/*@ edges */
/* Weights as a list of kept edges, output after output, taps of a kernel in rows, channels of a tap in order. For each
 * edge: how many dropped ones lie before it, in `gap_bits` bits, where all ones mean that many dropped edges and then
 * another gap; and, for weights of one magnitude, a bit that is 1 for a negative one. Lowest bits come first. */
typedef struct {
    const uint8_t *code; /* the next byte */
    uint32_t ahead;      /* bits that were read and not used, */
    uint32_t held;       /* and how many of them count */
    uint32_t gap_bits, sign_bits;
    int32_t channels;     /* that one output reads */
    int32_t tap, channel; /* where the next kept edge is; behind the last tap, it is one of a later output */
    uint32_t negative;
} edge_reader;

static inline void next_edge(edge_reader *reader)
{
    const uint32_t ones = (1u << reader->gap_bits) - 1u;
    uint32_t gap;
    do {
        /* Four bytes, of which as many are used up as there is room for: then there are 24 bits at least. */
        const uint8_t *code = reader->code;
        const uint32_t low = (uint32_t)code[0] | (uint32_t)code[1] << 8;
        const uint32_t next = low | (uint32_t)code[2] << 16 | (uint32_t)code[3] << 24;
        reader->ahead |= next << reader->held;
        reader->code += (31u - reader->held) >> 3;
        reader->held |= 24u;
        gap = reader->ahead & ones;
        reader->ahead >>= reader->gap_bits;
        reader->held -= reader->gap_bits;
        reader->channel += (int32_t)gap;
    } while (gap == ones && ones != 0u);
    reader->negative = reader->ahead & reader->sign_bits;
    reader->ahead >>= reader->sign_bits;
    reader->held -= reader->sign_bits;
    reader->channel += 1;
    while (reader->channel >= reader->channels) {
        reader->channel -= reader->channels;
        reader->tap += 1;
    }
}

static edge_reader read_edges(const uint8_t *code, int32_t gap_bits, int32_t sign_bits, int32_t channels)
{
    edge_reader reader = {code, 0u, 0u, (uint32_t)gap_bits, (uint32_t)sign_bits, channels, 0, -1, 0u};
    next_edge(&reader);
    return reader;
}

#include "edgec_neureka_model.h"
#include "edgec_math.h"
#include "edgec_neureka_config.h"

#include <stddef.h>

#define WORD EDGEC_NEUREKA_WORD
#define NIBBLES 8U

/* Sums of four inputs for each value of some nibbles of a weight word, so that a lookup replaces
 * four products. Few at a time, for the stack; nibbles whose inputs are all zero are left out. */
typedef struct nibble_sums {
    uint32_t count;
    uint8_t nibble[NIBBLES]; /* which of the word */
    int16_t sums[NIBBLES][16];
} nibble_sums;

/* A job with its operands on this machine. */
typedef struct job {
    edgec_neureka_config c;
    const edgec_engine_window *windows;
    uint32_t count;
    const uint8_t *weights;
    const uint8_t *scale, *shift, *bias; /* null where unused */
} job;

static const edgec_engine_window *window_of(const job *j, uint64_t address, uint64_t size) {
    for (uint32_t i = 0; i < j->count; i++) {
        const edgec_engine_window *w = &j->windows[i];
        if (address >= w->address && address + size <= (uint64_t)w->address + w->size) {
            return w;
        }
    }
    return NULL;
}

static const uint8_t *bytes_at(const job *j, uint64_t address, uint64_t size) {
    const edgec_engine_window *w = window_of(j, address, size);
    return w == NULL ? NULL : w->bytes + (size_t)(address - w->address);
}

static uint64_t input_address(const edgec_neureka_config *c, uint32_t y, uint32_t x) {
    return c->input + (uint64_t)y * c->input_row + (uint64_t)x * c->input_pixel;
}

static uint64_t output_address(const edgec_neureka_config *c, uint32_t y, uint32_t x) {
    return c->output + (uint64_t)y * c->output_row + (uint64_t)x * c->output_pixel;
}

/* From one written pixel to the next. */
static uint32_t pixel_step(const edgec_neureka_config *c) {
    return c->strided ? 2U : 1U;
}

static uint64_t weights_size(const edgec_neureka_config *c) {
    return c->mode == EDGEC_NEUREKA_DEPTHWISE ? (uint64_t)WORD * c->tiles * c->bits
                                              : (uint64_t)c->channel_size * c->channels;
}

/* Whether the hull of the output meets size bytes at low. */
static bool meets_output(const edgec_neureka_config *c, uint64_t low, uint64_t size) {
    const uint64_t end =
        output_address(c, c->height - 1U, c->width - 1U) + (uint64_t)c->channels * c->output_size;
    return low < end && c->output < low + size;
}

static bool overlaps(const edgec_neureka_config *c) {
    const uint32_t rows = c->input_height - 1U;
    const uint32_t columns = c->input_width - 1U;
    const uint64_t first =
        input_address(c, c->top < rows ? c->top : rows, c->left < columns ? c->left : columns);
    const uint64_t end = input_address(c, rows, columns) + c->input_channels;
    return meets_output(c, first, end - first) || meets_output(c, c->weights, weights_size(c)) ||
           (c->requant && meets_output(c, c->scale, (uint64_t)c->scale_size * c->channels)) ||
           (c->channel_shift && meets_output(c, c->shift, c->channels)) ||
           (c->use_bias && meets_output(c, c->bias, 4U * (uint64_t)c->channels));
}

/* Finds the operands and checks that every pixel is in a window. */
static bool resolve(job *j) {
    const edgec_neureka_config *c = &j->c;
    const uint64_t n = c->channels;
    j->weights = bytes_at(j, c->weights, weights_size(c));
    j->scale = c->requant ? bytes_at(j, c->scale, c->scale_size * n) : NULL;
    j->shift = c->channel_shift ? bytes_at(j, c->shift, n) : NULL;
    j->bias = c->use_bias ? bytes_at(j, c->bias, 4U * n) : NULL;
    bool found = j->weights != NULL && (j->scale != NULL || !c->requant) &&
                 (j->shift != NULL || !c->channel_shift) && (j->bias != NULL || !c->use_bias);
    for (uint32_t y = c->top; y < c->input_height; y++) {
        for (uint32_t x = c->left; x < c->input_width; x++) {
            found = found && bytes_at(j, input_address(c, y, x), c->input_channels) != NULL;
        }
    }
    const uint32_t step = pixel_step(c);
    for (uint32_t y = 0; y < c->height; y += step) {
        for (uint32_t x = 0; x < c->width; x += step) {
            const edgec_engine_window *w =
                window_of(j, output_address(c, y, x), n * c->output_size);
            found = found && w != NULL && w->writable != NULL;
        }
    }
    return found;
}

/* Inputs of one tap of output pixel (y, x), channels of subtile tile, zero where absent. */
static void gather(const job *j, uint32_t y, uint32_t x, uint32_t tap, uint32_t tile,
                   int16_t inputs[WORD]) {
    const edgec_neureka_config *c = &j->c;
    const uint32_t kernel = c->mode == EDGEC_NEUREKA_POINTWISE ? 1U : 3U;
    const uint32_t row = y + tap / kernel;
    const uint32_t column = x + tap % kernel;
    const bool inside =
        row >= c->top && row < c->input_height && column >= c->left && column < c->input_width;
    const uint8_t *pixel =
        inside ? bytes_at(j, input_address(c, row, column), c->input_channels) : NULL;
    const bool masked = ((c->mask >> tap) & 1U) != 0U;
    const uint32_t first = tile * c->tile;
    const uint32_t left = masked ? 0U : c->input_channels - first;
    for (uint32_t i = 0; i < c->tile; i++) {
        int32_t value = 0;
        if (i < left) {
            value = pixel == NULL ? c->padding : pixel[first + i];
        }
        inputs[i] = (int16_t)(c->is_signed && value > 127 ? value - 256 : value);
    }
}

static void add_nibble(nibble_sums *t, const int16_t x[4], uint32_t nibble) {
    int16_t *sums = t->sums[t->count];
    sums[0] = 0;
    for (uint32_t bit = 0; bit < 4U; bit++) {
        for (uint32_t below = 0; below < 1U << bit; below++) {
            sums[(1U << bit) + below] = (int16_t)(sums[below] + x[bit]);
        }
    }
    t->nibble[t->count++] = (uint8_t)nibble;
}

/* Sum over planes of 2^q times the inputs whose bit is set, for the words of one channel. */
static uint32_t weigh(const edgec_neureka_config *c, const nibble_sums *t, const uint8_t *words) {
    const bool pointwise = c->mode == EDGEC_NEUREKA_POINTWISE;
    uint32_t total = 0;
    for (uint32_t q = 0; q < c->bits; q++) {
        const uint8_t *word = words + (pointwise ? q / 2U : WORD * q);
        const uint32_t plane = pointwise ? 4U * (q % 2U) : 0U;
        int32_t sum = 0;
        for (uint32_t k = 0; k < t->count; k++) {
            const uint32_t at = t->nibble[k];
            sum += t->sums[k][((uint32_t)word[at / 2U] >> (4U * (at % 2U) + plane)) & 15U];
        }
        total += (uint32_t)sum << q;
    }
    return total;
}

/* Adds what the table has, and empties it; words are those of the first channel. */
static void flush(const edgec_neureka_config *c, nibble_sums *t, const uint8_t *words,
                  uint32_t count, uint32_t *acc) {
    int32_t total = 0;
    for (uint32_t k = 0; k < t->count; k++) {
        total += t->sums[k][15];
    }
    for (uint32_t i = 0; i < count; i++) {
        acc[i] += (uint32_t)(c->least * total) + weigh(c, t, words + (size_t)i * c->channel_size);
    }
    t->count = 0;
}

/* Adds one input subtile of pixel (y, x) to count channels; words are those of the first. */
static void add_dense(const job *j, uint32_t y, uint32_t x, uint32_t tile, const uint8_t *words,
                      uint32_t count, uint32_t *acc) {
    const edgec_neureka_config *c = &j->c;
    const bool pointwise = c->mode == EDGEC_NEUREKA_POINTWISE;
    int16_t inputs[WORD];
    nibble_sums table;
    table.count = 0;
    for (uint32_t tap = 0; tap < (pointwise ? 1U : 9U); tap++) {
        gather(j, y, x, tap, tile, inputs);
        for (uint32_t i = 0; i < c->tile; i += 4U) {
            const int16_t *four = inputs + i;
            if ((four[0] | four[1] | four[2] | four[3]) != 0) {
                /* Nibbles of four inputs: adjacent in a plane of 3 x 3, 4 bytes apart in 1 x 1. */
                add_nibble(&table, four, pointwise ? 2U * i : (c->tile * tap + i) / 4U);
            }
            if (table.count == NIBBLES) {
                flush(c, &table, words, count, acc);
            }
        }
    }
    flush(c, &table, words, count, acc);
}

/* Adds the nine products of each channel of depthwise subtile tile. */
static void add_depthwise(const job *j, uint32_t y, uint32_t x, uint32_t tile, uint32_t count,
                          uint32_t *acc) {
    const edgec_neureka_config *c = &j->c;
    const uint8_t *words = j->weights + (size_t)tile * c->bits * WORD;
    int16_t inputs[WORD];
    for (uint32_t tap = 0; tap < 9U; tap++) {
        gather(j, y, x, tap, tile, inputs);
        for (uint32_t i = 0; i < count; i++) {
            const uint32_t n = c->tile * tap + i;
            int32_t weight = c->least;
            for (uint32_t q = 0; q < c->bits; q++) {
                weight += (int32_t)((((uint32_t)words[WORD * q + n / 8U] >> (n % 8U)) & 1U) << q);
            }
            acc[i] += (uint32_t)(weight * inputs[i]);
        }
    }
}

static uint32_t little_endian(const uint8_t *bytes, uint32_t size) {
    uint32_t value = 0;
    for (uint32_t i = 0; i < size; i++) {
        value |= (uint32_t)bytes[i] << (8U * i);
    }
    return value;
}

static int64_t clamp(int64_t value, int64_t low, int64_t high) {
    return value < low ? low : value > high ? high : value;
}

/* The low bytes of the output of one channel. */
static uint32_t finish(const job *j, uint32_t channel, uint32_t acc) {
    const edgec_neureka_config *c = &j->c;
    if (!c->requant) {
        return acc;
    }
    const uint32_t scale = little_endian(j->scale + channel * c->scale_size, c->scale_size);
    int64_t value = (int64_t)edgec_signed(acc) * (int64_t)scale;
    if (c->use_bias) {
        value = edgec_signed((uint32_t)value + little_endian(j->bias + 4U * channel, 4));
    }
    value >>= c->channel_shift ? j->shift[channel] : c->right_shift;
    if (c->output_size == 1U) {
        value = c->relu ? clamp(value, 0, 255) : clamp(value, -128, 127);
    } else if (c->relu) {
        value = clamp(value, 0, UINT32_MAX);
    }
    return (uint32_t)value;
}

/* One output pixel of one subtile of channels. */
static void run_pixel(const job *j, uint32_t y, uint32_t x, uint32_t subtile) {
    const edgec_neureka_config *c = &j->c;
    const uint32_t first = subtile * c->output_tile;
    const uint32_t left = c->channels - first;
    const uint32_t count = left < c->output_tile ? left : c->output_tile;
    const uint64_t address = output_address(c, y, x);
    const edgec_engine_window *w = window_of(j, address, (uint64_t)c->channels * c->output_size);
    uint8_t *output = w->writable + (size_t)(address - w->address) + first * c->output_size;
    uint32_t acc[EDGEC_NEUREKA_OUTPUTS];
    for (uint32_t i = 0; i < count; i++) {
        acc[i] = c->stream_in ? little_endian(output + 4U * i, 4) : 0U;
    }
    if (c->mode == EDGEC_NEUREKA_DEPTHWISE) {
        add_depthwise(j, y, x, subtile, count, acc);
    } else {
        const size_t step = c->channel_size / c->tiles;
        const uint8_t *words = j->weights + (size_t)first * c->channel_size;
        for (uint32_t tile = 0; tile < c->tiles; tile++) {
            add_dense(j, y, x, tile, words + tile * step, count, acc);
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t value = finish(j, first + i, acc[i]);
        for (uint32_t byte = 0; byte < c->output_size; byte++) {
            output[c->output_size * i + byte] = (uint8_t)(value >> (8U * byte));
        }
    }
}

edgec_neureka_status edgec_neureka_model(const uint32_t *registers, uint32_t weight_base,
                                         const edgec_engine_window *windows, uint32_t count) {
    job j = {.windows = windows, .count = count};
    if (!edgec_neureka_config_read(registers, weight_base, &j.c)) {
        return EDGEC_NEUREKA_BAD_JOB;
    }
    if (overlaps(&j.c)) {
        return EDGEC_NEUREKA_OVERLAP;
    }
    if (!resolve(&j)) {
        return EDGEC_NEUREKA_OUTSIDE;
    }
    for (uint32_t channel = 0; j.shift != NULL && channel < j.c.channels; channel++) {
        if (j.shift[channel] > 31U) {
            return EDGEC_NEUREKA_BAD_SHIFT;
        }
    }
    const uint32_t step = pixel_step(&j.c);
    for (uint32_t first = 0, tile = 0; first < j.c.channels; first += j.c.output_tile, tile++) {
        for (uint32_t y = 0; y < j.c.height; y += step) {
            for (uint32_t x = 0; x < j.c.width; x += step) {
                run_pixel(&j, y, x, tile);
            }
        }
    }
    return EDGEC_NEUREKA_OK;
}

#include "edgec_math.h"
#include "edgec_neureka_config.h"

static uint32_t field(uint32_t word, uint32_t low, uint32_t bits) {
    return (word >> low) & ((1U << bits) - 1U);
}

/* count subtiles of tile, the last one of last; false when that is not a size. */
static bool extent(uint32_t count, uint32_t last, uint32_t tile, uint32_t *total) {
    *total = (count - 1U) * tile + last;
    return count >= 1U && last >= 1U && last <= tile;
}

static bool read_sizes(const uint32_t *r, edgec_neureka_config *c) {
    const uint32_t border = c->mode == EDGEC_NEUREKA_POINTWISE ? 0U : 2U;
    const bool good = extent(r[18] >> 16, r[15] >> 16, c->output_tile, &c->channels) &&
                      extent(r[18] & 0xFFFFU, r[15] & 0xFFFFU, c->tile, &c->input_channels) &&
                      extent(r[19] >> 16, r[16] >> 16, EDGEC_NEUREKA_PIXELS, &c->height) &&
                      extent(r[19] & 0xFFFFU, r[16] & 0xFFFFU, EDGEC_NEUREKA_PIXELS, &c->width);
    c->top = field(r[20], 28, 4);
    c->right = field(r[20], 24, 4);
    c->bottom = field(r[20], 20, 4);
    c->left = field(r[20], 16, 4);
    c->padding = (uint8_t)field(r[20], 0, 8);
    const bool padded = c->top <= 2U && c->right <= 2U && c->bottom <= 2U && c->left <= 2U;
    const uint32_t last_height = (r[16] >> 16) + border - c->bottom;
    const uint32_t last_width = (r[16] & 0xFFFFU) + border - c->right;
    c->input_height = c->height + border - c->bottom;
    c->input_width = c->width + border - c->right;
    /* The subtile before the last one reads the border from memory. */
    const bool several = c->height > EDGEC_NEUREKA_PIXELS || c->width > EDGEC_NEUREKA_PIXELS;
    const uint32_t least = several && border > 0U ? border : 1U;
    return good && padded && field(r[20], 8, 8) == 0U && r[17] >> 16 == last_height &&
           (r[17] & 0xFFFFU) == last_width && last_height - least <= 8U && last_width - least <= 8U;
}

static void read_flags(uint32_t conf0, edgec_neureka_config *c) {
    static const uint32_t scale_sizes[4] = {1, 2, 4, 0};
    static const uint32_t output_sizes[4] = {1, 0, 4, 0};
    c->requant = field(conf0, 4, 1) != 0U;
    c->strided = field(conf0, 8, 1) != 0U;
    c->scale_size = scale_sizes[field(conf0, 12, 2)];
    c->stream_in = field(conf0, 14, 1) != 0U;
    c->right_shift = field(conf0, 16, 5);
    c->output_size = output_sizes[field(conf0, 21, 2)];
    c->relu = field(conf0, 23, 1) == 0U;
    c->channel_shift = field(conf0, 24, 1) != 0U;
    c->use_bias = field(conf0, 25, 1) != 0U;
    c->is_signed = field(conf0, 26, 1) != 0U;
}

/* Whether pixels of the output are apart: rows of pixels, or columns of them. */
static bool apart(const edgec_neureka_config *c) {
    const uint64_t size = (uint64_t)c->channels * c->output_size;
    const uint64_t pixel = c->output_pixel;
    const uint64_t row = c->output_row;
    const bool by_rows = (c->width == 1U || pixel >= size) &&
                         (c->height == 1U || row >= (c->width - 1U) * pixel + size);
    const bool by_columns = (c->height == 1U || row >= size) &&
                            (c->width == 1U || pixel >= (c->height - 1U) * row + size);
    return by_rows || by_columns;
}

static bool consistent(const uint32_t *r, const edgec_neureka_config *c) {
    const bool depthwise = c->mode == EDGEC_NEUREKA_DEPTHWISE;
    const bool words = r[0] % EDGEC_NEUREKA_WORD == 0U && r[12] == EDGEC_NEUREKA_WORD &&
                       r[13] == c->channel_size && r[14] == 0U && r[8] == 0U && r[9] == 32U;
    const bool modes = c->mode <= EDGEC_NEUREKA_POINTWISE && (r[23] & 0x88U) == 0U &&
                       r[23] >> 27 == 0U && c->bits >= 2U &&
                       c->mask < (c->mode == EDGEC_NEUREKA_POINTWISE ? 1U : 0x200U);
    const bool sizes = c->least >= -256 && c->least <= 255 && c->scale_size > 0U &&
                       c->output_size > 0U && (!depthwise || c->channels == c->input_channels);
    const bool raw = c->requant || (c->output_size == 4U && !c->channel_shift && !c->use_bias);
    const bool start = !c->stream_in || (c->output_size == 4U && !depthwise);
    const bool strided = !c->strided || (c->height <= 3U && c->width <= 3U);
    return words && modes && sizes && raw && start && strided && apart(c);
}

bool edgec_neureka_config_read(const uint32_t *registers, uint32_t weight_base,
                               edgec_neureka_config *config) {
    const uint32_t *r = registers;
    edgec_neureka_config *c = config;
    c->mode = field(r[23], 5, 2);
    c->bits = field(r[23], 0, 3) + 1U;
    c->tile = c->mode == EDGEC_NEUREKA_POINTWISE ? 32U : 28U;
    c->output_tile = c->mode == EDGEC_NEUREKA_DEPTHWISE ? 28U : EDGEC_NEUREKA_OUTPUTS;
    /* 32 bits: words in front of those that register 0 counts from are large offsets */
    c->weights = (uint32_t)(r[0] + (field(r[23], 9, 1) != 0U ? weight_base : 0U));
    c->input = r[1];
    c->output = r[2];
    c->scale = r[3];
    c->shift = r[4];
    c->bias = r[5];
    c->input_pixel = r[6];
    c->input_row = r[7];
    c->output_pixel = r[10];
    c->output_row = r[11];
    c->least = edgec_signed(r[21]);
    c->mask = r[22];
    read_flags(r[23], c);
    if (!read_sizes(r, c)) {
        return false;
    }
    c->tiles = (c->input_channels + c->tile - 1U) / c->tile;
    const uint32_t planes = c->mode == EDGEC_NEUREKA_POINTWISE ? 1U : c->bits;
    c->channel_size =
        c->mode == EDGEC_NEUREKA_DEPTHWISE ? 0U : EDGEC_NEUREKA_WORD * c->tiles * planes;
    return consistent(r, c);
}

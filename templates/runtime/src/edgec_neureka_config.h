/* What the registers of a job say, subtiles added up. */
#ifndef EDGEC_NEUREKA_CONFIG_H
#define EDGEC_NEUREKA_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#define EDGEC_NEUREKA_WORD 32U   /* bytes of a weight word */
#define EDGEC_NEUREKA_PIXELS 6U  /* rows and columns of an output subtile */
#define EDGEC_NEUREKA_OUTPUTS 32 /* most output channels of a subtile */

enum { EDGEC_NEUREKA_DENSE = 0, EDGEC_NEUREKA_DEPTHWISE = 1, EDGEC_NEUREKA_POINTWISE = 2 };

typedef struct edgec_neureka_config {
    uint32_t mode;
    uint32_t bits;
    uint32_t tile;         /* input channels of a subtile */
    uint32_t output_tile;  /* output channels of a subtile */
    uint32_t tiles;        /* input subtiles */
    uint32_t channel_size; /* bytes of weights per output channel, 0 in depthwise mode */
    uint64_t weights;      /* target addresses */
    uint32_t input, output, scale, shift, bias;
    uint32_t input_pixel, input_row, output_pixel, output_row;
    uint32_t channels, input_channels;
    uint32_t height, width;             /* of the output, pixels */
    uint32_t input_height, input_width; /* with padding above and left, without below and right */
    uint32_t top, right, bottom, left;
    uint8_t padding;
    int32_t least;
    uint32_t mask;
    uint32_t scale_size, output_size; /* bytes */
    uint32_t right_shift;
    bool requant, strided, stream_in, relu, channel_shift, use_bias, is_signed;
} edgec_neureka_config;

/* Reads the registers; false when they are not a defined job. */
bool edgec_neureka_config_read(const uint32_t *registers, uint32_t weight_base,
                               edgec_neureka_config *config);

#endif

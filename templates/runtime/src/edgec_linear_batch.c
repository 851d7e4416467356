#include "edgec_linear_tiles.h"

void edgec_linear_batch(const edgec_worker *worker, const edgec_matrix *matrix,
                        edgec_linear_kernel kernel, const uint8_t *weights, uint8_t *tiles,
                        uint32_t scaling, const edgec_vectors *vectors) {
    edgec_linear_tiles(worker, matrix, kernel, weights, tiles, scaling, vectors);
}

#include "edgec_linear_tiles.h"

void edgec_linear(const edgec_worker *worker, const edgec_matrix *matrix,
                  edgec_linear_kernel kernel, const uint8_t *weights, uint8_t *tiles, const void *x,
                  const int32_t *scale, uint32_t scaling, int32_t *y) {
    const edgec_vectors one = {(const uint8_t *)x, scale, y, 1U, 0U};
    edgec_linear_tiles(worker, matrix, kernel, weights, tiles, scaling, &one);
}

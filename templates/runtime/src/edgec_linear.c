#include "edgec_kernels.h"
#include "edgec_vector.h"

/* The worker's rows of `records` records, the first of which lies at `base`. */
static void compute_share(const edgec_worker *worker, const edgec_matrix *matrix,
                          edgec_linear_kernel kernel, const uint8_t *base, uint32_t rows,
                          const void *x, const int32_t *scale, uint32_t scaling, int32_t *y) {
    const uint32_t lanes = 32U / matrix->field_bits;
    const edgec_slice share = edgec_slice_of(worker, (rows + lanes - 1U) / lanes);
    const uint32_t first_row = share.first * lanes;
    if (share.first < share.last) {
        const uint32_t last_row = share.last * lanes < rows ? share.last * lanes : rows;
        kernel(matrix, base + share.first * matrix->record_size, last_row - first_row, x, scale,
               scaling, y + first_row);
    }
}

/* Begins to move tile number `tile`; rows are counted, records are moved. */
static void start_tile(const edgec_matrix *matrix, edgec_dma *dma, const uint8_t *weights,
                       uint8_t *tiles, uint32_t tile) {
    const uint32_t lanes = 32U / matrix->field_bits;
    const uint32_t records = (matrix->rows + lanes - 1U) / lanes;
    const uint32_t first = tile * matrix->records_per_tile;
    const uint32_t left = records - first;
    const uint32_t count = left < matrix->records_per_tile ? left : matrix->records_per_tile;
    const uint32_t slot = tile & (matrix->slots - 1U);
    edgec_dma_start(&dma[slot], tiles + slot * matrix->slot_size,
                    weights + first * matrix->record_size, count * matrix->record_size);
}

void edgec_linear(const edgec_worker *worker, const edgec_matrix *matrix,
                  edgec_linear_kernel kernel, const uint8_t *weights, uint8_t *tiles, const void *x,
                  const int32_t *scale, uint32_t scaling, int32_t *y) {
    if (matrix->slot_size == 0U) {
        compute_share(worker, matrix, kernel, weights, matrix->rows, x, scale, scaling, y);
        return;
    }
    edgec_dma dma[2];
    const uint32_t tile_rows = matrix->records_per_tile * (32U / matrix->field_bits);
    if (worker->id == 0U) {
        start_tile(matrix, dma, weights, tiles, 0U);
    }
    uint32_t tile = 0U;
    for (uint32_t row = 0U; row < matrix->rows; row += tile_rows) {
        const uint32_t left = matrix->rows - row;
        const uint32_t slot = tile & (matrix->slots - 1U);
        if (matrix->slots == 1U && tile != 0U) {
            edgec_barrier(worker); /* nobody reads the only slot any more */
            if (worker->id == 0U) {
                start_tile(matrix, dma, weights, tiles, tile);
            }
        }
        if (worker->id == 0U) {
            edgec_dma_wait(&dma[slot]);
        }
        edgec_barrier(worker); /* the tile is there, and nobody reads the other slot any more */
        if (worker->id == 0U && matrix->slots == 2U && left > tile_rows) {
            start_tile(matrix, dma, weights, tiles, tile + 1U);
        }
        compute_share(worker, matrix, kernel, tiles + slot * matrix->slot_size,
                      left < tile_rows ? left : tile_rows, x, scale, scaling, y + row);
        tile++;
    }
}

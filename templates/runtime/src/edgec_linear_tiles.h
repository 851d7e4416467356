/* The records of a matrix, in tiles or in place, for one vector or several. */
#ifndef EDGEC_LINEAR_TILES_H
#define EDGEC_LINEAR_TILES_H

#include "edgec_kernels.h"
#include "edgec_vector.h"

/* The worker's rows of the records that begin at `base`, from row `row` of the matrix on. */
static inline void edgec_compute_share(const edgec_worker *worker, const edgec_matrix *matrix,
                                       edgec_linear_kernel kernel, const uint8_t *base,
                                       uint32_t row, uint32_t rows, uint32_t scaling,
                                       const edgec_vectors *vectors) {
    const uint32_t lanes = 32U / matrix->field_bits;
    const edgec_slice share = edgec_slice_of(worker, (rows + lanes - 1U) / lanes);
    const uint32_t first_row = share.first * lanes;
    if (share.first >= share.last) {
        return;
    }
    const uint32_t last_row = share.last * lanes < rows ? share.last * lanes : rows;
    for (uint32_t i = 0U; i < vectors->count; i++) {
        kernel(matrix, base + share.first * matrix->record_size, last_row - first_row,
               vectors->x + i * vectors->stride, vectors->scale + i * (vectors->stride / 4U),
               scaling, vectors->y + i * (vectors->stride / 4U) + row + first_row);
    }
}

/* Begins to move tile number `tile`; rows are counted, records are moved. */
static inline void edgec_start_tile(const edgec_matrix *matrix, edgec_dma *dma,
                                    const uint8_t *weights, uint8_t *tiles, uint32_t tile) {
    const uint32_t lanes = 32U / matrix->field_bits;
    const uint32_t records = (matrix->rows + lanes - 1U) / lanes;
    const uint32_t first = tile * matrix->records_per_tile;
    const uint32_t left = records - first;
    const uint32_t count = left < matrix->records_per_tile ? left : matrix->records_per_tile;
    const uint32_t slot = tile & (matrix->slots - 1U);
    edgec_dma_start(&dma[slot], tiles + slot * matrix->slot_size,
                    weights + first * matrix->record_size, count * matrix->record_size);
}

static inline void edgec_linear_tiles(const edgec_worker *worker, const edgec_matrix *matrix,
                                      edgec_linear_kernel kernel, const uint8_t *weights,
                                      uint8_t *tiles, uint32_t scaling,
                                      const edgec_vectors *vectors) {
    if (matrix->slot_size == 0U) {
        edgec_compute_share(worker, matrix, kernel, weights, 0U, matrix->rows, scaling, vectors);
        return;
    }
    edgec_dma dma[2];
    const uint32_t tile_rows = matrix->records_per_tile * (32U / matrix->field_bits);
    if (worker->id == 0U) {
        edgec_start_tile(matrix, dma, weights, tiles, 0U);
    }
    uint32_t tile = 0U;
    for (uint32_t row = 0U; row < matrix->rows; row += tile_rows) {
        const uint32_t left = matrix->rows - row;
        const uint32_t slot = tile & (matrix->slots - 1U);
        if (matrix->slots == 1U && tile != 0U) {
            edgec_barrier(worker); /* nobody reads the only slot any more */
            if (worker->id == 0U) {
                edgec_start_tile(matrix, dma, weights, tiles, tile);
            }
        }
        if (worker->id == 0U) {
            edgec_dma_wait(&dma[slot]);
        }
        edgec_barrier(worker); /* the tile is there, and nobody reads the other slot any more */
        if (worker->id == 0U && matrix->slots == 2U && left > tile_rows) {
            edgec_start_tile(matrix, dma, weights, tiles, tile + 1U);
        }
        edgec_compute_share(worker, matrix, kernel, tiles + slot * matrix->slot_size, row,
                            left < tile_rows ? left : tile_rows, scaling, vectors);
        tile++;
    }
}

#endif

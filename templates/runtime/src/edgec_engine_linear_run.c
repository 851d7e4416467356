#include "edgec_engine.h"
#include "edgec_vector.h"

/* Core 0: issues jobs from number `issued` on while the engine has room and `limit` allows. */
static uint32_t issue_jobs(const edgec_engine_chain *chain, const edgec_engine_place *place,
                           uint32_t issued, uint32_t done, uint32_t limit) {
    while (issued < limit && issued < done + EDGEC_ENGINE_QUEUE) {
        edgec_engine_job *const job = &place->jobs[issued % EDGEC_ENGINE_QUEUE];
        job->registers = chain->jobs[issued];
        job->words = place->words;
        job->weight_base = place->weight_base;
        job->windows = place->windows;
        job->window_count = place->window_count;
        edgec_engine_prepare(job);
        edgec_engine_start(job);
        issued++;
    }
    return issued;
}

/* Core 0: begins to move tile number `tile` of the table, if there is one. */
static void start_table(const edgec_engine_linear *linear, const edgec_engine_place *place,
                        edgec_dma *dma, uint32_t tile) {
    const edgec_engine_matrix *const matrix = linear->matrix;
    const uint32_t first = tile * linear->table_rows;
    if (first < matrix->rows) {
        const uint32_t left = matrix->rows - first;
        const uint32_t rows = left < linear->table_rows ? left : linear->table_rows;
        edgec_dma_start(&dma[tile & 1U], place->tiles + (tile & 1U) * linear->slot_size,
                        place->table + first / 4U * matrix->record_size,
                        (rows + 3U) / 4U * matrix->record_size);
    }
}

void edgec_engine_linear_run(const edgec_worker *worker, const edgec_engine_linear *linear,
                             const edgec_engine_place *place, const void *x, const int32_t *scale,
                             uint32_t shift, int32_t *y) {
    const edgec_engine_chain *const chain = linear->chain;
    const uint32_t table_rows = linear->table_rows;
    uint32_t done = linear->done;
    uint32_t issued = linear->issued;
    edgec_dma dma[2];
    edgec_engine_operands operands = {
        place->table, 0U, place->arena + chain->accumulators, x, scale, shift, y};
    if (worker->id == 0U && table_rows != 0U) {
        start_table(linear, place, dma, 0U);
    }
    if (done == 0U) {
        linear->stager(worker, chain->stage, x, (int8_t *)(place->arena + chain->input));
        edgec_barrier(worker);
    }
    uint32_t tile = 0U;
    for (uint32_t i = 0U; i < linear->piece_count; i++) {
        const edgec_engine_piece *const piece = &linear->pieces[i];
        const int has_tile = tile * table_rows < linear->matrix->rows && table_rows != 0U;
        if (worker->id == 0U) {
            issued = issue_jobs(chain, place, issued, done, piece->before);
            for (; done < piece->needed; done++) {
                edgec_engine_wait(&place->jobs[done % EDGEC_ENGINE_QUEUE]);
                issued = issue_jobs(chain, place, issued, done + 1U, piece->before);
            }
            if (has_tile) {
                edgec_dma_wait(&dma[tile & 1U]);
            }
        }
        edgec_barrier(worker); /* sums and table are there; nobody works on the piece before */
        if (worker->id == 0U) {
            issued = issue_jobs(chain, place, issued, done, piece->after);
            if (has_tile) {
                start_table(linear, place, dma, tile + 1U);
            }
        }
        if (has_tile) {
            operands.table = place->tiles + (tile & 1U) * linear->slot_size;
            operands.first_row = tile * table_rows;
            tile++;
        }
        linear->kernel(worker, linear->matrix, piece, &operands);
    }
}

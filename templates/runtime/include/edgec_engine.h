/* Linears on the engine: what the cores do before, beside and after its jobs.
 *
 * The cores stage a vector in the engine's input buffer, core 0 issues the jobs, and the cores
 * turn the accumulators that the engine leaves into outputs, as the linear kernels would. */
#ifndef EDGEC_ENGINE_H
#define EDGEC_ENGINE_H

#include "edgec_port.h"
#include "edgec_types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How a vector lies in the input buffer: per group of columns one part, of chunks of bytes. */
typedef struct edgec_engine_stage {
    uint32_t columns;      /* inputs of the engine */
    uint32_t group_size;   /* columns per group */
    uint32_t group_stride; /* bytes from one group's part to the next */
    uint32_t chunk;        /* inputs that lie one behind the other */
    uint32_t chunk_stride; /* bytes from one chunk to the next */
    uint32_t origins[2];   /* int8: the vector; int16: its upper halves, its lower halves */
} edgec_engine_stage;

/* A matrix of which the engine has the words and the cores have the table: per 4 rows a record of
 * 4 requantization words, then per group (if there are several) 4 multipliers, then per column of
 * the tail 4 weights + 128. Row r is slot r / channels of channel r % channels. */
typedef struct edgec_engine_matrix {
    uint32_t rows;
    uint32_t groups;
    uint32_t columns; /* inputs, those of the tail included */
    uint32_t tail;    /* last columns, which are not in the words */
    uint32_t slots;   /* rows per channel: output pixels of the engine */
    uint32_t channels;
    uint32_t record_size; /* bytes of the table per 4 rows */
    uint32_t pixel_row;   /* output pixels per row of them */
} edgec_engine_matrix;

/* Some channels of a matrix, computed by the same jobs, and where the engine leaves their sums. */
typedef struct edgec_engine_piece {
    uint32_t first_channel;
    uint32_t channels;
    uint32_t accumulators; /* bytes from the buffer's start to channel first_channel, pixel 0 */
    uint32_t pixel_stride; /* bytes from one output pixel to the next */
    uint32_t group_stride; /* bytes from one group of columns to the next */
    uint32_t needed;       /* jobs of the chain that must be done */
    uint32_t before;       /* jobs that may be issued while waiting for them */
    uint32_t after; /* jobs that may be issued when all cores have finished the piece before */
} edgec_engine_piece;

/* Linears that read one staged vector, one after the other. */
typedef struct edgec_engine_chain {
    const edgec_engine_stage *stage;
    const uint32_t (*jobs)[EDGEC_ENGINE_REGISTERS]; /* register 0 counts from the first words */
    uint32_t input;                                 /* bytes from the arena's start */
    uint32_t accumulators;                          /* likewise */
} edgec_engine_chain;

/* What a kernel computes with. */
typedef struct edgec_engine_operands {
    const uint8_t *table; /* record of row first_row */
    uint32_t first_row;   /* a multiple of 4 */
    const uint8_t *sums;  /* the accumulator buffer */
    const void *x;        /* int8 or int16 [columns] */
    const int32_t *scale;
    uint32_t shift;
    int32_t *y; /* [rows] */
} edgec_engine_operands;

/* Stages the worker's part of x [columns]. */
typedef void (*edgec_engine_stager)(const edgec_worker *worker, const edgec_engine_stage *stage,
                                    const void *x, int8_t *input);
void edgec_engine_stage_s8(const edgec_worker *worker, const edgec_engine_stage *stage,
                           const void *x, int8_t *input);
void edgec_engine_stage_s16(const edgec_worker *worker, const edgec_engine_stage *stage,
                            const void *x, int8_t *input);

/* The worker's rows of a piece. */
typedef void (*edgec_engine_kernel)(const edgec_worker *worker, const edgec_engine_matrix *matrix,
                                    const edgec_engine_piece *piece,
                                    const edgec_engine_operands *operands);
void edgec_engine_rows_s8(const edgec_worker *worker, const edgec_engine_matrix *matrix,
                          const edgec_engine_piece *piece, const edgec_engine_operands *operands);
void edgec_engine_rows_s16(const edgec_worker *worker, const edgec_engine_matrix *matrix,
                           const edgec_engine_piece *piece, const edgec_engine_operands *operands);

/* One row, whose sums of group 0 begin at `sums`; operands->table is that of all rows. */
typedef int32_t edgec_engine_row(const edgec_engine_matrix *matrix, const edgec_engine_piece *piece,
                                 const edgec_engine_operands *operands, uint32_t row,
                                 const uint8_t *sums);
edgec_engine_row edgec_engine_row_s8;
edgec_engine_row edgec_engine_row_s16;

/* One linear of a chain. */
typedef struct edgec_engine_linear {
    const edgec_engine_matrix *matrix;
    const edgec_engine_chain *chain;
    const edgec_engine_piece *pieces;
    uint32_t piece_count;
    uint32_t done;   /* jobs that the linears before it have waited for; the first one stages */
    uint32_t issued; /* jobs that they have issued */
    edgec_engine_stager stager;
    edgec_engine_kernel kernel;
    uint32_t table_rows; /* rows per transfer of the table; 0: the cores read it in place */
    uint32_t slot_size;  /* bytes of a slot of the table's tiles */
    edgec_engine_row *row;
} edgec_engine_linear;

/* Where a linear finds everything. */
typedef struct edgec_engine_place {
    const edgec_engine_window *windows; /* memories by the addresses that registers hold */
    uint32_t window_count;
    uint32_t weight_base; /* target address that register 0 counts from */
    uint8_t *arena;       /* of the region of input and accumulators */
    uint32_t words;       /* register 0 of the chain's first words */
    const uint8_t *table;
    uint8_t *tiles;         /* slots for the table */
    edgec_engine_job *jobs; /* [2], core 0 alone uses them */
} edgec_engine_place;

/* y = W x. Jobs of linears that follow in the chain may be under way when it returns. */
void edgec_engine_linear_run(const edgec_worker *worker, const edgec_engine_linear *linear,
                             const edgec_engine_place *place, const void *x, const int32_t *scale,
                             uint32_t shift, int32_t *y);

#ifdef __cplusplus
}
#endif

#endif

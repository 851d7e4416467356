/* Inline kernels of fused ops as symbols, for tests. */
#include "edgec_fused_argmax.h"
#include "edgec_fused_finish.h"
#include "edgec_fused_heads.h"
#include "edgec_fused_mlp.h"
#include "edgec_rmsnorm_body.h"

void fused_attention(const edgec_worker *worker, const edgec_attention_params *params,
                     uint32_t length, const int8_t *q, const int32_t *q_scale,
                     const edgec_kv_cache *cache, const uint16_t *exp2, int32_t *scratch,
                     uint8_t *tiles, int32_t *acc, int32_t *stats, int32_t top,
                     uint32_t *amplitudes);
void fused_append(const edgec_worker *worker, const edgec_attention_params *params, int32_t *q,
                  int32_t *k, int32_t *v, const int16_t *rope, uint32_t position,
                  const edgec_kv_cache *cache, int8_t *queries, int32_t *query_scale,
                  int32_t *tops);

void fused_append(const edgec_worker *worker, const edgec_attention_params *params, int32_t *q,
                  int32_t *k, int32_t *v, const int16_t *rope, uint32_t position,
                  const edgec_kv_cache *cache, int8_t *queries, int32_t *query_scale,
                  int32_t *tops) {
    edgec_heads heads = {.cache = *cache};
    edgec_word row[32];
    edgec_begin_heads(&heads, worker, params, q, k, v, queries, query_scale, row);
    edgec_place_heads(&heads, params, rope, position);
    edgec_fused_append(worker, &heads, params, 0U, position);
    edgec_barrier(worker);
    tops[worker->id] = edgec_fused_top(worker);
}

void fused_attention(const edgec_worker *worker, const edgec_attention_params *params,
                     uint32_t length, const int8_t *q, const int32_t *q_scale,
                     const edgec_kv_cache *cache, const uint16_t *exp2, int32_t *scratch,
                     uint8_t *tiles, int32_t *acc, int32_t *stats, int32_t top,
                     uint32_t *amplitudes) {
    const edgec_attention_args args = {params, NULL, 0U, q, q_scale, exp2, scratch, acc, stats};
    edgec_heads heads = {.args = args, .cache = *cache};
    edgec_begin_heads(&heads, worker, params, NULL, NULL, NULL, NULL, NULL, NULL);
    amplitudes[worker->id] = edgec_fused_attend(worker, &heads, params, 0U, length, tiles, top);
}

void group_sums(const edgec_worker *worker, const uint8_t *sums, uint32_t below, uint32_t stride,
                const uint8_t *multipliers, uint32_t count, uint32_t halves, uint32_t *total);

void group_sums(const edgec_worker *worker, const uint8_t *sums, uint32_t below, uint32_t stride,
                const uint8_t *multipliers, uint32_t count, uint32_t halves, uint32_t *total) {
    const edgec_row_groups row = {sums, below, stride, multipliers, count};
    const edgec_half_sums found =
        halves == 2U ? edgec_group_sums(row, 2U) : edgec_group_sums(row, 1U);
    (void)worker;
    total[0] = found.upper;
    total[1] = found.lower;
}

void head_rows(const edgec_worker *worker, const uint32_t *shape, const uint32_t *pieces,
               uint32_t piece_count, int32_t *y, uint32_t *places, int32_t *next);

/* shape: rows, slots, channels, words per row of pixels; pieces: first channel, channels, offset,
 * bytes per pixel. places: where the sums of each row lie, 0 at first. */
void head_rows(const edgec_worker *worker, const uint32_t *shape, const uint32_t *pieces,
               uint32_t piece_count, int32_t *y, uint32_t *places, int32_t *next) {
    const edgec_engine_matrix matrix = {
        .rows = shape[0], .slots = shape[1], .channels = shape[2], .pixel_row = shape[3]};
    edgec_best best = {INT32_MIN, EDGEC_NO_ROW};
    for (uint32_t i = 0U; i < piece_count; i++) {
        const uint32_t *const at = pieces + 4U * i;
        const edgec_engine_piece piece = {.first_channel = at[0],
                                          .channels = at[1],
                                          .accumulators = at[2],
                                          .pixel_stride = at[3]};
        const edgec_engine_linear linear = {.matrix = &matrix, .pieces = &piece};
        edgec_row_run runs[9];
        edgec_own_rows own = {.runs = runs, .y = y};
        own.end = runs + edgec_piece_runs(worker, &linear, 0U, runs);
        for (const edgec_row_run *run = runs; run != own.end; run++) {
            for (uint32_t row = 0U; row < run->count; row++) {
                places[run->first + row] += 4U * (run->sums + row);
            }
        }
        best = edgec_best_of(&own, best);
    }
    next[worker->id] = (int32_t)edgec_argmax_of(worker, best, y);
}

void plain_rows(const edgec_worker *worker, const int32_t *scale, uint32_t scaling, uint32_t halves,
                const uint8_t *sums, uint32_t below, const uint8_t *words, uint32_t count,
                int32_t *y, uint32_t *most);

void plain_rows(const edgec_worker *worker, const int32_t *scale, uint32_t scaling, uint32_t halves,
                const uint8_t *sums, uint32_t below, const uint8_t *words, uint32_t count,
                int32_t *y, uint32_t *most) {
    const edgec_scale of = {scale[0], scale[1]};
    const edgec_row_rule rule = edgec_row_rule_of(of, scaling);
    (void)worker;
    if (rule.spare < 0) {
        most[0] = UINT32_MAX;
        return;
    }
    most[0] = halves == 2U ? edgec_plain_rows(&rule, 2U, sums, sums + below, words, count, y)
                           : edgec_plain_rows(&rule, 1U, sums, sums + below, words, count, y);
}

void fused_silu(const edgec_worker *worker, int32_t *gate, uint32_t n, const uint16_t *table,
                uint32_t *found);

void fused_silu(const edgec_worker *worker, int32_t *gate, uint32_t n, const uint16_t *table,
                uint32_t *found) {
    (void)worker;
    found[0] = edgec_fused_silu(gate, n, table);
}

void fused_rows(const edgec_worker *worker, const uint32_t *shape, const uint32_t *sums,
                const uint32_t *words, const int32_t *scale, const uint16_t *sigmoid, int32_t *y,
                int32_t *r, uint32_t *amplitudes);

/* shape: rows, halves, use, linear.shift, amplitude of r. sums: upper halves, then lower ones. */
void fused_rows(const edgec_worker *worker, const uint32_t *shape, const uint32_t *sums,
                const uint32_t *words, const int32_t *scale, const uint16_t *sigmoid, int32_t *y,
                int32_t *r, uint32_t *amplitudes) {
    const void *const first_sum = sums;
    const void *const table = words;
    const edgec_engine_matrix matrix = {shape[0], 1U, 1U, 0U, 1U, shape[0], 16U, 1U};
    /* three pixels from the upper to the lower sums */
    const edgec_engine_piece piece = {.channels = shape[0], .pixel_stride = 4U * shape[0]};
    const edgec_engine_linear linear = {
        .matrix = &matrix,
        .pieces = &piece,
        .piece_count = 1U,
        .row = shape[1] == 2U ? edgec_engine_row_s16 : edgec_engine_row_s8,
    };
    edgec_row_run runs[1];
    const edgec_slice share = edgec_slice_of(worker, shape[0]);
    edgec_own_rows own = {
        .runs = runs,
        .sums = first_sum,
        .y = y,
        .amplitude = edgec_amplitude_at(worker, EDGEC_AMPLITUDE_RESIDUAL),
        .plan = {.use = (uint8_t)shape[2]},
        .linear = &linear,
    };
    own.end = runs + edgec_row_runs(&linear, share, runs);
    const edgec_fused_rows rows = {table, {scale[0], scale[1]}, shape[3]};
    const edgec_row_rule rule = edgec_row_rule_of(rows.scale, rows.shift);
    const edgec_row_aim aim = {sigmoid, r};
    const edgec_row_kind kind = {shape[1], 1U, 0U, 0U};
    edgec_put_amplitude(worker, EDGEC_AMPLITUDE_RESIDUAL, shape[4]);
    if (edgec_rows_simple(&own, 1U, &rule)) {
        edgec_fused_finish(worker, NULL, &own, kind, rows.table, &rule, aim);
    } else {
        edgec_finish_generally(worker, NULL, &own, rows, aim);
    }
    amplitudes[worker->id] = *own.amplitude;
}

void summed_rows(const edgec_worker *worker, const uint32_t *shape, const uint32_t *pieces,
                 uint8_t *sums, const uint8_t *table, const void *x, const int32_t *scale,
                 const uint16_t *gates, int32_t *y, int32_t *r, uint32_t *amplitudes);

/* shape: rows, groups, columns, tail, slots, channels, record bytes; halves, use, linear.shift,
 * amplitude of r, jobs to be waited for, pieces. pieces: first channel, channels, offset, bytes per
 * pixel and per group. */
void summed_rows(const edgec_worker *worker, const uint32_t *shape, const uint32_t *pieces,
                 uint8_t *sums, const uint8_t *table, const void *x, const int32_t *scale,
                 const uint16_t *gates, int32_t *y, int32_t *r, uint32_t *amplitudes) {
    const edgec_engine_matrix matrix = {shape[0], shape[1], shape[2], shape[3],
                                        shape[4], shape[5], shape[6], 3U};
    edgec_engine_piece parts[3];
    for (uint32_t i = 0U; i < shape[12]; i++) {
        const uint32_t *const at = pieces + 5U * i;
        parts[i] = (edgec_engine_piece){.first_channel = at[0],
                                        .channels = at[1],
                                        .accumulators = at[2],
                                        .pixel_stride = at[3],
                                        .group_stride = at[4]};
    }
    const edgec_engine_linear linear = {
        .matrix = &matrix, .pieces = parts, .piece_count = shape[12]};
    edgec_row_run runs[9];
    edgec_own_rows own = {
        .runs = runs,
        .sums = sums,
        .y = y,
        .x = x,
        .amplitude = edgec_amplitude_at(worker, EDGEC_AMPLITUDE_RESIDUAL),
        .plan = {.use = (uint8_t)shape[8]},
        .linear = &linear,
    };
    edgec_engine_queue queue;
    edgec_begin_queue(&queue, (edgec_engine_job){.registers = NULL});
    edgec_plan_jobs(worker, &queue, NULL, 0U);
#if EDGEC_XPULP /* jobs of this port are done as soon as they begin */
    own.plan.jobs = (uint16_t)shape[11];
#endif
    own.plan.at_once = edgec_groups_at_once(matrix.groups, own.plan.jobs);
    own.plan.step = edgec_group_step(parts);
    own.end = runs + edgec_row_runs(&linear, edgec_slice_of(worker, shape[0]), runs);
    const edgec_scale of = {scale[0], scale[1]};
    const edgec_row_rule rule = edgec_row_rule_of(of, shape[9]);
    const edgec_row_kind kind = {shape[7], 0U, shape[1] > 1U ? 1U : 0U, shape[3]};
    const edgec_row_aim aim = {gates, r};
    edgec_put_amplitude(worker, EDGEC_AMPLITUDE_RESIDUAL, shape[10]);
    amplitudes[worker->id] = UINT32_MAX;
    if (edgec_rows_simple(&own, 0U, &rule)) {
        edgec_fused_finish(worker, &queue, &own, kind, table, &rule, aim);
        amplitudes[worker->id] = *own.amplitude;
    }
}

void roots(const edgec_worker *worker, const uint32_t *squares, uint32_t n, uint32_t *found);

void roots(const edgec_worker *worker, const uint32_t *squares, uint32_t n, uint32_t *found) {
    (void)worker;
    for (uint32_t i = 0U; i < n; i++) {
        found[i] = edgec_isqrt32(squares[i]);
    }
}

void staged(const edgec_worker *worker, const uint32_t *shape, const int32_t *t, uint32_t amplitude,
            int8_t *input, int16_t *tail);

/* shape: elements, halves, then edgec_engine_stage. input: where the worker's bytes go. */
void staged(const edgec_worker *worker, const uint32_t *shape, const int32_t *t, uint32_t amplitude,
            int8_t *input, int16_t *tail) {
    const edgec_engine_stage stage = {shape[2], shape[3], shape[4],
                                      shape[5], shape[6], {shape[7], shape[8]}};
    edgec_stage_part part = {.tail = tail};
    edgec_place_stage(&part, edgec_slice_of(worker, shape[0]), &stage, (uint8_t *)input);
    (void)edgec_fused_put(worker, amplitude, &part, shape[1], t);
}

/* Inline kernels of fused ops as symbols, for tests. */
#include "edgec_fused_heads.h"
#include "edgec_group_sums.h"

void fused_attention(const edgec_worker *worker, const edgec_attention_params *params,
                     uint32_t length, const int8_t *q, const int32_t *q_scale,
                     const edgec_kv_cache *cache, const uint16_t *exp2, int32_t *scratch,
                     int32_t *acc, int32_t *stats, int32_t top, uint32_t *amplitudes);
void fused_append(const edgec_worker *worker, const edgec_attention_params *params, int32_t *q,
                  int32_t *k, int32_t *v, const int16_t *rope, uint32_t position,
                  const edgec_kv_cache *cache, int8_t *queries, int32_t *query_scale,
                  int32_t *tops);

void fused_append(const edgec_worker *worker, const edgec_attention_params *params, int32_t *q,
                  int32_t *k, int32_t *v, const int16_t *rope, uint32_t position,
                  const edgec_kv_cache *cache, int8_t *queries, int32_t *query_scale,
                  int32_t *tops) {
    edgec_heads heads = {.cache = *cache};
    edgec_begin_heads(&heads, worker, params, q, k, v, queries, query_scale, rope);
    edgec_fused_append(worker, &heads, params, 0U, position);
    edgec_barrier(worker);
    tops[worker->id] = edgec_fused_top(worker);
}

void fused_attention(const edgec_worker *worker, const edgec_attention_params *params,
                     uint32_t length, const int8_t *q, const int32_t *q_scale,
                     const edgec_kv_cache *cache, const uint16_t *exp2, int32_t *scratch,
                     int32_t *acc, int32_t *stats, int32_t top, uint32_t *amplitudes) {
    const edgec_attention_args args = {params, NULL, 0U, q, q_scale, exp2, scratch, acc, stats};
    edgec_heads heads = {.args = args, .cache = *cache};
    edgec_begin_heads(&heads, worker, params, NULL, NULL, NULL, NULL, NULL, NULL);
    amplitudes[worker->id] = edgec_fused_attend(worker, &heads, params, 0U, length, NULL, top);
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

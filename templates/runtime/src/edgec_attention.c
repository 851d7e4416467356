#include "edgec_attention_body.h"
#include "edgec_kernels.h"
#include "edgec_kv_stream.h"

/* What every head needs; stats hold (largest logit, sum of e, vm) until the end. */
typedef struct attention_args {
    const edgec_attention_params *params;
    const int8_t *q;
    const int32_t *q_scale;
    const uint16_t *exp2;
    int32_t *scratch;
    int32_t *acc;
    int32_t *stats;
} attention_args;

static void begin_head(const attention_args *args, uint32_t head) {
    args->stats[3U * head] = -INT32_MAX;
    args->stats[3U * head + 1U] = 0;
    args->stats[3U * head + 2U] = INT32_MIN;
    for (uint32_t i = head * args->params->head_dim; i < (head + 1U) * args->params->head_dim;
         i++) {
        args->acc[i] = 0;
    }
}

/* Continues vm, the largest exponent of v so far. */
static void visit_v_scales(const attention_args *args, uint32_t head, uint32_t kv_head,
                           const edgec_kv_chunk *chunk) {
    const uint32_t stride = args->params->kv_heads;
    const int32_t *word = chunk->v_scales + kv_head;
    int32_t top = args->stats[3U * head + 2U];
    for (uint32_t u = 0U; u < chunk->count; u++) {
        if (*word >> 16 > top) {
            top = *word >> 16;
        }
        word += stride;
    }
    args->stats[3U * head + 2U] = top;
}

static void visit_k(const attention_args *args, uint32_t head, uint32_t kv_head,
                    const edgec_kv_chunk *chunk) {
    const edgec_attention_params *const params = args->params;
    const uint32_t head_dim = params->head_dim;
    int32_t *const z = args->scratch + head * params->context + chunk->first;
    edgec_logit_scale scale;
    scale.amax = args->q_scale[2U * head];
    scale.multiplier = params->score_multiplier;
    scale.exponent = params->score_exponent - 15 - args->q_scale[2U * head + 1U];
    scale.lift = 17U - (uint32_t)edgec_bit_length(head_dim - 1U); /* |q . k| <= 127^2 head_dim */
    edgec_dot_rows(chunk->rows + kv_head * head_dim, params->kv_heads * head_dim, chunk->count,
                   args->q + head * head_dim, head_dim, z);
    args->stats[3U * head] = edgec_logits(&scale, chunk->k_scales + kv_head, params->kv_heads,
                                          chunk->count, z, args->stats[3U * head]);
}

static void visit_v(const attention_args *args, uint32_t head, uint32_t kv_head,
                    const edgec_kv_chunk *chunk) {
    const edgec_attention_params *const params = args->params;
    const uint32_t head_dim = params->head_dim;
    int32_t *const z = args->scratch + head * params->context + chunk->first;
    const edgec_softmax softmax = {args->exp2, args->stats[3U * head], args->stats[3U * head + 2U],
                                   15U - params->exp_bits};
    args->stats[3U * head + 1U] += (int32_t)edgec_softmax_weights(
        &softmax, chunk->v_scales + kv_head, params->kv_heads, chunk->count, z);
    edgec_weigh_rows(chunk->rows + kv_head * head_dim, params->kv_heads * head_dim, chunk->count, z,
                     head_dim, args->acc + head * head_dim);
}

/* Replaces the sum of e by its reciprocal and exponent. */
static void end_head(const attention_args *args, uint32_t head) {
    int32_t *const stats = args->stats + 3U * head;
    const int32_t sum = stats[1];
    const int32_t b = edgec_bit_length((uint32_t)sum) - 16;
    const int32_t normal = b > 0 ? edgec_rs32(sum, (uint32_t)b) : sum * (1 << (uint32_t)-b);
    stats[0] = (int32_t)((1U << 31) / (uint32_t)normal);
    stats[1] = b;
}

void edgec_attention(const edgec_worker *worker, const edgec_attention_params *params,
                     uint32_t length, const int8_t *q, const int32_t *q_scale,
                     const edgec_kv_cache *cache, const uint16_t *exp2, int32_t *scratch,
                     uint8_t *tiles, int32_t *acc, int32_t *stats) {
    const attention_args args = {params, q, q_scale, exp2, scratch, acc, stats};
    const edgec_slice share = edgec_slice_of(worker, params->heads);
    const uint32_t sharing = params->heads / params->kv_heads;
    edgec_kv_stream stream = {
        .worker = worker, .params = params, .cache = cache, .tiles = tiles, .length = length};
    for (uint32_t head = share.first; head < share.last; head++) {
        begin_head(&args, head);
    }
    if (worker->id == 0U) {
        edgec_kv_start(&stream);
    }
    while (stream.pass < EDGEC_PASSES) {
        const edgec_kv_chunk chunk = edgec_kv_next(&stream);
        for (uint32_t head = share.first; head < share.last; head++) {
            const uint32_t kv_head = head / sharing;
            if (chunk.pass == EDGEC_PASS_K) {
                visit_k(&args, head, kv_head, &chunk);
                if (head > share.first && kv_head == (head - 1U) / sharing) {
                    stats[3U * head + 2U] = stats[3U * head - 1U]; /* same scales: same vm */
                } else {
                    visit_v_scales(&args, head, kv_head, &chunk);
                }
            } else {
                visit_v(&args, head, kv_head, &chunk);
            }
        }
    }
    for (uint32_t head = share.first; head < share.last; head++) {
        end_head(&args, head);
    }
}

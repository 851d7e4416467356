/* The kernels: every core of a team calls each of them with the same arguments.
 *
 * A kernel splits its work by worker->id, gives the same bits for any number of cores, and ends
 * without a barrier: the schedule places one between ops. Vectors are int32 at a fixed point, or
 * quantized (`_s8`: int8 in [-127, 127], `_s16`: int16 in [-2^14, 2^14]) with
 * scale[0] = A in [0, 2^15] and scale[1] = E, real value = q * A * 2^E * constant.
 * No pointer may be null; int32 pointers are 4-byte aligned, partials 8-byte.
 */
#ifndef EDGEC_KERNELS_H
#define EDGEC_KERNELS_H

#include "edgec_types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* r[columns] = row `token` of the packed embedding, requantized to the residual's fixed point.
 * requant: one word per row, multiplier << 16 | exponent. */
void edgec_embed(const edgec_worker *worker, const edgec_matrix *matrix, const uint8_t *weights,
                 const uint32_t *requant, uint32_t token, int32_t *r);

/* RMSNorm and quantization of r[n]. gamma: int16 [n]. eps: eps * n at the squared fixed point.
 * scratch: int32 [n]. */
void edgec_rmsnorm_s8(const edgec_worker *worker, const int32_t *r, const int16_t *gamma,
                      uint32_t n, uint64_t eps, int32_t *scratch, int8_t *q, int32_t *scale);
void edgec_rmsnorm_s16(const edgec_worker *worker, const int32_t *r, const int16_t *gamma,
                       uint32_t n, uint64_t eps, int32_t *scratch, int16_t *q, int32_t *scale);

/* y[rows] = the first `rows` rows of the records that begin at `record`, for one core. One kernel
 * per activation type and stored field width; x: int8 or int16 [columns]. The records must have
 * requantization words. scaling: in the low four bits those by which accumulators are rounded
 * down to fit 32 bits before they are multiplied, 0 when all of them fit; in the next four the bits
 * that the accumulators then leave unused. */
typedef void (*edgec_linear_kernel)(const edgec_matrix *matrix, const uint8_t *record,
                                    uint32_t rows, const void *x, const int32_t *scale,
                                    uint32_t scaling, int32_t *y);
void edgec_linear_s8_w2(const edgec_matrix *matrix, const uint8_t *record, uint32_t rows,
                        const void *x, const int32_t *scale, uint32_t scaling, int32_t *y);
void edgec_linear_s8_w4(const edgec_matrix *matrix, const uint8_t *record, uint32_t rows,
                        const void *x, const int32_t *scale, uint32_t scaling, int32_t *y);
void edgec_linear_s8_w8(const edgec_matrix *matrix, const uint8_t *record, uint32_t rows,
                        const void *x, const int32_t *scale, uint32_t scaling, int32_t *y);
void edgec_linear_s16_w2(const edgec_matrix *matrix, const uint8_t *record, uint32_t rows,
                         const void *x, const int32_t *scale, uint32_t scaling, int32_t *y);
void edgec_linear_s16_w4(const edgec_matrix *matrix, const uint8_t *record, uint32_t rows,
                         const void *x, const int32_t *scale, uint32_t scaling, int32_t *y);
void edgec_linear_s16_w8(const edgec_matrix *matrix, const uint8_t *record, uint32_t rows,
                         const void *x, const int32_t *scale, uint32_t scaling, int32_t *y);

/* The same for the packing nm-sparse: wF_NofM for F stored bits and N of every M inputs removed.
 * There is one for each pattern with which that packing takes fewer bytes than a dense one. */
typedef void edgec_linear_function(const edgec_matrix *matrix, const uint8_t *record, uint32_t rows,
                                   const void *x, const int32_t *scale, uint32_t scaling,
                                   int32_t *y);
edgec_linear_function edgec_linear_s8_w2_1of2;
edgec_linear_function edgec_linear_s8_w4_1of2;
edgec_linear_function edgec_linear_s8_w8_1of2;
edgec_linear_function edgec_linear_s8_w4_2of4;
edgec_linear_function edgec_linear_s8_w8_2of4;
edgec_linear_function edgec_linear_s8_w2_3of4;
edgec_linear_function edgec_linear_s8_w4_3of4;
edgec_linear_function edgec_linear_s8_w8_3of4;
edgec_linear_function edgec_linear_s8_w4_1of8;
edgec_linear_function edgec_linear_s8_w8_1of8;
edgec_linear_function edgec_linear_s8_w4_4of8;
edgec_linear_function edgec_linear_s8_w8_4of8;
edgec_linear_function edgec_linear_s8_w8_1of16;
edgec_linear_function edgec_linear_s8_w4_8of16;
edgec_linear_function edgec_linear_s8_w8_8of16;
edgec_linear_function edgec_linear_s8_w2_12of16;
edgec_linear_function edgec_linear_s8_w4_12of16;
edgec_linear_function edgec_linear_s8_w8_12of16;
edgec_linear_function edgec_linear_s16_w2_1of2;
edgec_linear_function edgec_linear_s16_w4_1of2;
edgec_linear_function edgec_linear_s16_w8_1of2;
edgec_linear_function edgec_linear_s16_w4_2of4;
edgec_linear_function edgec_linear_s16_w8_2of4;
edgec_linear_function edgec_linear_s16_w2_3of4;
edgec_linear_function edgec_linear_s16_w4_3of4;
edgec_linear_function edgec_linear_s16_w8_3of4;
edgec_linear_function edgec_linear_s16_w4_1of8;
edgec_linear_function edgec_linear_s16_w8_1of8;
edgec_linear_function edgec_linear_s16_w4_4of8;
edgec_linear_function edgec_linear_s16_w8_4of8;
edgec_linear_function edgec_linear_s16_w8_1of16;
edgec_linear_function edgec_linear_s16_w4_8of16;
edgec_linear_function edgec_linear_s16_w8_8of16;
edgec_linear_function edgec_linear_s16_w2_12of16;
edgec_linear_function edgec_linear_s16_w4_12of16;
edgec_linear_function edgec_linear_s16_w8_12of16;

/* y[rows] = W x. Moves tiles of records into tiles when matrix->slot_size is not 0, else reads in
 * place. With two slots the transfer of one tile overlaps with the work on the other. */
void edgec_linear(const edgec_worker *worker, const edgec_matrix *matrix,
                  edgec_linear_kernel kernel, const uint8_t *weights, uint8_t *tiles, const void *x,
                  const int32_t *scale, uint32_t scaling, int32_t *y);

/* Vectors of a batch: those of one lie `stride` bytes, a multiple of 4, behind those of the one
 * before. */
typedef struct edgec_vectors {
    const uint8_t *x; /* int8 or int16 [columns] */
    const int32_t *scale;
    int32_t *y; /* [rows] */
    uint32_t count;
    uint32_t stride;
} edgec_vectors;

/* The same for several vectors; every tile is moved once for all of them. */
void edgec_linear_batch(const edgec_worker *worker, const edgec_matrix *matrix,
                        edgec_linear_kernel kernel, const uint8_t *weights, uint8_t *tiles,
                        uint32_t scaling, const edgec_vectors *vectors);

/* Rotates and quantizes each head of x[heads][head_dim].
 * table: cos[head_dim/2] then sin[head_dim/2] of the position, Q14; pairs are (i, i + head_dim/2).
 * scratch: int32 [heads][head_dim]. scale: (amax, exponent) per head. */
void edgec_rope_s8(const edgec_worker *worker, const int32_t *x, const int16_t *table,
                   uint32_t heads, uint32_t head_dim, int32_t *scratch, int8_t *q, int32_t *scale);

/* Rotates and quantizes k, quantizes v, and writes both as row `position` of the cache.
 * scratch: int32 [kv_heads][head_dim]. */
void edgec_kv_append(const edgec_worker *worker, const edgec_attention_params *params,
                     const int32_t *k, const int32_t *v, const int16_t *table, uint32_t position,
                     int32_t *scratch, const edgec_kv_cache *cache);

/* Softmax attention over cache rows 0 .. length-1.
 * exp2: 256 entries of round(2^15 * 2^(-i/256)); with fast arithmetic 2049, see edgec_softmax_e.
 * scratch: int32 [heads][context]. tiles: two slots, each k or v rows, then, at the next multiple
 * of 4, their scales. acc: [heads][head_dim]. stats: (reciprocal, exponent of the sum, v exponent)
 * per head. */
void edgec_attention(const edgec_worker *worker, const edgec_attention_params *params,
                     uint32_t length, const int8_t *q, const int32_t *q_scale,
                     const edgec_kv_cache *cache, const uint16_t *exp2, int32_t *scratch,
                     uint8_t *tiles, int32_t *acc, int32_t *stats);

/* Normalises the heads' sums to a common exponent and quantizes them as one vector.
 * scratch: int32 [heads][head_dim]. */
void edgec_attention_merge_s8(const edgec_worker *worker, const int32_t *acc, const int32_t *stats,
                              uint32_t heads, uint32_t head_dim, int32_t *scratch, int8_t *q,
                              int32_t *scale);
void edgec_attention_merge_s16(const edgec_worker *worker, const int32_t *acc, const int32_t *stats,
                               uint32_t heads, uint32_t head_dim, int32_t *scratch, int16_t *q,
                               int32_t *scale);

/* r[n] = saturate(r + y). */
void edgec_residual_add(const edgec_worker *worker, const int32_t *y, uint32_t n, int32_t *r);

/* Quantizes x[n] as one vector. */
void edgec_quantize_vector_s8(const edgec_worker *worker, const int32_t *x, uint32_t n, int8_t *q,
                              int32_t *scale);
void edgec_quantize_vector_s16(const edgec_worker *worker, const int32_t *x, uint32_t n, int16_t *q,
                               int32_t *scale);

/* q[i] = x[order[i]] for i < n; every order[i] < n. q must not overlap x. */
void edgec_gather_s8(const edgec_worker *worker, const int8_t *x, const uint16_t *order, uint32_t n,
                     int8_t *q);
void edgec_gather_s16(const edgec_worker *worker, const int16_t *x, const uint16_t *order,
                      uint32_t n, int16_t *q);

/* silu(gate) * up, quantized. table: 257 entries of round(2^15 / (1 + exp(-i/16))); with fast
 * arithmetic 512 of round(2^16 * x / (1 + exp(x))), x = i/32, each behind the difference to the
 * next one.
 * scratch: int32 [n]. */
void edgec_swiglu_s8(const edgec_worker *worker, const int32_t *gate, const int32_t *up,
                     const uint16_t *table, uint32_t n, int32_t *scratch, int8_t *q,
                     int32_t *scale);
void edgec_swiglu_s16(const edgec_worker *worker, const int32_t *gate, const int32_t *up,
                      const uint16_t *table, uint32_t n, int32_t *scratch, int16_t *q,
                      int32_t *scale);

/* *next = lowest index among the maxima of logits[n]. */
void edgec_argmax(const edgec_worker *worker, const int32_t *logits, uint32_t n, int32_t *next);

#ifdef __cplusplus
}
#endif

#endif

/* The codes of cached scales (edgec_types.h): exponents of 6 bits, signed, and their spread. */
#ifndef EDGEC_KV_SCALE_H
#define EDGEC_KV_SCALE_H

#include "edgec_types.h"
#include "edgec_xpulp.h"

#define EDGEC_KV_SPREAD 15 /* as large, or larger */

static inline int32_t edgec_kv_exponent(edgec_kv_scale scale) {
    return edgec_signed((uint32_t)scale.code << 26) >> 26;
}

/* The largest exponent of the KV head up to here. */
static inline int32_t edgec_kv_top(edgec_kv_scale scale) {
    return edgec_signed((uint32_t)scale.code << 20) >> 26;
}

/* Top less the smallest exponent up to here, EDGEC_KV_SPREAD when it is larger. */
static inline int32_t edgec_kv_spread(edgec_kv_scale scale) {
    return scale.code >> 12;
}

/* The scale of a vector behind that of the position before, null at position 0. largest: the
 * largest exponent up to here. */
static inline edgec_kv_scale edgec_kv_scale_with(int32_t amax, int32_t exponent,
                                                 const edgec_kv_scale *before, int32_t *largest) {
    int32_t top = exponent;
    int32_t low = exponent;
    if (before != NULL) {
        top = edgec_max32(top, edgec_kv_top(*before));
        low = edgec_min32(low, edgec_kv_top(*before) - edgec_kv_spread(*before));
    }
    const int32_t spread = edgec_min32(top - low, EDGEC_KV_SPREAD);
    const edgec_kv_scale scale = {(uint16_t)amax,
                                  (uint16_t)((uint32_t)spread << 12 | ((uint32_t)top & 63U) << 6 |
                                             ((uint32_t)exponent & 63U))};
    *largest = top;
    return scale;
}

static inline edgec_kv_scale edgec_kv_scale_of(int32_t amax, int32_t exponent,
                                               const edgec_kv_scale *before) {
    int32_t largest;
    return edgec_kv_scale_with(amax, exponent, before, &largest);
}

/* What is left of a number and an exponent when only the lower bits of their difference count: a
 * shift by 0 to 31. */
static inline uint32_t edgec_kv_shift(int32_t number, uint32_t code) {
    return ((uint32_t)number - code) & 31U;
}

#endif

/* The codes of cached scales (edgec_types.h): exponents of 6 bits, signed, and their spread. */
#ifndef EDGEC_KV_SCALE_H
#define EDGEC_KV_SCALE_H

#include "edgec_vector.h"

#define EDGEC_KV_SPREAD 15 /* as large, or larger */

#if EDGEC_XPULP
EDGEC_INSN_A(edgec_kv_bits_6, int32_t, 0x33, 0, 0x65, 6)
EDGEC_INSN_DA(edgec_kv_insert_6, 0x33, 2, 0x65, 6)
EDGEC_INSN_DA(edgec_kv_insert_12, 0x33, 2, 0x63, 12)

static inline uint32_t edgec_kv_code(int32_t exponent, int32_t top, int32_t spread) {
    return edgec_kv_insert_12(edgec_kv_insert_6((uint32_t)exponent, (uint32_t)top),
                              (uint32_t)spread);
}
#else
/* Bits 6 to 11, signed. */
static inline int32_t edgec_kv_bits_6(int32_t code) {
    return edgec_signed((uint32_t)code << 20) >> 26;
}

static inline uint32_t edgec_kv_code(int32_t exponent, int32_t top, int32_t spread) {
    return (uint32_t)spread << 12 | ((uint32_t)top & 63U) << 6 | ((uint32_t)exponent & 63U);
}
#endif

static inline int32_t edgec_kv_exponent(edgec_kv_scale scale) {
    return edgec_signed((uint32_t)scale.code << 26) >> 26;
}

/* The largest exponent of the KV head up to here. */
static inline int32_t edgec_kv_top(edgec_kv_scale scale) {
    return edgec_kv_bits_6(scale.code);
}

/* Top less the smallest exponent up to here, EDGEC_KV_SPREAD when it is larger. */
static inline int32_t edgec_kv_spread(edgec_kv_scale scale) {
    return scale.code >> 12;
}

/* The scale of a vector, for `place`; that of the position before lies `back` scales in front of
 * it, 0 at the first position. largest: the largest exponent up to here. */
static inline edgec_kv_scale edgec_kv_scale_with(int32_t amax, int32_t exponent,
                                                 const edgec_kv_scale *place, uint32_t back,
                                                 int32_t *largest) {
    int32_t top = exponent;
    int32_t low = exponent;
    if (back != 0U) {
        const edgec_kv_scale before = *(place - back);
        top = edgec_max32(top, edgec_kv_top(before));
        low = edgec_min32(low, edgec_kv_top(before) - edgec_kv_spread(before));
    }
    const int32_t spread = edgec_min32(top - low, EDGEC_KV_SPREAD);
    const edgec_kv_scale scale = {(uint16_t)amax, (uint16_t)edgec_kv_code(exponent, top, spread)};
    *largest = top;
    return scale;
}

/* What is left of a number and an exponent when only the lower bits of their difference count: a
 * shift by 0 to 31. */
static inline uint32_t edgec_kv_shift(int32_t number, uint32_t code) {
    return ((uint32_t)number - code) & 31U;
}

#endif

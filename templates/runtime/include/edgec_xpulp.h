/* Operations that a core with XpulpV2 has as one instruction.
 *
 * The C below defines them. With EDGEC_XPULP they are instructions, spelled with .insn so that any
 * RISC-V assembler takes them; both give the same bits (RI5CY user manual, chapters 13 to 15).
 * Upstream compilers know similar instructions (XCV) under other encodings: those trap. */
#ifndef EDGEC_XPULP_H
#define EDGEC_XPULP_H

#include <stdint.h>

#include "edgec_math.h"

#ifdef __cplusplus
extern "C" {
#endif

#ifndef EDGEC_XPULP
#define EDGEC_XPULP 0
#endif

#if EDGEC_XPULP
/* d = a op b */
#define EDGEC_INSN_AB(name, type, opcode, f3, f7)                                                  \
    static inline type name(type a, type b) {                                                      \
        type d;                                                                                    \
        __asm__(".insn r " #opcode ", " #f3 ", " #f7 ", %0, %1, %2" : "=r"(d) : "r"(a), "r"(b));   \
        return d;                                                                                  \
    }
/* d = op a, the second operand fixed to register number `fixed` */
#define EDGEC_INSN_A(name, type, opcode, f3, f7, fixed)                                            \
    static inline type name(type a) {                                                              \
        type d;                                                                                    \
        __asm__(".insn r " #opcode ", " #f3 ", " #f7 ", %0, %1, x" #fixed : "=r"(d) : "r"(a));     \
        return d;                                                                                  \
    }
/* d = d op (a, b) */
#define EDGEC_INSN_DAB(name, type, first, opcode, f3, f7)                                          \
    static inline type name(type d, first a, first b) {                                            \
        __asm__(".insn r " #opcode ", " #f3 ", " #f7 ", %0, %1, %2" : "+r"(d) : "r"(a), "r"(b));   \
        return d;                                                                                  \
    }

/* d = d with something of a in it */
#define EDGEC_INSN_DA(name, opcode, f3, f7, fixed)                                                 \
    static inline uint32_t name(uint32_t d, uint32_t a) {                                          \
        __asm__(".insn r " #opcode ", " #f3 ", " #f7 ", %0, %1, x" #fixed : "+r"(d) : "r"(a));     \
        return d;                                                                                  \
    }

EDGEC_INSN_AB(edgec_min32, int32_t, 0x33, 4, 0x02)
EDGEC_INSN_AB(edgec_max32, int32_t, 0x33, 6, 0x02)
EDGEC_INSN_AB(edgec_minu32, uint32_t, 0x33, 5, 0x02)
EDGEC_INSN_AB(edgec_maxu32, uint32_t, 0x33, 7, 0x02)
EDGEC_INSN_A(edgec_abs32, int32_t, 0x33, 0, 0x02, 0)
EDGEC_INSN_AB(edgec_mul_low16, uint32_t, 0x5b, 0, 0x00)
EDGEC_INSN_AB(edgec_mul_high16, uint32_t, 0x5b, 0, 0x20)
EDGEC_INSN_AB(edgec_mul_high16_rs15, uint32_t, 0x5b, 4, 0x2f)
EDGEC_INSN_DAB(edgec_dot4_ss, int32_t, uint32_t, 0x57, 1, 0x5c)
EDGEC_INSN_DAB(edgec_dot4_us, int32_t, uint32_t, 0x57, 1, 0x54)
EDGEC_INSN_DAB(edgec_dot2_ss, int32_t, uint32_t, 0x57, 0, 0x5c)
EDGEC_INSN_DAB(edgec_shuffle4, uint32_t, uint32_t, 0x57, 1, 0x64)

/* p.fl1 counts from 0 and gives 32 for 0 */
static inline int32_t edgec_bits32(uint32_t a) {
    uint32_t d;
    if (__builtin_constant_p(a)) {
        return a != 0U ? 32 - __builtin_clz(a) : 0;
    }
    __asm__(".insn r 0x33, 1, 0x08, %0, %1, x0" : "=r"(d) : "r"(a));
    return a != 0U ? (int32_t)d + 1 : 0;
}

/* The number of the highest set bit, from 0; 32 for 0. */
static inline uint32_t edgec_top_bit(uint32_t a) {
    uint32_t d;
    __asm__(".insn r 0x33, 1, 0x08, %0, %1, x0" : "=r"(d) : "r"(a));
    return d;
}

/* Bits of a >> 1. */
static inline int32_t edgec_bits32_above(uint32_t a) {
    return (int32_t)edgec_top_bit(a | 1U);
}

static inline int32_t edgec_round_shift(int32_t x, uint32_t n) {
    __asm__(".insn r 0x5b, 6, 0x20, %0, x0, %1" : "+r"(x) : "r"(n));
    return x;
}

static inline uint32_t edgec_round_shift_u(uint32_t x, uint32_t n) {
    __asm__(".insn r 0x5b, 6, 0x60, %0, x0, %1" : "+r"(x) : "r"(n));
    return x;
}

static inline uint32_t edgec_pack4(int32_t a, int32_t b, int32_t c, int32_t e) {
    uint32_t d;
    __asm__(".insn r 0x57, 1, 0x70, %0, %2, %1" : "=r"(d) : "r"(a), "r"(b));
    __asm__(".insn r 0x57, 1, 0x6c, %0, %2, %1" : "+r"(d) : "r"(c), "r"(e));
    return d;
}

#else

static inline int32_t edgec_min32(int32_t a, int32_t b) {
    return a < b ? a : b;
}

static inline int32_t edgec_max32(int32_t a, int32_t b) {
    return a > b ? a : b;
}

static inline uint32_t edgec_minu32(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

static inline uint32_t edgec_maxu32(uint32_t a, uint32_t b) {
    return a > b ? a : b;
}

/* |a|; -2^31 stays as it is. */
static inline int32_t edgec_abs32(int32_t a) {
    return a < 0 ? edgec_signed(0U - (uint32_t)a) : a;
}

/* The product of the lower halves. */
static inline uint32_t edgec_mul_low16(uint32_t a, uint32_t b) {
    return (a & 0xFFFFU) * (b & 0xFFFFU);
}

/* The product of the upper halves. */
static inline uint32_t edgec_mul_high16(uint32_t a, uint32_t b) {
    return (a >> 16) * (b >> 16);
}

/* rs of that product by 15; the product is below 2^32 - 2^14. */
static inline uint32_t edgec_mul_high16_rs15(uint32_t a, uint32_t b) {
    return ((a >> 16) * (b >> 16) + (1U << 14)) >> 15;
}

static inline int32_t edgec_byte_of(uint32_t word, uint32_t lane) {
    return (int32_t)((word >> (8U * lane) & 0xFFU) ^ 0x80U) - 0x80;
}

static inline int32_t edgec_half_of(uint32_t word, uint32_t lane) {
    return (int32_t)((word >> (16U * lane) & 0xFFFFU) ^ 0x8000U) - 0x8000;
}

/* sum + the products of four int8. */
static inline int32_t edgec_dot4_ss(int32_t sum, uint32_t a, uint32_t b) {
    for (uint32_t lane = 0U; lane < 4U; lane++) {
        sum += edgec_byte_of(a, lane) * edgec_byte_of(b, lane);
    }
    return sum;
}

/* sum + the products of four uint8 (a) and int8 (b). */
static inline int32_t edgec_dot4_us(int32_t sum, uint32_t a, uint32_t b) {
    for (uint32_t lane = 0U; lane < 4U; lane++) {
        sum += (int32_t)(a >> (8U * lane) & 0xFFU) * edgec_byte_of(b, lane);
    }
    return sum;
}

/* sum + the products of two int16. */
static inline int32_t edgec_dot2_ss(int32_t sum, uint32_t a, uint32_t b) {
    return sum + edgec_half_of(a, 0U) * edgec_half_of(b, 0U) +
           edgec_half_of(a, 1U) * edgec_half_of(b, 1U);
}

/* Four bytes out of `d` (choices 0 to 3) and `a` (4 to 7); byte i of `choice` chooses byte i. */
static inline uint32_t edgec_shuffle4(uint32_t d, uint32_t a, uint32_t choice) {
    uint32_t result = 0U;
    for (uint32_t lane = 0U; lane < 4U; lane++) {
        const uint32_t which = choice >> (8U * lane);
        const uint32_t source = (which & 4U) != 0U ? a : d;
        result |= (source >> (8U * (which & 3U)) & 0xFFU) << (8U * lane);
    }
    return result;
}

/* Bits of a: the position of the highest set one, counted from 1. */
static inline int32_t edgec_bits32(uint32_t a) {
    return edgec_bit_length(a);
}

/* The number of the highest set bit, from 0; 32 for 0. */
static inline uint32_t edgec_top_bit(uint32_t a) {
    return a != 0U ? (uint32_t)edgec_bit_length(a) - 1U : 32U;
}

/* Bits of a >> 1. */
static inline int32_t edgec_bits32_above(uint32_t a) {
    return edgec_bit_length(a >> 1);
}

/* rs(x, n) for 0 <= n <= 31, modulo 2^32 where adding the half overflows. */
static inline int32_t edgec_round_shift(int32_t x, uint32_t n) {
    const uint32_t half = n != 0U ? 1U << (n - 1U) : 0U;
    return edgec_signed((uint32_t)x + half) >> n;
}

static inline uint32_t edgec_round_shift_u(uint32_t x, uint32_t n) {
    return (x + (n != 0U ? 1U << (n - 1U) : 0U)) >> n;
}

/* The low bytes, a in the lowest. */
static inline uint32_t edgec_pack4(int32_t a, int32_t b, int32_t c, int32_t e) {
    return ((uint32_t)a & 0xFFU) | ((uint32_t)b & 0xFFU) << 8 | ((uint32_t)c & 0xFFU) << 16 |
           ((uint32_t)e & 0xFFU) << 24;
}

#endif

#ifdef __cplusplus
}
#endif

#endif

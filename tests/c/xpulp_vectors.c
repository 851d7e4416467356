/* Every operation of edgec_xpulp.h on many operands; the results go to the standard output. Built
 * for the host in plain C and for rv32 with the instructions, it must write the same bytes. */
#include "edgec_runner.h"
#include "edgec_xpulp.h"

#define ROUNDS 400U
#define EDGES 12U

int main(void);

static const uint32_t edges[EDGES] = {0U,          1U,          2U,          0x7FFFFFFFU,
                                      0x80000000U, 0x80000001U, 0xFFFFFFFFU, 0xFFFF0000U,
                                      0x0000FFFFU, 0x00008000U, 0x80808080U, 0x7F7F7F7FU};

static uint32_t state = 1U;

static uint32_t next(void) {
    state = state * 1664525U + 1013904223U;
    const uint32_t high = state >> 16;
    state = state * 1664525U + 1013904223U;
    return high << 16 | state >> 16;
}

static uint32_t operand(uint32_t round) {
    const uint32_t value = next();
    return value % 3U == 0U ? edges[(value >> 8) % EDGES] : value >> (round % 5U * 6U);
}

static void put(uint32_t value) {
    edgec_write(&value, (uint32_t)sizeof value);
}

static void scalar(uint32_t a, uint32_t b) {
    const int32_t x = edgec_signed(a);
    const int32_t y = edgec_signed(b);
    put((uint32_t)edgec_min32(x, y));
    put((uint32_t)edgec_max32(x, y));
    put(edgec_maxu32(a, b));
    put((uint32_t)edgec_abs32(x));
    put((uint32_t)edgec_bits32(a));
    put(edgec_mul_low16(a, b));
    put(edgec_mul_high16(a, b));
    put(edgec_mul_high16_rs15(a, b));
    put((uint32_t)edgec_round_shift(x, b & 31U));
    put(edgec_round_shift_u(a, b & 31U));
}

static void vector(uint32_t a, uint32_t b, uint32_t c) {
    const int32_t sum = edgec_signed(c) >> 8; /* leaves room for the products */
    put((uint32_t)edgec_dot4_ss(sum, a, b));
    put((uint32_t)edgec_dot4_us(sum, a, b));
    put((uint32_t)edgec_dot2_ss(sum >> 8, a & 0x7FFF7FFFU, b));
    put(edgec_shuffle4(a, b, c & 0x07070707U));
    put(edgec_pack4(edgec_signed(a), edgec_signed(b), edgec_signed(c), edgec_signed(a ^ c)));
}

int main(void) {
    for (uint32_t round = 0U; round < ROUNDS; round++) {
        const uint32_t a = operand(round);
        const uint32_t b = operand(round + 1U);
        scalar(a, b);
        vector(a, b, operand(round + 2U));
    }
    return 0;
}

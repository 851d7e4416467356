/* RV32C to RV32I (RISC-V unprivileged specification, chapter 26). */
#include "core.h"

#define OP_LOAD 0x03U
#define OP_IMM 0x13U
#define OP_STORE 0x23U
#define OP_REG 0x33U
#define OP_LUI 0x37U
#define OP_BRANCH 0x63U
#define OP_JALR 0x67U
#define OP_JAL 0x6FU
#define EBREAK 0x00100073U

static uint32_t bits(uint32_t half, uint32_t high, uint32_t low) {
    return half >> low & ((1U << (high - low + 1U)) - 1U);
}

static uint32_t i_type(uint32_t imm, uint32_t rs1, uint32_t f3, uint32_t rd, uint32_t opcode) {
    return imm << 20 | rs1 << 15 | f3 << 12 | rd << 7 | opcode;
}

static uint32_t r_type(uint32_t f7, uint32_t rs2, uint32_t rs1, uint32_t f3, uint32_t rd) {
    return f7 << 25 | rs2 << 20 | rs1 << 15 | f3 << 12 | rd << 7 | OP_REG;
}

static uint32_t store_word(uint32_t offset, uint32_t rs2, uint32_t rs1) {
    return bits(offset, 11U, 5U) << 25 | rs2 << 20 | rs1 << 15 | 2U << 12 |
           bits(offset, 4U, 0U) << 7 | OP_STORE;
}

static uint32_t jump(uint32_t h, uint32_t rd) {
    const uint32_t low = bits(h, 12U, 12U) << 11 | bits(h, 11U, 11U) << 4 | bits(h, 10U, 9U) << 8 |
                         bits(h, 8U, 8U) << 10 | bits(h, 7U, 7U) << 6 | bits(h, 6U, 6U) << 7 |
                         bits(h, 5U, 3U) << 1 | bits(h, 2U, 2U) << 5;
    const uint32_t offset = sign_extend(low, 12U);
    return bits(offset, 20U, 20U) << 31 | bits(offset, 10U, 1U) << 21 |
           bits(offset, 11U, 11U) << 20 | bits(offset, 19U, 12U) << 12 | rd << 7 | OP_JAL;
}

static uint32_t branch(uint32_t h, uint32_t f3) {
    const uint32_t low = bits(h, 12U, 12U) << 8 | bits(h, 11U, 10U) << 3 | bits(h, 6U, 5U) << 6 |
                         bits(h, 4U, 3U) << 1 | bits(h, 2U, 2U) << 5;
    const uint32_t offset = sign_extend(low, 9U);
    return bits(offset, 12U, 12U) << 31 | bits(offset, 10U, 5U) << 25 |
           (8U + bits(h, 9U, 7U)) << 15 | f3 << 12 | bits(offset, 4U, 1U) << 8 |
           bits(offset, 11U, 11U) << 7 | OP_BRANCH;
}

static uint32_t quadrant0(uint32_t h) {
    const uint32_t rd = 8U + bits(h, 4U, 2U);
    const uint32_t rs1 = 8U + bits(h, 9U, 7U);
    const uint32_t word = bits(h, 5U, 5U) << 6 | bits(h, 12U, 10U) << 3 | bits(h, 6U, 6U) << 2;
    const uint32_t wide = bits(h, 10U, 7U) << 6 | bits(h, 12U, 11U) << 4 | bits(h, 5U, 5U) << 3 |
                          bits(h, 6U, 6U) << 2;
    switch (bits(h, 15U, 13U)) {
    case 0U:
        return wide == 0U ? 0U : i_type(wide, 2U, 0U, rd, OP_IMM);
    case 2U:
        return i_type(word, rs1, 2U, rd, OP_LOAD);
    case 6U:
        return store_word(word, rd, rs1);
    default:
        return 0U;
    }
}

static uint32_t arithmetic(uint32_t h) {
    const uint32_t rd = 8U + bits(h, 9U, 7U);
    const uint32_t rs2 = 8U + bits(h, 4U, 2U);
    const uint32_t imm = bits(h, 12U, 12U) << 5 | bits(h, 6U, 2U);
    switch (bits(h, 11U, 10U)) {
    case 0U:
        return i_type(imm, rd, 5U, rd, OP_IMM);
    case 1U:
        return i_type(0x400U | imm, rd, 5U, rd, OP_IMM);
    case 2U:
        return i_type(sign_extend(imm, 6U) & 0xFFFU, rd, 7U, rd, OP_IMM);
    default:
        break;
    }
    if (bits(h, 12U, 12U) != 0U) {
        return 0U;
    }
    switch (bits(h, 6U, 5U)) {
    case 0U:
        return r_type(0x20U, rs2, rd, 0U, rd);
    case 1U:
        return r_type(0U, rs2, rd, 4U, rd);
    case 2U:
        return r_type(0U, rs2, rd, 6U, rd);
    default:
        return r_type(0U, rs2, rd, 7U, rd);
    }
}

static uint32_t quadrant1(uint32_t h) {
    const uint32_t rd = bits(h, 11U, 7U);
    const uint32_t imm = sign_extend(bits(h, 12U, 12U) << 5 | bits(h, 6U, 2U), 6U);
    const uint32_t stack =
        sign_extend(bits(h, 12U, 12U) << 9 | bits(h, 6U, 6U) << 4 | bits(h, 5U, 5U) << 6 |
                        bits(h, 4U, 3U) << 7 | bits(h, 2U, 2U) << 5,
                    10U);
    switch (bits(h, 15U, 13U)) {
    case 0U:
        return i_type(imm & 0xFFFU, rd, 0U, rd, OP_IMM);
    case 1U:
        return jump(h, 1U);
    case 2U:
        return i_type(imm & 0xFFFU, 0U, 0U, rd, OP_IMM);
    case 3U:
        return rd == 2U ? i_type(stack & 0xFFFU, 2U, 0U, 2U, OP_IMM)
                        : (imm & 0xFFFFFU) << 12 | rd << 7 | OP_LUI;
    case 4U:
        return arithmetic(h);
    case 5U:
        return jump(h, 0U);
    case 6U:
        return branch(h, 0U);
    default:
        return branch(h, 1U);
    }
}

static uint32_t quadrant2(uint32_t h) {
    const uint32_t rd = bits(h, 11U, 7U);
    const uint32_t rs2 = bits(h, 6U, 2U);
    const uint32_t load = bits(h, 3U, 2U) << 6 | bits(h, 12U, 12U) << 5 | bits(h, 6U, 4U) << 2;
    switch (bits(h, 15U, 13U)) {
    case 0U:
        return i_type(rs2, rd, 1U, rd, OP_IMM);
    case 2U:
        return i_type(load, 2U, 2U, rd, OP_LOAD);
    case 4U:
        if (bits(h, 12U, 12U) == 0U) {
            return rs2 == 0U ? i_type(0U, rd, 0U, 0U, OP_JALR) : r_type(0U, rs2, 0U, 0U, rd);
        }
        if (rs2 != 0U) {
            return r_type(0U, rs2, rd, 0U, rd);
        }
        return rd == 0U ? EBREAK : i_type(0U, rd, 0U, 1U, OP_JALR);
    case 6U:
        return store_word(bits(h, 8U, 7U) << 6 | bits(h, 12U, 9U) << 2, rs2, 2U);
    default:
        return 0U;
    }
}

uint32_t expand_compressed(uint16_t half) {
    switch (half & 3U) {
    case 0U:
        return quadrant0(half);
    case 1U:
        return quadrant1(half);
    default:
        return quadrant2(half);
    }
}

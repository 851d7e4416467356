/* RV32IM and Zicsr, and the fetch with hardware loops. */
#include "core.h"

#include <stdio.h>
#include <stdlib.h>

/* Extra cycles of a cluster core, measured on the SoC's functional and timing simulator. */
enum { TAKEN_BRANCH = 2, JUMP = 1, MULTIPLY = 1, MULTIPLY_HIGH = 4, DIVIDE = 34, LOAD_USE = 1 };

_Noreturn void core_fault(const core *c, const char *what, uint32_t value) {
    if (c->fault != NULL) {
        c->fault(c, what, value);
    }
    (void)fprintf(stderr, "%s: 0x%08x at pc 0x%08x\n", what, (unsigned)value, (unsigned)c->pc);
    exit(98);
}

static const core_memory *find_memory(const core *c, uint32_t address, uint32_t size) {
    for (uint32_t i = 0U; i < c->memory_count; i++) {
        const core_memory *const m = &c->memories[i];
        if (address >= m->base && size <= m->size && address - m->base <= m->size - size) {
            return m;
        }
    }
    return NULL;
}

uint8_t *core_bytes(const core *c, uint32_t address, uint32_t size) {
    const core_memory *const m = find_memory(c, address, size);
    if (m == NULL) {
        core_fault(c, "access outside the memory", address);
    }
    return m->bytes + (address - m->base);
}

uint32_t core_load(core *c, uint32_t address, uint32_t size) {
    uint32_t value = 0U;
    if (c->device_load != NULL && find_memory(c, address, size) == NULL) {
        return c->device_load(c, address);
    }
    const uint8_t *const p = core_bytes(c, address, size);
    for (uint32_t i = 0U; i < size; i++) {
        value |= (uint32_t)p[i] << (8U * i);
    }
    return value;
}

void core_store(core *c, uint32_t address, uint32_t value, uint32_t size) {
    if (c->device_store != NULL && find_memory(c, address, size) == NULL) {
        c->device_store(c, address, value);
        return;
    }
    uint8_t *const p = core_bytes(c, address, size);
    if (find_memory(c, address, size)->read_only) {
        core_fault(c, "store to what is only read", address);
    }
    for (uint32_t i = 0U; i < size; i++) {
        p[i] = (uint8_t)(value >> (8U * i));
    }
}

static uint32_t multiply(uint32_t f3, uint32_t a, uint32_t b) {
    const int64_t signed_a = (int32_t)a;
    const int64_t signed_b = (int32_t)b;
    switch (f3) {
    case 0U:
        return a * b;
    case 1U:
        return (uint32_t)((uint64_t)(signed_a * signed_b) >> 32);
    case 2U:
        return (uint32_t)((uint64_t)(signed_a * (int64_t)b) >> 32);
    case 3U:
        return (uint32_t)((uint64_t)a * b >> 32);
    case 4U:
        return b == 0U ? UINT32_MAX : (uint32_t)(signed_a / signed_b);
    case 5U:
        return b == 0U ? UINT32_MAX : a / b;
    case 6U:
        return b == 0U ? a : (uint32_t)(signed_a % signed_b);
    default:
        return b == 0U ? a : a % b;
    }
}

static uint32_t alu(uint32_t f3, uint32_t a, uint32_t b, bool alternative) {
    switch (f3) {
    case 0U:
        return alternative ? a - b : a + b;
    case 1U:
        return a << (b & 31U);
    case 2U:
        return (int32_t)a < (int32_t)b;
    case 3U:
        return a < b;
    case 4U:
        return a ^ b;
    case 5U:
        return alternative ? shift_right_signed(a, b & 31U) : a >> (b & 31U);
    case 6U:
        return a | b;
    default:
        return a & b;
    }
}

static bool branch_taken(core *c, const fields *f) {
    const uint32_t a = c->x[f->rs1];
    const uint32_t b = c->x[f->rs2];
    switch (f->f3) {
    case 0U:
        return a == b;
    case 1U:
        return a != b;
    case 4U:
        return (int32_t)a < (int32_t)b;
    case 5U:
        return (int32_t)a >= (int32_t)b;
    case 6U:
        return a < b;
    case 7U:
        return a >= b;
    default:
        core_fault(c, "unknown branch", f->word);
    }
}

static uint32_t branch_offset(uint32_t w) {
    return sign_extend(
        (w >> 31) << 12 | (w >> 7 & 1U) << 11 | (w >> 25 & 63U) << 5 | (w >> 8 & 15U) << 1, 13U);
}

static uint32_t jump_offset(uint32_t w) {
    return sign_extend((w >> 31) << 20 | (w >> 12 & 255U) << 12 | (w >> 20 & 1U) << 11 |
                           (w >> 21 & 1023U) << 1,
                       21U);
}

static void csr(core *c, const fields *f) {
    const uint32_t number = f->word >> 20;
    uint32_t value = 0U;
    switch (number) {
    case 0xB00U:
        value = (uint32_t)c->cycles;
        break;
    case 0xB80U:
        value = (uint32_t)(c->cycles >> 32);
        break;
    case 0xB02U:
        value = (uint32_t)c->instructions;
        break;
    case 0xB82U:
        value = (uint32_t)(c->instructions >> 32);
        break;
    case 0x305U:
        c->mtvec = f->f3 == 1U ? c->x[f->rs1] : c->mtvec;
        break;
    case 0xF14U:
        value = c->hart;
        break; /* mhartid */
    default:
        core_fault(c, "unknown control register", number);
    }
    c->x[f->rd] = value;
}

static void load(core *c, const fields *f) {
    const uint32_t size = 1U << (f->f3 & 3U);
    const uint32_t address = c->x[f->rs1] + sign_extend(f->word >> 20, 12U);
    if (f->f3 == 3U || f->f3 > 5U) {
        core_fault(c, "unknown load", f->word);
    }
    const uint32_t value = core_load(c, address, size);
    if (c->waiting) {
        return;
    }
    c->x[f->rd] = f->f3 < 2U ? sign_extend(value, 8U * size) : value;
}

/* Executes a base instruction; false when it is none. `next` is the address behind it. */
static bool execute_base(core *c, const fields *f, uint32_t *next) {
    const uint32_t a = c->x[f->rs1];
    const uint32_t imm = sign_extend(f->word >> 20, 12U);
    switch (f->opcode) {
    case 0x03U:
        if (f->f3 == 7U) {
            return false; /* XpulpV2 */
        }
        load(c, f);
        return true;
    case 0x0FU:
        return true; /* fence */
    case 0x13U:
        c->x[f->rd] = alu(f->f3, a, imm, f->f3 == 5U && f->f7 == 0x20U);
        return true;
    case 0x17U:
        c->x[f->rd] = c->pc + (f->word & 0xFFFFF000U);
        return true;
    case 0x23U:
        core_store(c, a + sign_extend(f->f7 << 5 | f->rd, 12U), c->x[f->rs2], 1U << f->f3);
        return true;
    case 0x33U:
        if (f->f7 == 1U) {
            c->x[f->rd] = multiply(f->f3, a, c->x[f->rs2]);
            c->cycles += f->f3 == 0U ? MULTIPLY : f->f3 < 4U ? MULTIPLY_HIGH : DIVIDE;
            return true;
        }
        if (f->f7 != 0U && f->f7 != 0x20U) {
            return false;
        }
        c->x[f->rd] = alu(f->f3, a, c->x[f->rs2], f->f7 == 0x20U);
        return true;
    case 0x37U:
        c->x[f->rd] = f->word & 0xFFFFF000U;
        return true;
    case 0x63U:
        if (branch_taken(c, f)) {
            *next = c->pc + branch_offset(f->word);
            c->cycles += TAKEN_BRANCH;
        }
        return true;
    case 0x67U:
        c->x[f->rd] = *next;
        *next = (a + imm) & ~1U;
        c->cycles += JUMP;
        return true;
    case 0x6FU:
        c->x[f->rd] = *next;
        *next = c->pc + jump_offset(f->word);
        c->cycles += JUMP;
        return true;
    case 0x73U:
        if (f->f3 == 0U) {
            core_fault(c, "environment call or breakpoint", f->word);
        }
        csr(c, f);
        return true;
    default:
        return false;
    }
}

/* Where a finished loop body goes on; the inner loop is number 0. */
static uint32_t behind(core *c, uint32_t next) {
    for (uint32_t i = 0U; i < 2U; i++) {
        hardware_loop *const loop = &c->loops[i];
        if (loop->count != 0U && c->pc == loop->end) {
            loop->count--;
            if (loop->count != 0U) {
                return loop->start;
            }
        }
    }
    return next;
}

void core_step(core *c) {
    uint32_t word = core_load(c, c->pc, 2U);
    uint32_t next = c->pc + 2U;
    if ((word & 3U) == 3U) {
        word |= core_load(c, c->pc + 2U, 2U) << 16;
        next = c->pc + 4U;
    } else {
        const uint32_t half = word;
        word = expand_compressed((uint16_t)half);
        if (word == 0U) {
            core_fault(c, "unknown instruction", half);
        }
    }
    const fields f = {word,
                      word & 0x7FU,
                      word >> 7 & 31U,
                      word >> 15 & 31U,
                      word >> 20 & 31U,
                      word >> 12 & 7U,
                      word >> 25};
    if (!execute_base(c, &f, &next) && !execute_xpulp(c, &f)) {
        core_fault(c, "unknown instruction", word);
    }
    if (c->waiting) { /* the same load again, when the device lets it go on */
        return;
    }
    c->x[0] = 0U;
    c->instructions++;
    c->cycles++;
    c->pc = behind(c, next);
}

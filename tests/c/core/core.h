/* A cluster core as the tests need it: RV32IMC, Zicsr and the XpulpV2 instructions that the runtime
 * emits. It executes one ELF file with the host-target interface of the rv32 port.
 *
 * Anything else is refused: an instruction that is not in the list below must not pass a test. */
#ifndef TESTS_CORE_H
#define TESTS_CORE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct hardware_loop {
    uint32_t start;
    uint32_t end; /* address of the last instruction */
    uint32_t count;
} hardware_loop;

typedef struct core {
    uint32_t x[32];
    uint32_t pc;
    hardware_loop loops[2];
    uint64_t instructions;
    uint64_t cycles; /* instructions and the extra cycles measured for a cluster core */
    uint32_t mtvec;
    uint8_t *memory; /* of `size` bytes at `base` */
    uint32_t base;
    uint32_t size;
} core;

/* One decoded 32-bit instruction's fields. */
typedef struct fields {
    uint32_t word, opcode, rd, rs1, rs2, f3, f7;
} fields;

/* Ends the program with a message and the address of the instruction. */
_Noreturn void core_fault(const core *c, const char *what, uint32_t value);

/* `size` is 1, 2 or 4; faults outside the memory. */
uint32_t core_load(core *c, uint32_t address, uint32_t size);
void core_store(core *c, uint32_t address, uint32_t value, uint32_t size);

/* The 32-bit form of a compressed instruction; 0 when it is none of RV32C without floats. */
uint32_t expand_compressed(uint16_t half);

/* Executes an XpulpV2 instruction; false when it is none. */
bool execute_xpulp(core *c, const fields *f);

static inline uint32_t sign_extend(uint32_t value, uint32_t bits) {
    const uint32_t sign = 1U << (bits - 1U);
    return ((value & (sign | (sign - 1U))) ^ sign) - sign;
}

static inline uint32_t shift_right_signed(uint32_t value, uint32_t n) {
    return n == 0U ? value : (value >> n) | ((value >> 31) != 0U ? ~(UINT32_MAX >> n) : 0U);
}

#endif

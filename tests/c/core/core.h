/* A cluster core as the tests need it: RV32IMC, Zicsr and the XpulpV2 instructions that the runtime
 * emits. main.c makes it a program for the ELF files of the rv32 port, ../soc a chip.
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

typedef struct core_memory {
    uint32_t base;
    uint32_t size;
    uint8_t *bytes;
    bool read_only;
} core_memory;

typedef struct core {
    uint32_t x[32];
    uint32_t pc;
    hardware_loop loops[2];
    uint64_t instructions;
    uint64_t cycles; /* instructions and the extra cycles measured for a cluster core */
    uint32_t mtvec;
    const core_memory *memories;
    uint32_t memory_count;
    /* What lies outside the memories, null when that is an error. A load of a device may set
     * `waiting`: the instruction is then not complete, and core_step repeats it. */
    uint32_t (*device_load)(struct core *c, uint32_t address);
    void (*device_store)(struct core *c, uint32_t address, uint32_t value);
    bool waiting;
    uint32_t hart;
    /* Told of a fault instead of the end of the program, when not null; does not return. */
    void (*fault)(const struct core *c, const char *what, uint32_t value);
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

/* The bytes behind an address range; faults outside the memories. */
uint8_t *core_bytes(const core *c, uint32_t address, uint32_t size);

/* Executes one instruction. */
void core_step(core *c);

/* Content of a file; null when it cannot be read. The caller frees it. */
uint8_t *elf_read(const char *path);

/* Copies the loadable segments and sets pc to the entry. */
void elf_load(core *c, const uint8_t *elf);

/* Value of a symbol; 0 when there is none. */
uint32_t elf_symbol(const uint8_t *elf, const char *name);

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

/* The model of a core as a shared library: a team runs one function of a program on arrays of the
 * caller. Each array is a memory of its own between unmapped addresses, so that an access beside it
 * is a fault, and so is a store to an array that is only read. */
#include "core/core.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_MEMORIES = 64, MAX_TEAM = 16, ARGUMENT_REGISTERS = 8, RETURN_ADDRESS = 0x100 };
#define RAM_BASE 0x80000000U
#define RAM_SIZE (16U << 20)
#define STACK_SIZE 0x10000U
#define ARRAYS_BASE 0x20000000U
#define GAP 256U

int library_open(const char *path);
uint32_t library_symbol(const char *name);
void library_clear(void);
uint32_t library_map(uint8_t *bytes, uint32_t size, int read_only);
const char *library_call(uint32_t function, uint32_t cores, const uint32_t *workers,
                         const uint32_t *arguments, uint32_t count);

static core_memory memories[MAX_MEMORIES];
static uint32_t memory_count;
static uint32_t next_address;
static uint8_t *elf;
static uint32_t barrier;
static jmp_buf caller;
static char message[128];

static void report(const core *c, const char *what, uint32_t value) {
    (void)snprintf(message, sizeof message, "%s: 0x%08x at pc 0x%08x", what, (unsigned)value,
                   (unsigned)c->pc);
    longjmp(caller, 1);
}

void library_clear(void) {
    memory_count = 1U;
    next_address = ARRAYS_BASE;
}

/* Loads a program; 0 when it cannot be read or has no barrier. */
int library_open(const char *path) {
    core c = {.memories = memories, .memory_count = 1U};
    memories[0] = (core_memory){RAM_BASE, RAM_SIZE, calloc(RAM_SIZE, 1U), false};
    elf = elf_read(path);
    if (elf == NULL || memories[0].bytes == NULL) {
        return 0;
    }
    library_clear();
    elf_load(&c, elf);
    barrier = elf_symbol(elf, "edgec_barrier");
    return barrier != 0U;
}

uint32_t library_symbol(const char *name) {
    return elf_symbol(elf, name);
}

/* Address of `size` bytes of the caller, aligned as there; 0 when there is no room. */
uint32_t library_map(uint8_t *bytes, uint32_t size, int read_only) {
    if (memory_count == MAX_MEMORIES) {
        return 0U;
    }
    const uint32_t address = next_address + (uint32_t)((uintptr_t)bytes & 63U);
    memories[memory_count++] = (core_memory){address, size, bytes, read_only != 0};
    next_address = (address + size + GAP + 63U) & ~63U;
    return address;
}

static void begin(core *c, uint32_t id, uint32_t function, uint32_t worker,
                  const uint32_t *arguments, uint32_t count) {
    uint32_t stack = RAM_BASE + RAM_SIZE - STACK_SIZE * id;
    const uint32_t words = count + 1U; /* the worker comes first */
    const uint32_t outside = words > ARGUMENT_REGISTERS ? words - ARGUMENT_REGISTERS : 0U;
    memset(c, 0, sizeof *c);
    c->memories = memories;
    c->memory_count = memory_count;
    c->fault = report;
    c->hart = id;
    c->pc = function;
    stack -= (4U * outside + 15U) & ~15U;
    c->x[1] = RETURN_ADDRESS;
    c->x[2] = stack;
    c->x[10] = worker;
    for (uint32_t i = 0U; i < count; i++) {
        if (i + 1U < ARGUMENT_REGISTERS) {
            c->x[11U + i] = arguments[i];
        } else {
            core_store(c, stack + 4U * (i + 1U - ARGUMENT_REGISTERS), arguments[i], 4U);
        }
    }
}

/* Runs `function(worker, arguments...)` on every core, one instruction of each in turn. Null when
 * all have returned, else what went wrong. */
const char *library_call(uint32_t function, uint32_t cores, const uint32_t *workers,
                         const uint32_t *arguments, uint32_t count) {
    static core team[MAX_TEAM];
    if (setjmp(caller) != 0) {
        return message;
    }
    for (uint32_t id = 0U; id < cores; id++) {
        begin(&team[id], id, function, workers[id], arguments, count);
    }
    for (;;) {
        uint32_t finished = 0U;
        uint32_t waiting = 0U;
        for (uint32_t id = 0U; id < cores; id++) {
            if (team[id].pc == RETURN_ADDRESS) {
                finished++;
            } else if (team[id].pc == barrier) {
                waiting++;
            } else {
                core_step(&team[id]);
            }
        }
        if (finished == cores) {
            return NULL;
        }
        if (waiting != 0U && waiting + finished == cores) {
            if (finished != 0U) {
                return "a core waits for one that has returned";
            }
            for (uint32_t id = 0U; id < cores; id++) {
                team[id].pc = team[id].x[1];
            }
        }
    }
}

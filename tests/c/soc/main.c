/* soc ELF: boots the controller at the program's entry and runs until it asks for its end; exit
 * code: its own. Cores take turns, one instruction each.
 *
 * soc ELF FUNCTION FILE: writes to FILE the addresses, in lines of 16 bytes, of what cores executed
 * between the calls of the function at this address and its returns, and beside core 0 the core
 * that has no part in it. */
#include "../../../templates/runtime/port/siracusa/edgec_siracusa.h"
#include "soc.h"

#include <stdio.h>
#include <stdlib.h>

enum { NEVER_WRITTEN = 0x5A };

soc chip;

static core_memory memories[] = {
    {SIRACUSA_L1_BASE, SIRACUSA_L1_SIZE, NULL, false},
    {0x10400000U, 4U << 20, NULL, true},  /* MRAM, which no core writes */
    {0x10800000U, 4U << 20, NULL, false}, /* tile SRAM */
    {0x1C000000U, 2U << 20, NULL, false}, /* L2 */
};

static uint32_t device_load(core *c, uint32_t address) {
    if (c->hart < SOC_CORES && address - SIRACUSA_EVENT_UNIT < 0x400U) {
        return event_load(c, address - SIRACUSA_EVENT_UNIT);
    }
    if (c->hart < SOC_CORES && address - SIRACUSA_DMA < 0x400U) {
        return dma_load(c, address - SIRACUSA_DMA);
    }
    if (address - SIRACUSA_ENGINE < 0x400U) {
        return engine_load(c, address - SIRACUSA_ENGINE);
    }
    core_fault(c, "load from where nothing is", address);
}

static void control(core *c, uint32_t offset, uint32_t value) {
    if (offset == SIRACUSA_FETCH_ENABLE) {
        chip.fetch = value;
        for (uint32_t id = 0U; id < SOC_CORES; id++) {
            chip.cores[id].pc = chip.boot[id];
        }
    } else if (offset >= SIRACUSA_BOOT_ADDRESS && offset < SIRACUSA_BOOT_ADDRESS + 4U * SOC_CORES &&
               value % 256U == 0U) {
        chip.boot[(offset - SIRACUSA_BOOT_ADDRESS) / 4U] = value;
    } else if (offset != SIRACUSA_ENGINE_CONTROL) {
        core_fault(c, "store to the cluster's control", offset);
    }
}

static void device_store(core *c, uint32_t address, uint32_t value) {
    if (c->hart < SOC_CORES && address - SIRACUSA_EVENT_UNIT < 0x400U) {
        event_store(c, address - SIRACUSA_EVENT_UNIT, value);
    } else if (c->hart < SOC_CORES && address - SIRACUSA_DMA < 0x400U) {
        dma_store(c, address - SIRACUSA_DMA, value);
    } else if (address - SIRACUSA_CLUSTER_CONTROL < 0x400U) {
        control(c, address - SIRACUSA_CLUSTER_CONTROL, value);
    } else if (address - SIRACUSA_ENGINE < 0x400U) {
        engine_store(c, address - SIRACUSA_ENGINE, value);
    } else if (address - SIRACUSA_STDOUT < 0x1000U) {
        (void)putchar((int)(value & 255U));
    } else if (address == SIRACUSA_EXIT && value >> 31 != 0U) {
        chip.code = (int)(value & 0x7FFFFFFFU);
    } else if (address != SIRACUSA_ICACHE_ENABLE) {
        core_fault(c, "store to where nothing is", address);
    }
}

static bool prepare(void) {
    for (uint32_t i = 0U; i < sizeof memories / sizeof memories[0]; i++) {
        memories[i].bytes = malloc(memories[i].size);
        if (memories[i].bytes == NULL) {
            return false;
        }
        for (uint32_t k = 0U; k < memories[i].size; k++) {
            memories[i].bytes[k] = NEVER_WRITTEN;
        }
    }
    for (uint32_t id = 0U; id <= SOC_CORES; id++) {
        core *const c = &chip.cores[id];
        c->memories = memories;
        c->memory_count = sizeof memories / sizeof memories[0];
        c->device_load = device_load;
        c->device_store = device_store;
        c->hart = id < SOC_CORES ? id : SIRACUSA_CONTROLLER_CLUSTER << 5;
    }
    return true;
}

#define LINES ((2U << 20) / 16U) /* of L2 */

static uint32_t watched;              /* 0: nothing */
static uint32_t back[SOC_CORES + 1U]; /* where it returns to; 0: it does not run */
static bool executed[LINES];

static void run(core *c, uint32_t id) {
    const uint32_t pc = c->pc;
    if (pc == watched) {
        back[id] = c->x[1];
    } else if (pc == back[id]) {
        back[id] = 0U;
    }
    /* A core that waits for an event repeats its load: it costs nothing when there is none. */
    c->waiting = false;
    core_step(c);
    const bool beside = id == SOC_CORES - 1U && back[0] != 0U && !c->waiting;
    if (watched != 0U && (back[id] != 0U || beside) && (pc - memories[3].base) / 16U < LINES) {
        executed[(pc - memories[3].base) / 16U] = true;
    }
}

static bool write_executed(const char *path) {
    FILE *const file = fopen(path, "w");
    if (file == NULL) {
        return false;
    }
    for (uint32_t line = 0U; line < LINES; line++) {
        if (executed[line]) {
            (void)fprintf(file, "%x\n", (unsigned)(memories[3].base + 16U * line));
        }
    }
    return fclose(file) == 0;
}

int main(int argc, char **argv) {
    uint8_t *const elf = argc == 2 || argc == 4 ? elf_read(argv[1]) : NULL;
    if (elf == NULL || !prepare()) {
        (void)fprintf(stderr, "usage: soc ELF [FUNCTION FILE]\n");
        return 97;
    }
    watched = argc == 4 ? (uint32_t)strtoul(argv[2], NULL, 0) : 0U;
    elf_load(&chip.cores[SOC_CORES], elf);
    free(elf);
    chip.accelerator.acquired = 2U;
    chip.code = -1;
    while (chip.code < 0) {
        for (uint32_t id = 0U; id < SOC_CORES; id++) {
            if ((chip.fetch >> id & 1U) != 0U) {
                run(&chip.cores[id], id);
            }
        }
        run(&chip.cores[SOC_CORES], SOC_CORES);
    }
    if (argc == 4 && !write_executed(argv[3])) {
        return 97;
    }
    for (uint32_t i = 0U; i < sizeof memories / sizeof memories[0]; i++) {
        free(memories[i].bytes);
    }
    return chip.code;
}

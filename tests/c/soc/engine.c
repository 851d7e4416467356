/* The register file of N-EUREKA; what a job computes is the runtime's own model of it. */
#include "../../../templates/runtime/port/siracusa/edgec_siracusa.h"
#include "edgec_neureka_model.h"
#include "soc.h"

#include <string.h>

enum { WEIGHT_BASE = 0x10400000, LATE = 2, NONE = 2 };

static void run_oldest(core *c) {
    engine *const e = &chip.accelerator;
    edgec_engine_window windows[3];
    uint32_t count = 0U;
    for (uint32_t i = 0U; i < c->memory_count; i++) {
        const core_memory *const m = &c->memories[i];
        const bool l1 = m->base == SIRACUSA_L1_BASE;
        if (l1 || (m->base >= WEIGHT_BASE && m->base < 0x1A000000U)) {
            const edgec_engine_window window = {m->base, m->size, m->bytes, l1 ? m->bytes : NULL};
            windows[count++] = window;
        }
    }
    if (edgec_neureka_model(e->registers[e->oldest], WEIGHT_BASE, windows, count) !=
        EDGEC_NEUREKA_OK) {
        core_fault(c, "a job that the engine does not define", e->registers[e->oldest][23]);
    }
    e->queued[e->oldest] = false;
    e->oldest ^= 1U;
    e->patience = LATE;
    for (uint32_t id = 0U; id < SOC_CORES; id++) {
        chip.events.pending[id] |= 1U << SIRACUSA_ENGINE_EVENT;
    }
}

void engine_passes(core *c) {
    engine *const e = &chip.accelerator;
    if (e->queued[e->oldest] && e->patience-- == 0U) {
        run_oldest(c);
    }
}

uint32_t engine_load(core *c, uint32_t offset) {
    engine *const e = &chip.accelerator;
    if (offset == SIRACUSA_ENGINE_ACQUIRE) {
        if (e->queued[e->next] || e->acquired != NONE) {
            return UINT32_MAX;
        }
        e->acquired = e->next;
        e->next ^= 1U;
        return e->acquired;
    }
    if (offset != SIRACUSA_ENGINE_STATUS) {
        core_fault(c, "load from the engine", offset);
    }
    engine_passes(c);
    return (e->queued[0] || e->acquired == 0U ? 1U : 0U) |
           (e->queued[1] || e->acquired == 1U ? 0x100U : 0U);
}

void engine_store(core *c, uint32_t offset, uint32_t value) {
    engine *const e = &chip.accelerator;
    if (offset == SIRACUSA_ENGINE_CLEAR) {
        memset(e, 0, sizeof *e);
        e->acquired = NONE;
        e->patience = LATE;
        return;
    }
    if (e->acquired == NONE) {
        core_fault(c, "store to the engine without a context", offset);
    }
    if (offset == SIRACUSA_ENGINE_COMMIT && value == 0U) {
        e->queued[e->acquired] = true;
        e->acquired = NONE;
    } else if (offset >= SIRACUSA_ENGINE_REGISTERS &&
               offset < SIRACUSA_ENGINE_REGISTERS + 4U * 24U) {
        e->registers[e->acquired][(offset - SIRACUSA_ENGINE_REGISTERS) / 4U] = value;
    } else {
        core_fault(c, "store to the engine", offset);
    }
}

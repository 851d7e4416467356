/* Event unit and DMA of the cluster. */
#include "../../../templates/runtime/port/siracusa/edgec_siracusa.h"
#include "soc.h"

#include <string.h>

enum { LATE = 3 }; /* polls that see a transfer under way */
enum { BARRIER_SIZE = SIRACUSA_FEEDER_BARRIER - SIRACUSA_BARRIER };

static uint32_t barrier_at(uint32_t offset) {
    return offset >= SIRACUSA_READY_BARRIER ? 2U : offset >= SIRACUSA_FEEDER_BARRIER ? 1U : 0U;
}

/* The load returns when an event of the core's mask is pending, and clears what it saw. */
static uint32_t wait_and_clear(core *c) {
    const uint32_t events = chip.events.pending[c->hart] & chip.events.mask[c->hart];
    if (events == 0U) {
        if ((chip.events.mask[c->hart] >> SIRACUSA_ENGINE_EVENT & 1U) != 0U) {
            engine_passes(c);
        }
        c->waiting = true;
        return 0U;
    }
    chip.events.pending[c->hart] &= ~events;
    return events;
}

/* A core that arrives twice, before it has been woken, counts once. */
static void arrive(core *c, uint32_t which) {
    event_unit *const e = &chip.events;
    const uint32_t event = 1U << SIRACUSA_BARRIER_EVENT, own = 1U << c->hart;
    if ((e->barriers[which].triggers & own) == 0U) {
        core_fault(c, "a core that does not belong to the barrier", c->hart);
    }
    const bool woken = (e->barriers[which].targets & own) != 0U && e->pending[c->hart] & event;
    e->barriers[which].arrived |= woken ? 0U : own;
    if (e->barriers[which].arrived == e->barriers[which].triggers) {
        e->barriers[which].arrived = 0U;
        for (uint32_t id = 0U; id < SOC_CORES; id++) {
            e->pending[id] |= (e->barriers[which].targets >> id & 1U) != 0U ? event : 0U;
        }
    }
}

uint32_t event_load(core *c, uint32_t offset) {
    const uint32_t which = barrier_at(offset);
    const uint32_t of_barrier = offset - (SIRACUSA_BARRIER + which * BARRIER_SIZE);
    if (offset == SIRACUSA_EVENT_WAIT_CLEAR) {
        return wait_and_clear(c);
    }
    if (of_barrier == SIRACUSA_BARRIER_WAIT_CLEAR) {
        if ((chip.events.mask[c->hart] >> SIRACUSA_BARRIER_EVENT & 1U) == 0U) {
            core_fault(c, "a core that nothing wakes from the barrier", c->hart);
        }
        arrive(c, which);
        return wait_and_clear(c);
    }
    if (of_barrier == SIRACUSA_BARRIER_ARRIVE) {
        arrive(c, which);
        return 0U;
    }
    core_fault(c, "load from the event unit", offset);
}

void event_store(core *c, uint32_t offset, uint32_t value) {
    event_unit *const e = &chip.events;
    const uint32_t which = barrier_at(offset);
    const uint32_t of_barrier = offset - (SIRACUSA_BARRIER + which * BARRIER_SIZE);
    if (offset == SIRACUSA_EVENT_MASK) {
        e->mask[c->hart] = value;
    } else if (offset == SIRACUSA_EVENT_CLEAR) {
        e->pending[c->hart] &= ~value;
    } else if (of_barrier == SIRACUSA_BARRIER_TRIGGERS) {
        e->barriers[which].triggers = value;
    } else if (of_barrier == SIRACUSA_BARRIER_TARGETS) {
        if (e->barriers[which].triggers == 0U) {
            core_fault(c, "targets of a barrier before its triggers", value);
        }
        e->barriers[which].targets = value;
    } else {
        core_fault(c, "store to the event unit", offset);
    }
}

/* The status: transfers become complete by being asked for. */
static uint32_t poll(core *c) {
    uint32_t status = 0U;
    for (uint32_t id = 0U; id < 16U; id++) {
        transfer *const t = &chip.transfers[id];
        if (t->pending && t->patience-- == 0U) {
            memcpy(core_bytes(c, t->to, t->size), core_bytes(c, t->from, t->size), t->size);
            t->pending = false;
        }
        status |= t->pending ? 1U << id : 0U;
    }
    return status;
}

uint32_t dma_load(core *c, uint32_t offset) {
    if (offset == SIRACUSA_DMA_STATUS) {
        return poll(c);
    }
    for (uint32_t id = 0U; offset == 0U && id < 16U; id++) {
        if (!chip.transfers[id].taken) {
            chip.transfers[id].taken = true;
            chip.words[c->hart] = 0U;
            return id;
        }
    }
    core_fault(c, "load from the DMA", offset);
}

static bool inside_l1(uint32_t address, uint32_t size) {
    return address >= SIRACUSA_L1_BASE && address - SIRACUSA_L1_BASE + size <= SIRACUSA_L1_SIZE;
}

/* Until a transfer is complete, its destination holds a pattern. */
static void start(core *c) {
    const uint32_t *const w = chip.written[c->hart];
    const uint32_t size = w[0] & 0x1FFFFU;
    const bool inward = (w[0] & SIRACUSA_DMA_TO_L1) != 0U;
    if (size == 0U || !inside_l1(w[1], size) || inside_l1(w[2], size) ||
        (w[0] & SIRACUSA_DMA_LINEAR) == 0U) {
        core_fault(c, "a transfer that the DMA cannot do", w[0]);
    }
    for (uint32_t id = 0U; id < 16U; id++) {
        transfer *const t = &chip.transfers[id];
        if (t->taken && t->size == 0U) {
            t->pending = true;
            t->patience = LATE;
            t->size = size;
            t->to = inward ? w[1] : w[2];
            t->from = inward ? w[2] : w[1];
            memset(core_bytes(c, t->to, size), 0xA5, size);
            return;
        }
    }
    core_fault(c, "a transfer without an id", w[0]);
}

void dma_store(core *c, uint32_t offset, uint32_t value) {
    if (offset == SIRACUSA_DMA_STATUS) {
        for (uint32_t id = 0U; id < 16U; id++) {
            if ((value >> id & 1U) != 0U) {
                if (!chip.transfers[id].taken || chip.transfers[id].pending) {
                    core_fault(c, "an id that is not free to go", value);
                }
                memset(&chip.transfers[id], 0, sizeof chip.transfers[id]);
            }
        }
        return;
    }
    if (offset != 0U) {
        core_fault(c, "store to the DMA", offset);
    }
    chip.written[c->hart][chip.words[c->hart]++] = value;
    if (chip.words[c->hart] == 3U) {
        chip.words[c->hart] = 0U;
        start(c);
    }
}

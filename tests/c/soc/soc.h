/* Siracusa as far as the bare-metal port uses it: nine cluster cores and the controller, memories,
 * event unit, DMA, N-EUREKA, output and end. Devices are late on purpose, and refuse what the port
 * must not do. It knows no cycles. Addresses are those of the port's own header: this model cannot
 * tell whether they are right, the SoC's simulator could. */
#ifndef TESTS_SOC_H
#define TESTS_SOC_H

#include "../core/core.h"

#define SOC_CORES 9U

/* One transfer of mchan. */
typedef struct transfer {
    bool taken;
    bool pending;
    uint32_t patience; /* polls until it is complete */
    uint32_t to;
    uint32_t from;
    uint32_t size;
} transfer;

typedef struct event_unit {
    uint32_t mask[SOC_CORES];
    uint32_t pending[SOC_CORES];
    struct {
        uint32_t arrived; /* one bit per core */
        uint32_t triggers;
        uint32_t targets;
    } barriers[3];
} event_unit;

/* The register file of N-EUREKA: two contexts, used by turns. */
typedef struct engine {
    uint32_t registers[2][24];
    bool queued[2];
    uint32_t acquired; /* the context that registers go to, which is busy then; 2: none */
    uint32_t next;     /* the one that the next job gets */
    uint32_t oldest;
    uint32_t patience;
} engine;

typedef struct soc {
    core cores[SOC_CORES + 1U]; /* the controller is last */
    uint32_t boot[SOC_CORES];
    uint32_t fetch;
    event_unit events;
    transfer transfers[16];
    uint32_t written[SOC_CORES][3]; /* words of a transfer that is being programmed */
    uint32_t words[SOC_CORES];
    engine accelerator;
    int code; /* of the end; -1: not yet */
} soc;

/* The one chip. */
extern soc chip;

uint32_t event_load(core *c, uint32_t offset);
void event_store(core *c, uint32_t offset, uint32_t value);
uint32_t dma_load(core *c, uint32_t offset);
void dma_store(core *c, uint32_t offset, uint32_t value);
uint32_t engine_load(core *c, uint32_t offset);
void engine_store(core *c, uint32_t offset, uint32_t value);
void engine_passes(core *c); /* time, for a core that polls or sleeps until a job is done */

#endif

/* The engine itself: a job's 24 registers go to the context that it offers. */
#include "edgec_port.h"
#include "edgec_siracusa.h"

static volatile uint32_t *at(uint32_t address) {
    return (volatile uint32_t *)(uintptr_t)address;
}

static int awake;
/* Jobs take the two contexts by turns, beginning with 0 after a clear. */
static uint32_t waited;

/* Its clock is gated after reset, and what ran before may have left jobs. */
static void wake_engine(void) {
    volatile uint32_t *const control = at(SIRACUSA_CLUSTER_CONTROL + SIRACUSA_ENGINE_CONTROL);
    *control = SIRACUSA_ENGINE_CLOCK | SIRACUSA_ENGINE_MAX_STALL;
    *at(SIRACUSA_ENGINE + SIRACUSA_ENGINE_CLEAR) = 0U;
    for (uint32_t i = 0U; i < SIRACUSA_ENGINE_CLEAR_READS; i++) {
        (void)*at(SIRACUSA_ENGINE + SIRACUSA_ENGINE_STATUS);
    }
    waited = 0U;
    awake = 1;
}

void edgec_engine_prepare(edgec_engine_job *job) {
    if (!awake) {
        wake_engine();
    }
    while ((int32_t)*at(SIRACUSA_ENGINE + SIRACUSA_ENGINE_ACQUIRE) < 0) {
    }
    volatile uint32_t *const to = at(SIRACUSA_ENGINE + SIRACUSA_ENGINE_REGISTERS);
    const uint32_t *const from = job->registers;
    for (uint32_t i = 0U; i < EDGEC_ENGINE_REGISTERS; i += 4U) { /* loads before stores */
        const uint32_t words[4] = {from[i], from[i + 1U], from[i + 2U], from[i + 3U]};
        to[i] = words[0];
        to[i + 1U] = words[1];
        to[i + 2U] = words[2];
        to[i + 3U] = words[3];
    }
    to[0] = from[0] + job->words;
}

/* The context that was acquired last is committed. */
void edgec_engine_start(edgec_engine_job *job) {
    (void)job;
    __asm__ volatile("" ::: "memory");
    *at(SIRACUSA_ENGINE + SIRACUSA_ENGINE_COMMIT) = 0U;
}

/* Polls: the done events of two chained jobs may merge, the status does not. */
void edgec_engine_wait(edgec_engine_job *job) {
    (void)job;
    const uint32_t context = waited++ & 1U;
    while ((*at(SIRACUSA_ENGINE + SIRACUSA_ENGINE_STATUS) >> (8U * context) & 1U) != 0U) {
    }
    __asm__ volatile("" ::: "memory");
}

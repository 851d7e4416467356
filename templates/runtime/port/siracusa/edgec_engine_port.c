/* The engine itself: a job's 24 registers go to the context that it offers. */
#include "edgec_port.h"
#include "edgec_siracusa.h"

static volatile uint32_t *at(uint32_t offset) {
    return (volatile uint32_t *)(uintptr_t)(SIRACUSA_ENGINE + offset);
}

/* Jobs take the two contexts by turns. */
static uint32_t waited;

void edgec_engine_start(edgec_engine_job *job) {
    while ((int32_t)*at(SIRACUSA_ENGINE_ACQUIRE) < 0) {
    }
    for (uint32_t i = 0U; i < EDGEC_ENGINE_REGISTERS; i++) {
        *at(SIRACUSA_ENGINE_REGISTERS + 4U * i) = job->registers[i];
    }
    __asm__ volatile("" ::: "memory");
    *at(SIRACUSA_ENGINE_COMMIT) = 0U;
}

/* Polls: the done events of two chained jobs may merge, the status does not. */
void edgec_engine_wait(edgec_engine_job *job) {
    (void)job;
    const uint32_t context = waited++ & 1U;
    while ((*at(SIRACUSA_ENGINE_STATUS) >> (8U * context) & 1U) != 0U) {
    }
    __asm__ volatile("" ::: "memory");
}

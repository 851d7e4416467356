/* The engine itself: a job's 24 registers go to the context that it offers.
 *
 * With EDGEC_FEEDER=1 the control core writes them, beside whatever the workers do: core 0 leaves
 * it a note of the job, and another one when the job may begin. Else core 0 does it by itself. */
#include "edgec_math.h"
#include "edgec_port.h"
#include "edgec_siracusa.h"

#ifdef EDGEC_SECTION_TABLES
#define NEAR __attribute__((section(EDGEC_SECTION_TABLES)))
#else
#define NEAR
#endif

static volatile uint32_t *at(uint32_t address) {
    return (volatile uint32_t *)(uintptr_t)address;
}

/* Its clock is gated after reset, and what ran before may have left jobs. */
static void wake_engine(void) {
    volatile uint32_t *const control = at(SIRACUSA_CLUSTER_CONTROL + SIRACUSA_ENGINE_CONTROL);
    *control = SIRACUSA_ENGINE_CLOCK | SIRACUSA_ENGINE_MAX_STALL;
    *at(SIRACUSA_ENGINE + SIRACUSA_ENGINE_CLEAR) = 0U;
    for (uint32_t i = 0U; i < SIRACUSA_ENGINE_CLEAR_READS; i++) {
        (void)*at(SIRACUSA_ENGINE + SIRACUSA_ENGINE_STATUS);
    }
}

static void write_registers(const uint32_t *from, uint32_t words) {
    while ((int32_t)*at(SIRACUSA_ENGINE + SIRACUSA_ENGINE_ACQUIRE) < 0) {
    }
    volatile uint32_t *const to = at(SIRACUSA_ENGINE + SIRACUSA_ENGINE_REGISTERS);
    for (uint32_t i = 0U; i < EDGEC_ENGINE_REGISTERS; i += 4U) { /* loads before stores */
        const uint32_t values[4] = {from[i], from[i + 1U], from[i + 2U], from[i + 3U]};
        to[i] = values[0];
        to[i + 1U] = values[1];
        to[i + 2U] = values[2];
        to[i + 3U] = values[3];
    }
    to[0] = from[0] + words;
}

/* The context that was acquired last is committed. */
static void commit(void) {
    __asm__ volatile("" ::: "memory");
    *at(SIRACUSA_ENGINE + SIRACUSA_ENGINE_COMMIT) = 0U;
}

/* Jobs so far, and notes of the newest ones. */
static volatile struct {
    const uint32_t *registers[EDGEC_ENGINE_QUEUE];
    uint32_t words[EDGEC_ENGINE_QUEUE];
    uint32_t prepared;
    uint32_t started;
    uint32_t committed;
    uint32_t waited;
} jobs NEAR = {{NULL}, {0U}, 0U, 0U, 0U, 0U};

#if EDGEC_FEEDER
void edgec_engine_feed(void);

static void wake_feeder(void) {
    (void)*at(SIRACUSA_EVENT_UNIT + SIRACUSA_FEEDER_BARRIER + SIRACUSA_BARRIER_ARRIVE);
}

static void sleep_until_woken(void) {
    (void)*at(SIRACUSA_EVENT_UNIT + SIRACUSA_EVENT_WAIT_CLEAR);
}

/* On the control core, for good. */
EDGEC_HOT void edgec_engine_feed(void) {
    volatile uint32_t *const barrier = at(SIRACUSA_EVENT_UNIT + SIRACUSA_FEEDER_BARRIER);
    barrier[SIRACUSA_BARRIER_TRIGGERS / 4U] = 1U;
    barrier[SIRACUSA_BARRIER_TARGETS / 4U] = 1U << SIRACUSA_WORKERS;
    *at(SIRACUSA_EVENT_UNIT + SIRACUSA_EVENT_MASK) = 1U << SIRACUSA_BARRIER_EVENT;
    for (uint32_t count = 0U;; count++) {
        while (jobs.prepared == count) {
            sleep_until_woken();
        }
        if (count == 0U) {
            wake_engine();
        }
        const uint32_t note = count % EDGEC_ENGINE_QUEUE;
        write_registers(jobs.registers[note], jobs.words[note]);
        while (jobs.started == count) {
            sleep_until_woken();
        }
        commit();
        jobs.committed = count + 1U;
    }
}

EDGEC_HOT void edgec_engine_prepare(edgec_engine_job *job) {
    const uint32_t count = jobs.prepared;
    jobs.registers[count % EDGEC_ENGINE_QUEUE] = job->registers;
    jobs.words[count % EDGEC_ENGINE_QUEUE] = job->words;
    jobs.prepared = count + 1U;
    wake_feeder();
}

EDGEC_HOT void edgec_engine_start(edgec_engine_job *job) {
    (void)job;
    __asm__ volatile("" ::: "memory");
    jobs.started++;
    wake_feeder();
}
#else
EDGEC_HOT void edgec_engine_prepare(edgec_engine_job *job) {
    if (jobs.prepared == 0U) {
        wake_engine();
    }
    jobs.prepared = 1U;
    write_registers(job->registers, job->words);
}

EDGEC_HOT void edgec_engine_start(edgec_engine_job *job) {
    (void)job;
    commit();
    jobs.committed++;
}
#endif

/* Polls: the done events of two chained jobs may merge, the status does not. Jobs take the two
 * contexts by turns, beginning with 0 after a clear. */
EDGEC_HOT void edgec_engine_wait(edgec_engine_job *job) {
    (void)job;
    const uint32_t count = jobs.waited;
    while (jobs.committed == count) {
    }
    jobs.waited = count + 1U;
    while ((*at(SIRACUSA_ENGINE + SIRACUSA_ENGINE_STATUS) >> (8U * (count & 1U)) & 1U) != 0U) {
    }
    __asm__ volatile("" ::: "memory");
}

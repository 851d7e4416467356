/* The engine itself: a job's 24 registers go to the context that it offers.
 *
 * With EDGEC_FEEDER=1 the control core writes them, beside whatever the workers do: core 0 sends it
 * a job, and a word when that may begin, or many that it starts whenever all workers are ready.
 * Else core 0 does it by itself. */
#include "edgec_math.h"
#include "edgec_port.h"
#include "edgec_siracusa.h"
#include "edgec_xpulp.h"
#if EDGEC_XPULP
#include "edgec_xpulp_asm.h"
#endif

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

/* What core 0 and the control core know of jobs; counts grow for good. */
static volatile struct {
    uint32_t committed;
    uint32_t done;                  /* so many are, or more */
    uint32_t met[SIRACUSA_WORKERS]; /* jobs that a worker has waited for */
#if EDGEC_FEEDER
    uint32_t sent;    /* messages */
    uint32_t settled; /* of these, with no event to follow */
    uint32_t started; /* jobs that came alone */
    struct {
        const edgec_engine_note *first;
        const edgec_engine_note *last;
        edgec_engine_note own; /* a job that comes alone */
    } messages[EDGEC_ENGINE_QUEUE];
#else
    uint32_t awake;
#endif
} jobs NEAR = {0};

/* Jobs take the two contexts by turns, beginning with 0 after a clear. */
static int is_busy(uint32_t count) {
    return (*at(SIRACUSA_ENGINE + SIRACUSA_ENGINE_STATUS) >> (8U * (count & 1U)) & 1U) != 0U;
}

/* The job of which `count` were committed before it. Its context is busy again when it is acquired
 * for the next but one: then `done` has been written. */
static int is_done(uint32_t count) {
    const int committed = edgec_signed(jobs.committed - count) > 0;
    return (committed && !is_busy(count)) || edgec_signed(jobs.done - count) > 0;
}

/* Returns how many were committed before it. */
EDGEC_INLINE uint32_t put_registers(const uint32_t *from, uint32_t words) {
    const uint32_t count = jobs.committed;
    while (is_busy(count)) {
    }
    jobs.done = count - 1U;
    while ((int32_t)*at(SIRACUSA_ENGINE + SIRACUSA_ENGINE_ACQUIRE) < 0) {
    }
    volatile uint32_t *const to = at(SIRACUSA_ENGINE + SIRACUSA_ENGINE_REGISTERS);
#if EDGEC_XPULP
    const uint32_t *read = from;
    volatile uint32_t *write = to;
    uint32_t a;
    uint32_t b;
    __asm__ volatile(EDGEC_X_LOOP(4, EDGEC_X_LWP(a, read, 4) EDGEC_X_LWP(b, read, 4)
                                         EDGEC_X_SWP(a, write, 4) EDGEC_X_SWP(b, write, 4))
                     : [a] "=&r"(a), [b] "=&r"(b), [read] "+r"(read), [write] "+r"(write)
                     : [n] "r"(EDGEC_ENGINE_REGISTERS / 2U)
                     : "memory");
#else
    for (uint32_t i = 0U; i < EDGEC_ENGINE_REGISTERS; i += 4U) { /* loads before stores */
        const uint32_t values[4] = {from[i], from[i + 1U], from[i + 2U], from[i + 3U]};
        to[i] = values[0];
        to[i + 1U] = values[1];
        to[i + 2U] = values[2];
        to[i + 3U] = values[3];
    }
#endif
    to[0] = from[0] + words;
    return count;
}

/* For jobs that come alone; those of blocks have a copy of their own. */
EDGEC_OUTLINE void write_registers(const uint32_t *from, uint32_t words) {
    (void)put_registers(from, words);
}

/* The context that was acquired last is committed; counted first, as a worker that the job's event
 * wakes must see it. */
static void commit(uint32_t count) {
    jobs.committed = count + 1U;
    __asm__ volatile("" ::: "memory");
    *at(SIRACUSA_ENGINE + SIRACUSA_ENGINE_COMMIT) = 0U;
}

#if EDGEC_FEEDER
void edgec_engine_feed(void);

static void wake_feeder(void) {
    (void)*at(SIRACUSA_EVENT_UNIT + SIRACUSA_FEEDER_BARRIER + SIRACUSA_BARRIER_ARRIVE);
}

static void sleep_until_woken(void) {
    (void)*at(SIRACUSA_EVENT_UNIT + SIRACUSA_EVENT_WAIT_CLEAR);
}

/* Jobs that were planned, one or more: what this core does beside a block. */
EDGEC_HOT_SMALL EDGEC_OUTLINE void feed_planned(const edgec_engine_note *note,
                                                const edgec_engine_note *last) {
    do {
        if (note->registers != NULL) {
            const uint32_t count = put_registers(note->registers, note->words);
            if (note->begins != 0U) {
                (void)*at(SIRACUSA_EVENT_UNIT + SIRACUSA_READY_BARRIER +
                          SIRACUSA_BARRIER_WAIT_CLEAR);
            }
            commit(count);
        }
        note++;
    } while (note != last);
}

EDGEC_HOT_SMALL void edgec_engine_go(void) {
    __asm__ volatile("" ::: "memory");
    (void)*at(SIRACUSA_EVENT_UNIT + SIRACUSA_READY_BARRIER + SIRACUSA_BARRIER_ARRIVE);
}

/* Events of two jobs may merge, hence the loop; an old one does no harm. */
EDGEC_HOT_SMALL void edgec_engine_meet(const edgec_worker *worker, uint32_t count) {
    const uint32_t met = jobs.met[worker->id] + count;
    jobs.met[worker->id] = met;
    while (!is_done(met - 1U)) {
        *at(SIRACUSA_EVENT_UNIT + SIRACUSA_EVENT_MASK) = 1U << SIRACUSA_ENGINE_EVENT;
        (void)*at(SIRACUSA_EVENT_UNIT + SIRACUSA_EVENT_WAIT_CLEAR);
        *at(SIRACUSA_EVENT_UNIT + SIRACUSA_EVENT_MASK) = 1U << SIRACUSA_BARRIER_EVENT;
    }
    __asm__ volatile("" ::: "memory");
}

/* A job that comes alone. */
static void feed_one(const volatile edgec_engine_note *note, uint32_t begun) {
    write_registers(note->registers, note->words);
    while (jobs.started == begun) {
        sleep_until_woken();
    }
    commit(jobs.committed);
}

/* On the control core, for good. */
void edgec_engine_feed(void) {
    *at(SIRACUSA_EVENT_UNIT + SIRACUSA_EVENT_MASK) = 1U << SIRACUSA_BARRIER_EVENT;
    uint32_t alone = 0U;
    for (uint32_t count = 0U;; count++) {
        while (jobs.sent == count) {
            sleep_until_woken();
        }
        if (count == 0U) {
            wake_engine();
        }
        const uint32_t message = count % EDGEC_ENGINE_QUEUE;
        const edgec_engine_note *const note = jobs.messages[message].first;
        if (note == &jobs.messages[message].own) {
            feed_one(note, alone++);
            continue;
        }
        while (jobs.settled != count + 1U) {
        }
        *at(SIRACUSA_EVENT_UNIT + SIRACUSA_EVENT_CLEAR) = 1U << SIRACUSA_BARRIER_EVENT;
        feed_planned(note, jobs.messages[message].last);
    }
}

void edgec_engine_prepare(edgec_engine_job *job) {
    const uint32_t message = jobs.sent % EDGEC_ENGINE_QUEUE;
    jobs.messages[message].own.registers = job->registers;
    jobs.messages[message].own.words = job->words;
    jobs.messages[message].first = (const edgec_engine_note *)&jobs.messages[message].own;
    jobs.sent++;
    wake_feeder();
}

void edgec_engine_start(edgec_engine_job *job) {
    (void)job;
    __asm__ volatile("" ::: "memory");
    jobs.started++;
    wake_feeder();
}

void edgec_engine_plan(const edgec_worker *worker, const edgec_engine_note *notes, uint32_t count) {
    if (worker->id != 0U) {
        jobs.met[worker->id] = jobs.met[0];
        return;
    }
    const uint32_t message = jobs.sent % EDGEC_ENGINE_QUEUE;
    jobs.messages[message].first = notes;
    jobs.messages[message].last = notes + count;
    jobs.sent++;
    wake_feeder();
    jobs.settled = jobs.sent;
}
#else
EDGEC_HOT void edgec_engine_prepare(edgec_engine_job *job) {
    if (jobs.awake == 0U) {
        wake_engine();
        jobs.awake = 1U;
    }
    write_registers(job->registers, job->words);
}

EDGEC_HOT void edgec_engine_start(edgec_engine_job *job) {
    (void)job;
    commit(jobs.committed);
}
#endif

/* Polls. */
EDGEC_HOT void edgec_engine_wait(edgec_engine_job *job) {
    (void)job;
    while (!is_done(jobs.met[0])) {
    }
    jobs.met[0]++;
    __asm__ volatile("" ::: "memory");
}

/* Jobs of fused ops: known in advance, so that register writes run ahead of the vectors. With a
 * core that feeds the engine, workers meet neither before a chain begins nor when it is done. */
#ifndef EDGEC_FUSED_JOBS_H
#define EDGEC_FUSED_JOBS_H

#include "edgec_engine.h"
#include "edgec_fused.h"

/* Of each worker; core 0 uses the jobs. */
typedef struct edgec_engine_queue {
    const edgec_engine_note *chain; /* not NULL: chains are planned one by one, and this is next */
#if !EDGEC_FEEDER
    const edgec_engine_note *next; /* to be prepared */
    const edgec_engine_note *end;
    uint32_t prepared;
    uint32_t started;
    uint32_t waited;
    uint32_t held; /* of the chain, to be started */
    edgec_engine_job jobs[EDGEC_ENGINE_QUEUE];
#endif
} edgec_engine_queue;

/* Once per step; job: what all have in common. */
static inline void edgec_begin_queue(edgec_engine_queue *queue, edgec_engine_job job) {
    queue->chain = NULL;
#if EDGEC_FEEDER
    (void)job;
#else
    queue->prepared = 0U;
    queue->started = 0U;
    queue->waited = 0U;
    queue->held = 0U;
    for (uint32_t i = 0U; i < EDGEC_ENGINE_QUEUE; i++) {
        queue->jobs[i] = job;
    }
#endif
}

/* By every worker, when it waits for none. */
static inline void edgec_plan_jobs(const edgec_worker *worker, edgec_engine_queue *queue,
                                   const edgec_engine_note *notes, uint32_t count) {
#if EDGEC_FEEDER
    (void)queue;
    edgec_engine_plan(worker, notes, count);
#else
    (void)worker;
    queue->next = notes;
    queue->end = notes + count;
#endif
}

#if !EDGEC_FEEDER
/* Core 0: writes the registers of the next job, if there is one. */
EDGEC_SHARED void edgec_prepare_job(edgec_engine_queue *queue) {
    for (; queue->next != queue->end; queue->next++) {
        if (queue->next->registers != NULL) {
            edgec_engine_job *const job = &queue->jobs[queue->prepared % EDGEC_ENGINE_QUEUE];
            job->registers = queue->next->registers;
            job->words = queue->next->words;
            edgec_engine_prepare(job);
            queue->prepared++;
            queue->next++;
            return;
        }
    }
}

/* Core 0: as many jobs of the chain begin as the engine takes. */
EDGEC_SHARED void edgec_start_held(edgec_engine_queue *queue) {
    while (queue->held != 0U && queue->started - queue->waited < EDGEC_ENGINE_QUEUE) {
        if (queue->started == queue->prepared) {
            edgec_prepare_job(queue);
        }
        edgec_engine_start(&queue->jobs[queue->started % EDGEC_ENGINE_QUEUE]);
        queue->started++;
        queue->held--;
    }
}
#endif

/* The worker has staged its part: the next `count` jobs of a chain begin when all have. */
static inline void edgec_begin_chain(const edgec_worker *worker, edgec_engine_queue *queue,
                                     uint32_t count) {
#if EDGEC_FEEDER
    (void)worker;
    (void)queue;
    (void)count;
    edgec_engine_go();
#else
    edgec_barrier(worker);
    if (worker->id == 0U) {
        queue->held += count;
        edgec_start_held(queue);
    }
#endif
}

/* Returns when the next `count` jobs of a chain are done. */
#if EDGEC_FEEDER
static inline void
#else
EDGEC_SHARED void
#endif
edgec_meet_jobs(const edgec_worker *worker, edgec_engine_queue *queue, uint32_t count) {
#if EDGEC_FEEDER
    (void)queue;
    edgec_engine_meet(worker, count);
#else
    if (worker->id == 0U) {
        for (; count != 0U; count--) {
            if (queue->prepared - queue->waited < EDGEC_ENGINE_QUEUE) {
                edgec_prepare_job(queue); /* beside the jobs that run */
            }
            edgec_engine_wait(&queue->jobs[queue->waited % EDGEC_ENGINE_QUEUE]);
            queue->waited++;
            edgec_start_held(queue);
        }
    }
    edgec_barrier(worker);
#endif
}

#endif

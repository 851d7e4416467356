/* What the kernels ask of a platform. Each port implements these functions. */
#ifndef EDGEC_PORT_H
#define EDGEC_PORT_H

#include "edgec_types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One transfer under way; its fields belong to the port. */
typedef struct edgec_dma {
    void *destination;
    const void *source;
    uint32_t size;
    uint32_t id;
} edgec_dma;

/* Returns after every core of the worker's team has called it; orders all memory accesses. */
void edgec_barrier(const edgec_worker *worker);

/* Begins to copy size bytes; source and destination stay untouched by the cores until the wait. */
void edgec_dma_start(edgec_dma *dma, void *destination, const void *source, uint32_t size);

/* Returns when the transfer is complete. */
void edgec_dma_wait(edgec_dma *dma);

/* 1: every core has memory of its own for what does not change from token to token. */
#ifndef EDGEC_CORE_MEMORY
#define EDGEC_CORE_MEMORY 0
#endif

/* With EDGEC_CORE_MEMORY: `size` bytes of the worker's core, aligned for any type, the same ones at
 * every call. Before the first call the first pointer in there is null. */
void *edgec_core_memory(const edgec_worker *worker, uint32_t size);

/* ---- only for models with linears on the engine */

#define EDGEC_ENGINE_REGISTERS 24U
#define EDGEC_ENGINE_QUEUE 2U /* jobs that are started and not waited for, at most */

/* Memory that jobs reach: target addresses address .. address + size - 1 are these bytes. */
typedef struct edgec_engine_window {
    uint32_t address;
    uint32_t size;
    const uint8_t *bytes;
    uint8_t *writable; /* the same bytes, null where jobs only read */
} edgec_engine_window;

/* One job under way. Where the engine is real and everything lies at its planned address, only the
 * registers count. */
typedef struct edgec_engine_job {
    const uint32_t *registers; /* [EDGEC_ENGINE_REGISTERS] */
    uint32_t words;            /* to be added to register 0 */
    uint32_t weight_base;      /* target address that register 0 counts from */
    const edgec_engine_window *windows;
    uint32_t window_count;
} edgec_engine_job;

/* Writes a job's registers to the engine; jobs that run are not disturbed. It is the next one that
 * is started. At most EDGEC_ENGINE_QUEUE jobs are prepared and not waited for. Called by core 0
 * alone, as are the others. */
void edgec_engine_prepare(edgec_engine_job *job);

/* Queues the job that was prepared; jobs run one after the other. Until the wait has returned, the
 * cores leave alone what the job reads and writes. */
void edgec_engine_start(edgec_engine_job *job);

/* Returns when the job, the oldest one that was started and not waited for, is done. */
void edgec_engine_wait(edgec_engine_job *job);

/* 1: a core beside the workers writes registers and starts jobs that are known in advance. Ports
 * without one need none of the three functions below. */
#ifndef EDGEC_FEEDER
#define EDGEC_FEEDER 0
#endif

/* A job that is known in advance. */
typedef struct edgec_engine_note {
    const uint32_t *registers; /* NULL: there is none, the next note counts */
    uint32_t words;            /* to be added to register 0 */
    uint32_t begins;           /* 1: once all workers are ready; 0: behind the job before it */
} edgec_engine_note;

/* The next jobs, by every worker; core 0's notes count. All jobs so far have been waited for, and
 * no others are prepared until these have been. */
void edgec_engine_plan(const edgec_worker *worker, const edgec_engine_note *notes, uint32_t count);

/* The worker is ready: with the last one the next job that `begins` starts. */
void edgec_engine_go(void);

/* Returns when the next `count` planned jobs that this worker has not met are done. */
void edgec_engine_meet(const edgec_worker *worker, uint32_t count);

#ifdef __cplusplus
}
#endif

#endif

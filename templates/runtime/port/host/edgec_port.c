/* Port for a PC: one thread per core, and a DMA engine that is as late as it may be. */
#define _POSIX_C_SOURCE 200112L /* for clock_gettime and sysconf */

#include "edgec_port.h"
#include "edgec_runner.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* How often a thread looks whether a barrier is complete before it sleeps: barriers are a few
 * microseconds apart, and to fall asleep takes longer. */
#define BARRIER_LOOKS 10000U

/* The team counts arrivals; `round` tells those that wait that their barrier is complete. */
typedef struct host_team {
    pthread_mutex_t mutex;
    pthread_cond_t complete;
    atomic_uint arrived;
    atomic_uint round;
    uint32_t looks;
} host_team;

typedef struct host_core {
    edgec_worker worker;
    edgec_core_entry entry;
    void *argument;
} host_core;

void edgec_barrier(const edgec_worker *worker) {
    host_team *const team = (host_team *)worker->team;
    if (worker->count == 1U) {
        return;
    }
    const unsigned round = atomic_load(&team->round);
    if (atomic_fetch_add(&team->arrived, 1U) + 1U == worker->count) {
        atomic_store(&team->arrived, 0U);
        pthread_mutex_lock(&team->mutex);
        atomic_store(&team->round, round + 1U);
        pthread_cond_broadcast(&team->complete);
        pthread_mutex_unlock(&team->mutex);
        return;
    }
    for (uint32_t look = 0U; look < team->looks; look++) {
        if (atomic_load_explicit(&team->round, memory_order_acquire) != round) {
            return;
        }
    }
    pthread_mutex_lock(&team->mutex);
    while (atomic_load(&team->round) == round) {
        pthread_cond_wait(&team->complete, &team->mutex);
    }
    pthread_mutex_unlock(&team->mutex);
}

/* The bytes arrive at the wait and not before: until then the destination holds a pattern, so
 * that code which reads it too early computes something else. */
void edgec_dma_start(edgec_dma *dma, void *destination, const void *source, uint32_t size) {
    dma->destination = destination;
    dma->source = source;
    dma->size = size;
    dma->id = 0U;
    memset(destination, 0xA5, size);
}

void edgec_dma_wait(edgec_dma *dma) {
    memcpy(dma->destination, dma->source, dma->size);
}

static void *run_core(void *argument) {
    const host_core *const core = (const host_core *)argument;
    core->entry(&core->worker, core->argument);
    return NULL;
}

edgec_status edgec_run_team(uint32_t cores, edgec_partial *partials, edgec_core_entry entry,
                            void *argument) {
    host_team team = {.mutex = PTHREAD_MUTEX_INITIALIZER, .complete = PTHREAD_COND_INITIALIZER};
    host_core core[EDGEC_MAX_CORES];
    pthread_t thread[EDGEC_MAX_CORES];
    if (cores == 0U || cores > EDGEC_MAX_CORES) {
        return EDGEC_BAD_ARGUMENT;
    }
    atomic_init(&team.arrived, 0U);
    atomic_init(&team.round, 0U);
    /* a thread that has no processor of its own should not keep one from others */
    team.looks = sysconf(_SC_NPROCESSORS_ONLN) >= (long)cores ? BARRIER_LOOKS : 0U;
    for (uint32_t id = 0U; id < cores; id++) {
        const edgec_worker worker = {id, cores, &team, partials};
        const host_core member = {worker, entry, argument};
        core[id] = member;
    }
    for (uint32_t id = 1U; id < cores; id++) {
        if (pthread_create(&thread[id], NULL, run_core, &core[id]) != 0) {
            abort(); /* the threads that run already would wait at their first barrier for ever */
        }
    }
    run_core(&core[0]);
    for (uint32_t id = 1U; id < cores; id++) {
        pthread_join(thread[id], NULL);
    }
    return EDGEC_OK;
}

void edgec_write(const void *data, uint32_t size) {
    fwrite(data, 1U, size, stdout);
    fflush(stdout);
}

uint64_t edgec_clock(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

const char edgec_clock_unit[] = "ns";

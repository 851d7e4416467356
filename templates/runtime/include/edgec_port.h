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

#ifdef __cplusplus
}
#endif

#endif

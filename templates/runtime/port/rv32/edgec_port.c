/* Port for one RV32 core without an operating system: no team, no DMA engine. */
#include "edgec_port.h"
#include "edgec_runner.h"

/* In edgec_memory.S; a freestanding compiler need not have string.h. */
void *memcpy(void *destination, const void *source, size_t size);

/* One core: it has arrived, hence all have. */
void edgec_barrier(const edgec_worker *worker) {
    (void)worker;
}

void edgec_dma_start(edgec_dma *dma, void *destination, const void *source, uint32_t size) {
    dma->destination = destination;
    dma->source = source;
    dma->size = size;
    dma->id = 0U;
    memcpy(destination, source, size);
}

void edgec_dma_wait(edgec_dma *dma) {
    (void)dma;
}

edgec_status edgec_run_team(uint32_t cores, edgec_partial *partials, edgec_core_entry entry,
                            void *argument) {
    const edgec_worker worker = {0U, 1U, NULL, partials};
    if (cores != 1U) {
        return EDGEC_BAD_ARGUMENT;
    }
    entry(&worker, argument);
    return EDGEC_OK;
}

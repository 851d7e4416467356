/* Port for the bare chip: the SoC controller calls, the cluster's workers are the team. */
#include "edgec_port.h"
#include "edgec_math.h"
#include "edgec_runner.h"
#include "edgec_siracusa.h"
#include "edgec_xpulp.h"

void edgec_cluster_core(uint32_t id);
extern const uint8_t edgec_cluster_entry[];
extern uint8_t __cluster_stacks[];
extern const uint8_t __cluster_stack_size[];
#if EDGEC_FEEDER
void edgec_engine_feed(void); /* of the engine's driver */
#endif

/* What the controller leaves for the cores, in L2. */
static struct {
    edgec_core_entry entry;
    void *argument;
    edgec_partial *partials;
    uint32_t cores;
} work;
static volatile uint32_t finished;

static volatile uint32_t *at(uint32_t address) {
    return (volatile uint32_t *)(uintptr_t)address;
}

EDGEC_HOT_SMALL void edgec_barrier(const edgec_worker *worker) {
    (void)worker;
    __asm__ volatile("" ::: "memory");
    (void)*at(SIRACUSA_EVENT_UNIT + SIRACUSA_BARRIER + SIRACUSA_BARRIER_WAIT_CLEAR);
    __asm__ volatile("" ::: "memory");
}

/* The lower end of the stack, which the worst case leaves free: `edgec sizes` adds both up. */
void *edgec_core_memory(const edgec_worker *worker, uint32_t size) {
    (void)size;
    return __cluster_stacks + worker->id * (uint32_t)(uintptr_t)__cluster_stack_size;
}

static void set_barrier(uint32_t barrier, uint32_t triggers, uint32_t targets) {
    *at(SIRACUSA_EVENT_UNIT + barrier + SIRACUSA_BARRIER_TRIGGERS) = triggers;
    *at(SIRACUSA_EVENT_UNIT + barrier + SIRACUSA_BARRIER_TARGETS) = targets;
}

/* One of both places is in L1, which lies below all else. */
_Static_assert(SIRACUSA_L1_BASE == 0x10000000U, "what is not in L1 lies above it");

EDGEC_HOT_SMALL void edgec_dma_start(edgec_dma *dma, void *destination, const void *source,
                                     uint32_t size) {
    const uint32_t to = (uint32_t)(uintptr_t)destination;
    const uint32_t from = (uint32_t)(uintptr_t)source;
    const uint32_t near = edgec_minu32(to, from);
    const uint32_t inward = near == to ? SIRACUSA_DMA_TO_L1 : 0U;
    dma->id = *at(SIRACUSA_DMA);
    *at(SIRACUSA_DMA) = size | inward | SIRACUSA_DMA_LINEAR | SIRACUSA_DMA_EVENT;
    *at(SIRACUSA_DMA) = near;
    *at(SIRACUSA_DMA) = to ^ from ^ near;
}

EDGEC_HOT_SMALL void edgec_dma_wait(edgec_dma *dma) {
    while ((*at(SIRACUSA_DMA + SIRACUSA_DMA_STATUS) >> dma->id & 1U) != 0U) {
    }
    *at(SIRACUSA_DMA + SIRACUSA_DMA_STATUS) = 1U << dma->id;
    __asm__ volatile("" ::: "memory");
}

/* Runs on every cluster core, with the stack of its own that the start-up code gave it. */
void edgec_cluster_core(uint32_t id) {
    if (id < work.cores) {
        const edgec_worker worker = {id, work.cores, NULL, work.partials};
        *(void **)edgec_core_memory(&worker, 0U) = NULL;
        *at(SIRACUSA_EVENT_UNIT + SIRACUSA_EVENT_MASK) = 1U << SIRACUSA_BARRIER_EVENT;
        *at(SIRACUSA_EVENT_UNIT + SIRACUSA_EVENT_CLEAR) = UINT32_MAX;
        if (id == 0U) {
            const uint32_t team = (1U << work.cores) - 1U;
            set_barrier(SIRACUSA_BARRIER, team, team);
#if EDGEC_FEEDER
            const uint32_t control = 1U << SIRACUSA_WORKERS;
            set_barrier(SIRACUSA_FEEDER_BARRIER, 1U, control);
            set_barrier(SIRACUSA_READY_BARRIER, team | control, control);
#endif
            finished = 1U; /* the barrier is set up */
        } else {
            while (finished == 0U) {
            }
        }
        edgec_barrier(&worker);
        work.entry(&worker, work.argument);
        edgec_barrier(&worker);
        if (id == 0U) {
            finished = 2U;
        }
    }
#if EDGEC_FEEDER
    if (id == SIRACUSA_WORKERS) {
        while (finished == 0U) { /* the barriers are not set up */
        }
        edgec_engine_feed();
    }
#endif
    *at(SIRACUSA_EVENT_UNIT + SIRACUSA_EVENT_MASK) = 0U;
    for (;;) {
        (void)*at(SIRACUSA_EVENT_UNIT + SIRACUSA_EVENT_WAIT_CLEAR);
    }
}

/* Once: the cores sleep for good when they have returned. */
edgec_status edgec_run_team(uint32_t cores, edgec_partial *partials, edgec_core_entry entry,
                            void *argument) {
    if (cores == 0U || cores > SIRACUSA_WORKERS || finished != 0U) {
        return EDGEC_BAD_ARGUMENT;
    }
    work.entry = entry;
    work.argument = argument;
    work.partials = partials;
    work.cores = cores;
    __asm__ volatile("fence" ::: "memory");
    *at(SIRACUSA_ICACHE_ENABLE) = UINT32_MAX;
    for (uint32_t id = 0U; id < SIRACUSA_CORES; id++) {
        *at(SIRACUSA_CLUSTER_CONTROL + SIRACUSA_BOOT_ADDRESS + 4U * id) =
            (uint32_t)(uintptr_t)edgec_cluster_entry;
    }
    *at(SIRACUSA_CLUSTER_CONTROL + SIRACUSA_FETCH_ENABLE) = (1U << SIRACUSA_CORES) - 1U;
    while (finished != 2U) {
    }
    return EDGEC_OK;
}

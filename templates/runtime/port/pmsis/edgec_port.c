/* Example: the port on the vendor SDK's API (PMSIS). The SDK starts the cluster, gives every core
 * its stack and drives the DMA; the sources are added to an application of the SDK. */
#include "edgec_port.h"
#include "edgec_runner.h"

#include "pmsis.h"

#define COMMANDS 16U     /* transfers of a core under way, at most */
#define CORE_STACK 2944U /* as target.toml reserves */

/* Whether an address lies in the cluster's L1, the side of the DMA that is local. */
#ifndef EDGEC_PMSIS_IN_L1
#include "../siracusa/edgec_siracusa.h"
#define EDGEC_PMSIS_IN_L1(address) ((address) - SIRACUSA_L1_BASE < SIRACUSA_L1_SIZE)
#endif

/* Commands under way; the SDK's type need not fit into edgec_dma. */
static PI_L1 pi_cl_dma_cmd_t commands[EDGEC_MAX_CORES][COMMANDS];
static PI_L1 uint8_t busy[EDGEC_MAX_CORES][COMMANDS];

/* What the controller hands to the cluster. */
typedef struct team {
    edgec_core_entry entry;
    void *argument;
    edgec_partial *partials;
    uint32_t cores;
} team;

void edgec_barrier(const edgec_worker *worker) {
    if (worker->count > 1U) {
        pi_cl_team_barrier();
    }
    __asm__ volatile("" ::: "memory");
}

static uint32_t free_command(uint32_t core) {
    uint32_t id = 0U;
    while (id < COMMANDS && busy[core][id] != 0U) {
        id++;
    }
    return id;
}

/* One of the addresses is in L1; the SDK wants to know which. */
static void copy(uintptr_t to, uintptr_t from, uint32_t size, pi_cl_dma_cmd_t *command) {
    if (EDGEC_PMSIS_IN_L1(to)) {
        pi_cl_dma_cmd((uint32_t)from, (uint32_t)to, size, PI_CL_DMA_DIR_EXT2LOC, command);
    } else {
        pi_cl_dma_cmd((uint32_t)to, (uint32_t)from, size, PI_CL_DMA_DIR_LOC2EXT, command);
    }
}

void edgec_dma_start(edgec_dma *dma, void *destination, const void *source, uint32_t size) {
    const uint32_t core = (uint32_t)pi_core_id();
    const uint32_t id = free_command(core);
    dma->id = id;
    if (id < COMMANDS) {
        busy[core][id] = 1U;
        copy((uintptr_t)destination, (uintptr_t)source, size, &commands[core][id]);
    } else { /* no plan has so many; be late rather than wrong */
        pi_cl_dma_cmd_t now;
        copy((uintptr_t)destination, (uintptr_t)source, size, &now);
        pi_cl_dma_cmd_wait(&now);
    }
}

void edgec_dma_wait(edgec_dma *dma) {
    const uint32_t core = (uint32_t)pi_core_id();
    if (dma->id < COMMANDS) {
        pi_cl_dma_cmd_wait(&commands[core][dma->id]);
        busy[core][dma->id] = 0U;
    }
    __asm__ volatile("" ::: "memory");
}

static void run_core(void *argument) {
    const team *const all = (const team *)argument;
    const edgec_worker worker = {(uint32_t)pi_core_id(), all->cores, NULL, all->partials};
    all->entry(&worker, all->argument);
}

static void run_cluster(void *argument) {
    team *const all = (team *)argument;
    pi_cl_team_fork((int)all->cores, run_core, all);
}

/* Any number of times, and between other tasks of the application. */
edgec_status edgec_run_team(uint32_t cores, edgec_partial *partials, edgec_core_entry entry,
                            void *argument) {
    struct pi_device cluster = {0};
    struct pi_cluster_conf configuration;
    struct pi_cluster_task task;
    team all = {entry, argument, partials, cores};
    if (cores == 0U || cores > EDGEC_MAX_CORES) {
        return EDGEC_BAD_ARGUMENT;
    }
    pi_cluster_conf_init(&configuration);
    pi_open_from_conf(&cluster, &configuration);
    if (pi_cluster_open(&cluster) != 0) {
        return EDGEC_BAD_ARGUMENT;
    }
    pi_cluster_task(&task, run_cluster, &all);
    task.stack_size = CORE_STACK;
    task.slave_stack_size = CORE_STACK;
    (void)pi_cluster_send_task_to_cl(&cluster, &task);
    (void)pi_cluster_close(&cluster);
    return EDGEC_OK;
}

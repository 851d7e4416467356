/* One core: a team of one, and transfers that are as late as they may be. It ends the program with
 * an illegal instruction when the port breaks the rules of the API. */
#include "pmsis.h"

#include <stddef.h>

static int open_clusters;

static void demand(int condition) {
    if (!condition) {
        __builtin_trap();
    }
}

void pi_cluster_conf_init(struct pi_cluster_conf *conf) {
    conf->id = 0;
}

void pi_open_from_conf(struct pi_device *device, void *conf) {
    device->config = conf;
}

int pi_cluster_open(struct pi_device *device) {
    demand(device->config != NULL && open_clusters == 0);
    open_clusters++;
    return 0;
}

int pi_cluster_close(struct pi_device *device) {
    demand(device->config != NULL && open_clusters == 1);
    open_clusters--;
    return 0;
}

struct pi_cluster_task *pi_cluster_task(struct pi_cluster_task *task, void (*entry)(void *),
                                        void *arg) {
    task->entry = entry;
    task->arg = arg;
    task->stack_size = 0U;
    task->slave_stack_size = 0U;
    return task;
}

int pi_cluster_send_task_to_cl(struct pi_device *device, struct pi_cluster_task *task) {
    demand(device->config != NULL && open_clusters == 1 && task->slave_stack_size != 0U);
    task->entry(task->arg);
    return 0;
}

void pi_cl_team_fork(int cores, void (*entry)(void *), void *arg) {
    demand(cores == 1);
    entry(arg);
}

void pi_cl_team_barrier(void) {}

int pi_core_id(void) {
    return 0;
}

/* Until the wait the destination holds a pattern. */
void pi_cl_dma_cmd(uint32_t ext, uint32_t loc, uint32_t size, pi_cl_dma_dir_e dir,
                   pi_cl_dma_cmd_t *cmd) {
    uint8_t *const to = (uint8_t *)(uintptr_t)(dir == PI_CL_DMA_DIR_EXT2LOC ? loc : ext);
    const pi_cl_dma_cmd_t command = {ext, loc, size, (int)dir, 1};
    *cmd = command;
    for (uint32_t i = 0U; i < size; i++) {
        to[i] = 0xA5U;
    }
}

void pi_cl_dma_cmd_wait(pi_cl_dma_cmd_t *cmd) {
    const int inward = cmd->dir == PI_CL_DMA_DIR_EXT2LOC;
    uint8_t *const to = (uint8_t *)(uintptr_t)(inward ? cmd->loc : cmd->ext);
    const uint8_t *const from = (const uint8_t *)(uintptr_t)(inward ? cmd->ext : cmd->loc);
    demand(cmd->pending == 1);
    cmd->pending = 0;
    for (uint32_t i = 0U; i < cmd->size; i++) {
        to[i] = from[i];
    }
}

void pi_perf_conf(unsigned events) {
    (void)events;
}

void pi_perf_reset(void) {}

void pi_perf_start(void) {}

unsigned int pi_perf_read(int event) {
    (void)event;
    unsigned int cycles;
    __asm__ volatile("csrr %0, mcycle" : "=r"(cycles));
    return cycles;
}

/* The host-target interface that crt0.S and the core's model know. */
extern volatile uint64_t tohost;
extern volatile uint64_t fromhost;
__attribute__((section(".tohost"), aligned(64), used)) volatile uint64_t tohost;
__attribute__((section(".tohost"), aligned(64), used)) volatile uint64_t fromhost;
_Noreturn void STUB_EXIT(int code);
_Noreturn void STUB_TRAP(void);

int putchar(int character) {
    static volatile uint64_t call[8] __attribute__((aligned(64)));
    static volatile uint8_t byte;
    byte = (uint8_t)character;
    call[0] = 64U;
    call[1] = 1U;
    call[2] = (uint32_t)(uintptr_t)&byte;
    call[3] = 1U;
    tohost = (uint32_t)(uintptr_t)call;
    while (fromhost == 0U) {
    }
    fromhost = 0U;
    return character;
}

_Noreturn void STUB_EXIT(int code) {
    for (;;) {
        tohost = (uint64_t)(uint32_t)code << 1 | 1U;
    }
}

_Noreturn void STUB_TRAP(void) {
    STUB_EXIT(99);
}

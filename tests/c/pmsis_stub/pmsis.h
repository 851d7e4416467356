/* The part of the vendor SDK's API that the example port calls, declared from its public
 * documentation, for one core: so that the example compiles and runs in the tests. */
#ifndef TESTS_PMSIS_H
#define TESTS_PMSIS_H

#include <stdint.h>

#define PI_L1
#define PI_PERF_CYCLES 0

struct pi_device {
    void *config;
};

struct pi_cluster_conf {
    int id;
};

struct pi_cluster_task {
    void (*entry)(void *);
    void *arg;
    uint32_t stack_size;
    uint32_t slave_stack_size;
};

typedef struct pi_cl_dma_cmd_s {
    uint32_t ext;
    uint32_t loc;
    uint32_t size;
    int dir;
    int pending;
} pi_cl_dma_cmd_t;

typedef enum pi_cl_dma_dir_e {
    PI_CL_DMA_DIR_LOC2EXT = 0,
    PI_CL_DMA_DIR_EXT2LOC = 1
} pi_cl_dma_dir_e;

void pi_cluster_conf_init(struct pi_cluster_conf *conf);
void pi_open_from_conf(struct pi_device *device, void *conf);
int pi_cluster_open(struct pi_device *device);
int pi_cluster_close(struct pi_device *device);
struct pi_cluster_task *pi_cluster_task(struct pi_cluster_task *task, void (*entry)(void *),
                                        void *arg);
int pi_cluster_send_task_to_cl(struct pi_device *device, struct pi_cluster_task *task);
void pi_cl_team_fork(int cores, void (*entry)(void *), void *arg);
void pi_cl_team_barrier(void);
int pi_core_id(void);
void pi_cl_dma_cmd(uint32_t ext, uint32_t loc, uint32_t size, pi_cl_dma_dir_e dir,
                   pi_cl_dma_cmd_t *cmd);
void pi_cl_dma_cmd_wait(pi_cl_dma_cmd_t *cmd);
void pi_perf_conf(unsigned events);
void pi_perf_reset(void);
void pi_perf_start(void);
unsigned int pi_perf_read(int event);

#endif

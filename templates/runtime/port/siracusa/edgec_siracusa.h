/* Addresses of Siracusa, for C and assembler. Sources: [SDK] pulp-sdk, chip files of siracusa
 * (link.ld, memory_map.h); [GV] the siracusa model of GVSoC; [NNX] pulp-nnx, neureka; [REG] the
 * regression tests of siracusa-soc. What is marked * was exercised on the GVSoC model by this
 * port; nothing was run on silicon. */
#ifndef EDGEC_SIRACUSA_H
#define EDGEC_SIRACUSA_H

/* ---- memories: base addresses and sizes are those of the bundle's target.toml */
#define SIRACUSA_L1_BASE 0x10000000 /* [SDK] * 256 KiB, shared by the cluster */
#define SIRACUSA_L1_SIZE 0x40000

/* ---- cores */
#define SIRACUSA_CONTROLLER_CLUSTER 31 /* [GV] * mhartid >> 5 of the SoC controller */
#define SIRACUSA_WORKERS 8             /* [SDK] * cores 0..7; core 8 controls and sleeps here */
#define SIRACUSA_CORES 9               /* [GV] * */

/* ---- SoC peripherals */
#define SIRACUSA_STDOUT 0x1A10F000 /* [GV] * + core << 3 + cluster << 7: one character */
#define SIRACUSA_EXIT 0x1A1040A0   /* [SDK] * 0x80000000 | code ends the simulation */

/* ---- cluster peripherals, as a cluster core sees them */
#define SIRACUSA_CLUSTER_CONTROL 0x10200000 /* [GV] * */
#define SIRACUSA_FETCH_ENABLE 0x08          /* * one bit per core */
#define SIRACUSA_ENGINE_CONTROL 0x18        /* [REG] of N-EUREKA */
#define SIRACUSA_BOOT_ADDRESS 0x40          /* * + 4 * core; a multiple of 256 */
#define SIRACUSA_ICACHE_ENABLE 0x10201400   /* [GV] * all ones */
#define SIRACUSA_ENGINE 0x10201000          /* [NNX] * */
#define SIRACUSA_EVENT_UNIT 0x10204000      /* [SDK] * the core's own view */
#define SIRACUSA_DMA 0x10204400             /* [SDK] * mchan, the core's own view */

/* ---- event unit */
#define SIRACUSA_EVENT_MASK 0x00         /* * events that wake the core */
#define SIRACUSA_EVENT_CLEAR 0x28        /* * clears pending events */
#define SIRACUSA_EVENT_WAIT_CLEAR 0x3C   /* * a load sleeps until an event of the mask */
#define SIRACUSA_BARRIER 0x200           /* * barrier 0 */
#define SIRACUSA_FEEDER_BARRIER 0x220    /* * barrier 1: core 0 wakes the control core */
#define SIRACUSA_READY_BARRIER 0x240     /* * barrier 2: all workers do, and it is there */
#define SIRACUSA_BARRIER_TRIGGERS 0x00   /* * cores that arrive; write it before the targets */
#define SIRACUSA_BARRIER_TARGETS 0x0C    /* * cores that are woken */
#define SIRACUSA_BARRIER_ARRIVE 0x14     /* * a load arrives and does not wait */
#define SIRACUSA_BARRIER_WAIT_CLEAR 0x1C /* * a load arrives and sleeps until all have */
#define SIRACUSA_BARRIER_EVENT 16        /* * of all barriers */
#define SIRACUSA_ENGINE_EVENT 12         /* * a job is done; every core has it */

/* ---- mchan: read an id; write command, L1 address, other address */
#define SIRACUSA_DMA_STATUS 0x04      /* * bit id: under way; writing the bit frees the id */
#define SIRACUSA_DMA_TO_L1 (1U << 17) /* * */
#define SIRACUSA_DMA_LINEAR (1U << 18)
#define SIRACUSA_DMA_EVENT (1U << 20)

/* ---- N-EUREKA */
#define SIRACUSA_ENGINE_COMMIT 0x00    /* * 0: commit the context and trigger */
#define SIRACUSA_ENGINE_ACQUIRE 0x04   /* * negative: no free context */
#define SIRACUSA_ENGINE_STATUS 0x0C    /* * bit 0 and bit 8: context 0 and 1 have a job */
#define SIRACUSA_ENGINE_CLEAR 0x14     /* [NNX] * soft clear */
#define SIRACUSA_ENGINE_REGISTERS 0x20 /* * 24 registers of the acquired context */
/* Bits of SIRACUSA_ENGINE_CONTROL; the GVSoC model ignores them. */
#define SIRACUSA_ENGINE_CLOCK (1U << 11) /* [REG] its clock runs */
#define SIRACUSA_ENGINE_MAX_STALL 8U     /* [REG] cycles that the cores may keep it from L1 */
#define SIRACUSA_ENGINE_CLEAR_READS 10U  /* [NNX] waits so long, in loops, for the clear */

#endif

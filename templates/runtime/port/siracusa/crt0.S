/* Start-up without an operating system: the SoC controller runs main, the cluster's cores wait for
 * it in edgec_cluster_core. */
#include "edgec_siracusa.h"

    .section .text.start, "ax"
    .option norvc
    .globl _start
    .type _start, @function
_start:
    csrr a0, mhartid
    srli a1, a0, 5
    li t0, SIRACUSA_CONTROLLER_CLUSTER
    bne a1, t0, cluster_entry
    la sp, __stack_top
    la t0, trap_entry
    csrw mtvec, t0
    la t0, __bss_start
    la t1, __bss_end
zero_next:
    bgeu t0, t1, zero_done
    sw zero, 0(t0)
    addi t0, t0, 4
    j zero_next
zero_done:
    li a0, 0
    li a1, 0
    call main
    call edgec_exit
stop:
    j stop

/* Boot addresses are multiples of 256. */
    .balign 256
    .globl edgec_cluster_entry
edgec_cluster_entry:
cluster_entry:
    la t0, trap_entry
    csrw mtvec, t0
    csrr a0, mhartid
    andi a0, a0, 31
    la sp, __cluster_stacks
    la t0, __cluster_stack_size
    addi t1, a0, 1
    mul t0, t0, t1
    add sp, sp, t0
    call edgec_cluster_core
wait:
    j wait

/* The vector is aligned: a core ignores the low byte of mtvec. */
    .balign 256
trap_entry:
    csrr a0, mcause
    csrr a1, mepc
    csrr a2, mhartid
    call edgec_trap

/* Start-up of one bare-metal RV32 core, or of a Linux process when EDGEC_RV32_LINUX is defined. */
    .section .text.start, "ax"
    .globl _start
    .type _start, @function
_start:
    .option push
    .option norelax
    la gp, __global_pointer$
    .option pop
#ifndef EDGEC_RV32_LINUX
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
#endif
    li a0, 0
    li a1, 0
    call main
    call edgec_exit
stop:
    j stop

#ifndef EDGEC_RV32_LINUX
    .align 2 /* mtvec holds a multiple of 4 */
trap_entry:
    csrr a0, mcause
    csrr a1, mepc
    csrr a2, mtval
    call edgec_trap
#endif

/* memcpy and memset. In assembly because a compiler may turn a loop that copies into a call of
 * the very function that it is compiling. */
    .text
    .globl memcpy
    .type memcpy, @function
    .align 2
memcpy: /* a0 destination (returned), a1 source, a2 size */
    mv t0, a0
    add t1, a0, a2 /* end */
    or a3, a0, a1
    andi a3, a3, 3
    bnez a3, copy_bytes
    andi a3, a2, -16
    add a3, a3, t0
copy_blocks:
    bgeu t0, a3, copy_words
    lw a4, 0(a1)
    lw a5, 4(a1)
    lw a6, 8(a1)
    lw a7, 12(a1)
    sw a4, 0(t0)
    sw a5, 4(t0)
    sw a6, 8(t0)
    sw a7, 12(t0)
    addi a1, a1, 16
    addi t0, t0, 16
    j copy_blocks
copy_words:
    andi a3, t1, -4
copy_next_word:
    bgeu t0, a3, copy_bytes
    lw a4, 0(a1)
    sw a4, 0(t0)
    addi a1, a1, 4
    addi t0, t0, 4
    j copy_next_word
copy_bytes:
    bgeu t0, t1, copy_done
    lbu a4, 0(a1)
    sb a4, 0(t0)
    addi a1, a1, 1
    addi t0, t0, 1
    j copy_bytes
copy_done:
    ret

    .globl memset
    .type memset, @function
    .align 2
memset: /* a0 destination (returned), a1 value, a2 size */
    mv t0, a0
    add t1, a0, a2 /* end */
    andi a1, a1, 255
    andi a3, a0, 3
    bnez a3, set_bytes
    slli a3, a1, 8
    or a4, a1, a3
    slli a3, a4, 16
    or a4, a4, a3
    andi a3, t1, -4
set_next_word:
    bgeu t0, a3, set_bytes
    sw a4, 0(t0)
    addi t0, t0, 4
    j set_next_word
set_bytes:
    bgeu t0, t1, set_done
    sb a1, 0(t0)
    addi t0, t0, 1
    j set_bytes
set_done:
    ret

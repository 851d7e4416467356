/* The weight blobs as linker sections. The files are found relative to the bundle: run the
 * assembler there, or give it the bundle as include directory (-Wa,-I,DIRECTORY). */
#include "demo_sections.h"

    .section DEMO_SECTION_MRAM, "a", %progbits
    .balign 32
    .globl demo_weights_mram
    .type demo_weights_mram, %object
demo_weights_mram:
    .incbin "weights/mram.bin"
demo_weights_mram_end:
    .size demo_weights_mram, demo_weights_mram_end - demo_weights_mram

    .section .rodata, "a", %progbits
    .balign 4
    .globl demo_weights_mram_size
    .type demo_weights_mram_size, %object
demo_weights_mram_size:
    .long demo_weights_mram_end - demo_weights_mram
    .size demo_weights_mram_size, 4

    .section DEMO_SECTION_L2, "a", %progbits
    .balign 8
    .globl demo_weights_l2
    .type demo_weights_l2, %object
demo_weights_l2:
    .incbin "weights/l2.bin"
demo_weights_l2_end:
    .size demo_weights_l2, demo_weights_l2_end - demo_weights_l2

    .section .rodata, "a", %progbits
    .balign 4
    .globl demo_weights_l2_size
    .type demo_weights_l2_size, %object
demo_weights_l2_size:
    .long demo_weights_l2_end - demo_weights_l2
    .size demo_weights_l2_size, 4

#if defined(__linux__)
    .section .note.GNU-stack, "", %progbits
#endif

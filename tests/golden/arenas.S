/* One set of arenas as linker sections without content. */
#include "demo_sections.h"

    .section DEMO_SECTION_ARENA_TILE_SRAM, "aw", %nobits
    .balign 32
    .globl demo_arena_tile_sram
    .type demo_arena_tile_sram, %object
demo_arena_tile_sram:
    .zero 128
    .size demo_arena_tile_sram, 128

    .section .rodata, "a", %progbits
    .balign 4
    .globl demo_arena_tile_sram_size
    .type demo_arena_tile_sram_size, %object
demo_arena_tile_sram_size:
    .long 128
    .size demo_arena_tile_sram_size, 4

    .section DEMO_SECTION_ARENA_L1, "aw", %nobits
    .balign 8
    .globl demo_arena_l1
    .type demo_arena_l1, %object
demo_arena_l1:
    .zero 2912
    .size demo_arena_l1, 2912

    .section .rodata, "a", %progbits
    .balign 4
    .globl demo_arena_l1_size
    .type demo_arena_l1_size, %object
demo_arena_l1_size:
    .long 2912
    .size demo_arena_l1_size, 4

#if defined(__linux__)
    .section .note.GNU-stack, "", %progbits
#endif

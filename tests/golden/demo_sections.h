/* Linker sections of the weights and arenas; define a macro beforehand to choose another one.
 * Included from C and from assembler: macros only. */
#ifndef DEMO_SECTIONS_H
#define DEMO_SECTIONS_H

#ifndef DEMO_SECTION_MRAM
#define DEMO_SECTION_MRAM ".m"
#endif

#ifndef DEMO_SECTION_L2
#define DEMO_SECTION_L2 ".c"
#endif

#ifndef DEMO_SECTION_ARENA_TILE_SRAM
#define DEMO_SECTION_ARENA_TILE_SRAM ".arena_tile_sram"
#endif

#ifndef DEMO_SECTION_ARENA_L1
#define DEMO_SECTION_ARENA_L1 ".arena_l1"
#endif

#endif

/* The blobs of weights.S and the arenas of arenas.S as memory of one context. Optional: a firmware
 * that places them itself, or runs several contexts, fills an demo_memory of its own. */
#ifndef DEMO_LINKED_H
#define DEMO_LINKED_H

#include "demo.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Weight blobs, in section DEMO_SECTION_<region>. */
extern const uint8_t demo_weights_mram[];
extern const uint32_t demo_weights_mram_size; /* bytes */
extern const uint8_t demo_weights_l2[];
extern const uint32_t demo_weights_l2_size; /* bytes */

/* Arenas, in section DEMO_SECTION_ARENA_<region>: not loaded and not initialised. */
extern uint8_t demo_arena_tile_sram[];
extern const uint32_t demo_arena_tile_sram_size; /* bytes */
extern uint8_t demo_arena_l1[];
extern const uint32_t demo_arena_l1_size; /* bytes */

/* Pointers to all of them. */
demo_memory demo_linked_memory(void);

#ifdef __cplusplus
}
#endif

#endif

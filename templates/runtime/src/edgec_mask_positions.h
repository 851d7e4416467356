/* Positions of the set bits of a byte, four bits each. */
#ifndef EDGEC_MASK_POSITIONS_H
#define EDGEC_MASK_POSITIONS_H

#include <stdint.h>

/* Ascending from the lowest bits on; zeros above. */
extern const uint32_t edgec_mask_positions[256];

#define EDGEC_MASK_POSITIONS(mask) edgec_mask_positions[mask]

#endif

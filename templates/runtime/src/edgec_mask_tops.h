/* Positions of the set bits of a byte, four bits each, for the upper half of a mask of 16. */
#ifndef EDGEC_MASK_TOPS_H
#define EDGEC_MASK_TOPS_H

#include <stdint.h>

/* Position plus 8, ascending, in the highest bits; zeros below, where those of the lower half are.
 */
extern const uint32_t edgec_mask_tops[256];

#define EDGEC_MASK_TOPS(mask) edgec_mask_tops[mask]

#endif

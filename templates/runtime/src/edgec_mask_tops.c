#include "edgec_mask_tops.h"

/* EDGEC_BELOW_n(v, s): the entries of all bytes of n bits; v: the positions of the bits above, s:
 * where the next one goes. */
#define EDGEC_BELOW_1(v, s) (v), (v) | (8U << (s))
#define EDGEC_BELOW_2(v, s) EDGEC_BELOW_1(v, s), EDGEC_BELOW_1((v) | (9U << (s)), (s) - 4U)
#define EDGEC_BELOW_3(v, s) EDGEC_BELOW_2(v, s), EDGEC_BELOW_2((v) | (10U << (s)), (s) - 4U)
#define EDGEC_BELOW_4(v, s) EDGEC_BELOW_3(v, s), EDGEC_BELOW_3((v) | (11U << (s)), (s) - 4U)
#define EDGEC_BELOW_5(v, s) EDGEC_BELOW_4(v, s), EDGEC_BELOW_4((v) | (12U << (s)), (s) - 4U)
#define EDGEC_BELOW_6(v, s) EDGEC_BELOW_5(v, s), EDGEC_BELOW_5((v) | (13U << (s)), (s) - 4U)
#define EDGEC_BELOW_7(v, s) EDGEC_BELOW_6(v, s), EDGEC_BELOW_6((v) | (14U << (s)), (s) - 4U)
#define EDGEC_BELOW_8(v, s) EDGEC_BELOW_7(v, s), EDGEC_BELOW_7((v) | (15U << (s)), (s) - 4U)

const uint32_t edgec_mask_tops[256] = {EDGEC_BELOW_8(0U, 28U)};

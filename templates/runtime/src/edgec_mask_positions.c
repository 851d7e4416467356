#include "edgec_mask_positions.h"

/* EDGEC_BELOW_n(v): the entries of all bytes of n bits, v being the positions of the bits above. */
#define EDGEC_BELOW_1(v) (v), ((v) << 4) | 0U
#define EDGEC_BELOW_2(v) EDGEC_BELOW_1(v), EDGEC_BELOW_1(((v) << 4) | 1U)
#define EDGEC_BELOW_3(v) EDGEC_BELOW_2(v), EDGEC_BELOW_2(((v) << 4) | 2U)
#define EDGEC_BELOW_4(v) EDGEC_BELOW_3(v), EDGEC_BELOW_3(((v) << 4) | 3U)
#define EDGEC_BELOW_5(v) EDGEC_BELOW_4(v), EDGEC_BELOW_4(((v) << 4) | 4U)
#define EDGEC_BELOW_6(v) EDGEC_BELOW_5(v), EDGEC_BELOW_5(((v) << 4) | 5U)
#define EDGEC_BELOW_7(v) EDGEC_BELOW_6(v), EDGEC_BELOW_6(((v) << 4) | 6U)
#define EDGEC_BELOW_8(v) EDGEC_BELOW_7(v), EDGEC_BELOW_7(((v) << 4) | 7U)

const uint32_t edgec_mask_positions[256] = {EDGEC_BELOW_8(0U)};

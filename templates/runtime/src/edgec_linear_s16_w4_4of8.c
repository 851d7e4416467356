#include "edgec_mask_positions.h"

#define EDGEC_ACTIVATION int16_t
#define EDGEC_FIELD_BITS 4
#define EDGEC_REMOVED 4
#define EDGEC_GROUP 8
#define EDGEC_LINEAR_KERNEL edgec_linear_s16_w4_4of8
#include "edgec_sparse_body.h"

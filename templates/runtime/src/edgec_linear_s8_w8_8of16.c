#include "edgec_mask_positions.h"
#include "edgec_mask_tops.h"

#define EDGEC_ACTIVATION int8_t
#define EDGEC_FIELD_BITS 8
#define EDGEC_REMOVED 8
#define EDGEC_GROUP 16
#define EDGEC_LINEAR_KERNEL edgec_linear_s8_w8_8of16
#include "edgec_sparse_body.h"

#define EDGEC_ACTIVATION int16_t
#define EDGEC_FIELD_BITS 2
#define EDGEC_REMOVED 12
#define EDGEC_GROUP 16
#define EDGEC_LINEAR_KERNEL edgec_linear_s16_w2_12of16
#include "edgec_sparse_body.h"

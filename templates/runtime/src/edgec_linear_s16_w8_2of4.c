#define EDGEC_ACTIVATION int16_t
#define EDGEC_FIELD_BITS 8
#define EDGEC_REMOVED 2
#define EDGEC_GROUP 4
#define EDGEC_LINEAR_KERNEL edgec_linear_s16_w8_2of4
#include "edgec_sparse_body.h"

#define EDGEC_ACTIVATION int16_t
#define EDGEC_FIELD_BITS 2
#define EDGEC_REMOVED 1
#define EDGEC_GROUP 2
#define EDGEC_LINEAR_KERNEL edgec_linear_s16_w2_1of2
#include "edgec_sparse_body.h"

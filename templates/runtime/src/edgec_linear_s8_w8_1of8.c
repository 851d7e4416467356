#define EDGEC_ACTIVATION int8_t
#define EDGEC_FIELD_BITS 8
#define EDGEC_REMOVED 1
#define EDGEC_GROUP 8
#define EDGEC_LINEAR_KERNEL edgec_linear_s8_w8_1of8
#include "edgec_sparse_body.h"

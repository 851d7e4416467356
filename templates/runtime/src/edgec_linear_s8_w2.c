#define EDGEC_ACTIVATION_BITS 8
#define EDGEC_FIELD_BITS 2
#define EDGEC_LINEAR_KERNEL edgec_linear_s8_w2
#include "edgec_linear_body.h"

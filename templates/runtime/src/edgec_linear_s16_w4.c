#define EDGEC_ACTIVATION_BITS 16
#define EDGEC_FIELD_BITS 4
#define EDGEC_LINEAR_KERNEL edgec_linear_s16_w4
#include "edgec_linear_body.h"

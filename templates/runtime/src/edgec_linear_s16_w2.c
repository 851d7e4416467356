#define EDGEC_ACTIVATION_BITS 16
#define EDGEC_FIELD_BITS 2
#define EDGEC_LINEAR_KERNEL edgec_linear_s16_w2
#include "edgec_linear_body.h"

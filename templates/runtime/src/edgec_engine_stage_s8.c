#define EDGEC_ACTIVATION int8_t
#define EDGEC_HALVES 1
#define EDGEC_ENGINE_STAGE edgec_engine_stage_s8
#include "edgec_engine_stage_body.h"

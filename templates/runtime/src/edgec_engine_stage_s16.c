#define EDGEC_ACTIVATION int16_t
#define EDGEC_HALVES 2
#define EDGEC_ENGINE_STAGE edgec_engine_stage_s16
#include "edgec_engine_stage_body.h"

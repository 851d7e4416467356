#define EDGEC_ACTIVATION int16_t
#define EDGEC_HALVES 2
#define EDGEC_ENGINE_ROWS edgec_engine_rows_s16
#include "edgec_engine_rows_body.h"

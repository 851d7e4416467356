#define EDGEC_ACTIVATION int8_t
#define EDGEC_HALVES 1
#define EDGEC_ENGINE_ROWS edgec_engine_rows_s8
#include "edgec_engine_rows_body.h"

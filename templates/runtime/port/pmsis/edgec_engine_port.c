/* The SDK has no driver of the engine; its registers are where the bare-metal port has them. */
#include "../siracusa/edgec_engine_port.c"

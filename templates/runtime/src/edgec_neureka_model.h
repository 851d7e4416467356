/* The N-EUREKA engine in C, for ports without one.
 *
 * Registers hold target addresses; a table of windows says where their bytes are on this machine.
 * A job that the engine does not define, or that reaches outside the windows, is refused as a whole
 * before anything is written. */
#ifndef EDGEC_NEUREKA_MODEL_H
#define EDGEC_NEUREKA_MODEL_H

#include "edgec_port.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum edgec_neureka_status {
    EDGEC_NEUREKA_OK = 0,
    EDGEC_NEUREKA_BAD_JOB = 1,  /* registers that are not a defined job */
    EDGEC_NEUREKA_OVERLAP = 2,  /* the output overlaps what the job reads */
    EDGEC_NEUREKA_OUTSIDE = 3,  /* an address in no window, or an output in a read-only one */
    EDGEC_NEUREKA_BAD_SHIFT = 4 /* a shift per channel above 31 */
} edgec_neureka_status;

/* Runs one job to its end.
 * registers: EDGEC_ENGINE_REGISTERS words.
 * weight_base: target address that offsets of weights count from.
 * windows: count of them, in any order; what one job reads or writes in one go lies in one. */
edgec_neureka_status edgec_neureka_model(const uint32_t *registers, uint32_t weight_base,
                                         const edgec_engine_window *windows, uint32_t count);

#ifdef __cplusplus
}
#endif

#endif

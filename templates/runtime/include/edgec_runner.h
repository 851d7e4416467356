/* What the bundle's test programs ask of a port, beyond edgec_port.h.
 * Firmware has its own start-up, console and team, and does not need this file. */
#ifndef EDGEC_RUNNER_H
#define EDGEC_RUNNER_H

#include "edgec_types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef void (*edgec_core_entry)(const edgec_worker *worker, void *argument);

/* Calls entry once on each of `cores` cores, the caller being core 0, and returns after all of
 * them have returned. partials: [EDGEC_MAX_CORES]. EDGEC_BAD_ARGUMENT when the port does not have
 * so many cores, and then entry was not called. */
edgec_status edgec_run_team(uint32_t cores, edgec_partial *partials, edgec_core_entry entry,
                            void *argument);

/* Writes size raw bytes to the standard output. */
void edgec_write(const void *data, uint32_t size);

/* Ticks of a counter that only grows; core 0 alone reads it. */
uint64_t edgec_clock(void);

/* What a tick is: "instructions", "cycles" or "ns". */
extern const char edgec_clock_unit[];

#ifdef __cplusplus
}
#endif

#endif

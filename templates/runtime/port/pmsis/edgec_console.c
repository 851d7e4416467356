/* Example: output and clock of the test programs on the vendor SDK's API (PMSIS). */
#include "edgec_runner.h"

#include <stdio.h>

#include "pmsis.h"

const char edgec_clock_unit[] = "cycles";

void edgec_write(const void *data, uint32_t size) {
    const uint8_t *const bytes = (const uint8_t *)data;
    for (uint32_t i = 0U; i < size; i++) {
        (void)putchar(bytes[i]);
    }
}

/* The SDK's counter has 32 bits; a step is far shorter than that. */
uint64_t edgec_clock(void) {
    static uint32_t high;
    static uint32_t last;
    static int running;
    if (!running) {
        pi_perf_conf(1U << PI_PERF_CYCLES);
        pi_perf_reset();
        pi_perf_start();
        running = 1;
    }
    const uint32_t cycles = pi_perf_read(PI_PERF_CYCLES);
    high += cycles < last ? 1U : 0U;
    last = cycles;
    return (uint64_t)high << 32 | cycles;
}

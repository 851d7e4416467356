/* Runs the jobs of neureka_cases.h one after another on one memory and reports each. */
#include "edgec_blob.h"
#include "edgec_neureka_model.h"
#include "edgec_port.h"
#include "edgec_runner.h"

#include "neureka_cases.h"

int main(void);

static uint8_t l1[L1_SIZE];
static uint8_t nms[NMS_SIZE];

static void fill(uint8_t *bytes, uint32_t size, uint32_t seed) {
    for (uint32_t i = 0U; i < size; i++) {
        bytes[i] = (uint8_t)(((i + seed) * 2654435761U) >> 11);
    }
}

int main(void) {
    const edgec_engine_window windows[2] = {{NMS, NMS_SIZE, nms, NULL}, {L1, L1_SIZE, l1, l1}};
    fill(l1, L1_SIZE, 1U);
    fill(nms, NMS_SIZE, 77777U);
    for (uint32_t n = 0U; n < CASES; n++) {
        uint32_t result[2];
        for (uint32_t i = 0U; i < SHIFTS[n][1]; i++) {
            l1[SHIFTS[n][0] + i] &= 31U;
        }
        result[0] = (uint32_t)edgec_neureka_model(JOBS[n], NMS, windows, 2U);
        result[1] = edgec_crc32(0U, l1, L1_SIZE);
        edgec_write(result, sizeof result);
    }
    return 0;
}

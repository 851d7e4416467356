#include "edgec_blob.h"

int edgec_blob_same_build(const uint8_t *a, const uint8_t *b) {
    uint32_t i = 72U;
    while (i < 88U && a[i] == b[i]) {
        i++;
    }
    return i == 88U;
}

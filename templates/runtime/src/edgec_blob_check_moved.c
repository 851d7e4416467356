#include "edgec_blob.h"
#include "edgec_port.h"

#define PAYLOAD_CRC 36U /* offset in the header */

static void move(uint8_t *buffer, const uint8_t *source, uint32_t size) {
    edgec_dma dma;
    edgec_dma_start(&dma, buffer, source, size);
    edgec_dma_wait(&dma);
}

static uint32_t read_u32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

edgec_status edgec_blob_check_moved(const uint8_t *blob, const edgec_blob_expect *expect,
                                    int check_payload, uint8_t *buffer, uint32_t size) {
    if (blob == NULL || buffer == NULL || expect == NULL || expect->alignment == 0U ||
        size < EDGEC_BLOB_HEADER_SIZE) {
        return EDGEC_BAD_ARGUMENT;
    }
    if ((uintptr_t)blob % expect->alignment != 0U) {
        return EDGEC_MISALIGNED;
    }
    edgec_blob_expect in_buffer = *expect;
    in_buffer.alignment = 1U; /* of the copy */
    move(buffer, blob, EDGEC_BLOB_HEADER_SIZE);
    const edgec_status status = edgec_blob_check(buffer, &in_buffer, 0);
    if (status != EDGEC_OK || check_payload == 0) {
        return status;
    }
    const uint32_t expected = read_u32(buffer + PAYLOAD_CRC);
    uint32_t crc = 0U;
    uint32_t count = 0U;
    for (uint32_t done = EDGEC_BLOB_HEADER_SIZE; done < expect->length; done += count) {
        const uint32_t left = expect->length - done;
        count = left < size ? left : size;
        move(buffer, blob + done, count);
        crc = edgec_crc32(crc, buffer, count);
    }
    move(buffer, blob, EDGEC_BLOB_HEADER_SIZE);
    return crc == expected ? EDGEC_OK : EDGEC_BAD_PAYLOAD_CRC;
}

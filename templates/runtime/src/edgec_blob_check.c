#include "edgec_blob.h"

#define FORMAT_VERSION 1U

static uint32_t read_u16(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

static uint32_t read_u32(const uint8_t *p) {
    return read_u16(p) | read_u16(p + 2) << 16;
}

static int equal(const uint8_t *a, const uint8_t *b, uint32_t size) {
    uint32_t i = 0U;
    while (i < size && a[i] == b[i]) {
        i++;
    }
    return i == size;
}

/* What can be said before the header is known to be undamaged. */
static edgec_status check_format(const uint8_t *blob) {
    static const uint8_t magic[8] = {0x45, 0x44, 0x47, 0x45, 0x43, 0x42, 0x4C, 0x42};
    const union {
        uint8_t bytes[4];
        uint32_t word; /* as this core reads weights, unlike read_u32 */
    } mark = {{blob[12], blob[13], blob[14], blob[15]}};
    if (!equal(blob, magic, sizeof magic)) {
        return EDGEC_BAD_MAGIC;
    }
    if (mark.word != 0x01020304U) {
        return EDGEC_BAD_BYTE_ORDER;
    }
    if (read_u16(blob + 8) != FORMAT_VERSION || read_u16(blob + 10) != EDGEC_BLOB_HEADER_SIZE) {
        return EDGEC_BAD_VERSION;
    }
    return EDGEC_OK;
}

edgec_status edgec_blob_check(const uint8_t *blob, const edgec_blob_expect *expect,
                              int check_payload) {
    if (blob == NULL || expect == NULL || expect->graph_hash == NULL ||
        expect->length < EDGEC_BLOB_HEADER_SIZE || expect->alignment == 0U) {
        return EDGEC_BAD_ARGUMENT;
    }
    if ((uintptr_t)blob % expect->alignment != 0U) {
        return EDGEC_MISALIGNED;
    }
    const edgec_status format = check_format(blob);
    if (format != EDGEC_OK) {
        return format;
    }
    if (edgec_crc32(0U, blob, 92U) != read_u32(blob + 92)) {
        return EDGEC_BAD_HEADER_CRC;
    }
    if (read_u32(blob + 16) != expect->target || read_u32(blob + 20) != expect->region) {
        return EDGEC_BAD_TARGET;
    }
    if (!equal(blob + 40, expect->graph_hash, 32U)) {
        return EDGEC_BAD_GRAPH;
    }
    if (read_u32(blob + 32) != expect->length) {
        return EDGEC_BAD_LENGTH;
    }
    if (check_payload != 0 &&
        edgec_crc32(0U, blob + EDGEC_BLOB_HEADER_SIZE, expect->length - EDGEC_BLOB_HEADER_SIZE) !=
            read_u32(blob + 36)) {
        return EDGEC_BAD_PAYLOAD_CRC;
    }
    return EDGEC_OK;
}

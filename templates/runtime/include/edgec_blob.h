/* The header of a weight blob, and its check. All fields little-endian. */
#ifndef EDGEC_BLOB_H
#define EDGEC_BLOB_H

#include "edgec_types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* offset size field
 *      0    8 magic "EDGECBLB"
 *      8    2 format version, 1
 *     10    2 header size, 96
 *     12    4 byte order mark 0x01020304
 *     16    4 CRC32 of the target's name
 *     20    4 CRC32 of the region's name
 *     24    4 entries in the table of contents
 *     28    4 offset of the first tensor
 *     32    4 length of the whole blob
 *     36    4 CRC32 of bytes 96 .. length-1
 *     40   32 graph hash (SHA-256 of architecture and memory plan)
 *     72   16 build id, the same in all blobs of one build
 *     88    4 zero
 *     92    4 CRC32 of bytes 0 .. 91
 * then 16 bytes per tensor: CRC32 of its name, offset, size, packing code. */
#define EDGEC_BLOB_HEADER_SIZE 96U

/* What the generated code was built for. */
typedef struct edgec_blob_expect {
    uint32_t target;
    uint32_t region;
    uint32_t length;
    uint32_t alignment;
    const uint8_t *graph_hash; /* 32 bytes */
} edgec_blob_expect;

/* Checks the header of blob, and when check_payload is not 0 the CRC of everything behind it. */
edgec_status edgec_blob_check(const uint8_t *blob, const edgec_blob_expect *expect,
                              int check_payload);

/* The same for a blob in memory that only DMA reads: `blob` is its address there. Its bytes pass
 * through buffer, of `size` >= EDGEC_BLOB_HEADER_SIZE bytes, which has the header at the end. */
edgec_status edgec_blob_check_moved(const uint8_t *blob, const edgec_blob_expect *expect,
                                    int check_payload, uint8_t *buffer, uint32_t size);

/* Not 0 when two blobs with checked headers belong to the same build. */
int edgec_blob_same_build(const uint8_t *a, const uint8_t *b);

/* CRC-32 (IEEE 802.3, reflected, as zlib's crc32) of size bytes, continued from crc (0 to begin).
 */
uint32_t edgec_crc32(uint32_t crc, const uint8_t *data, uint32_t size);

#ifdef __cplusplus
}
#endif

#endif

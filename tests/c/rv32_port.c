/* Checks memcpy and memset of the rv32 port byte by byte; exit code 7 when all is well. */
#include "edgec_port.h"
#include "edgec_runner.h"

#define ROOM 48U

void *memcpy(void *destination, const void *source, size_t size);
void *memset(void *destination, int value, size_t size);
int main(void);

static uint8_t source[ROOM] __attribute__((aligned(4)));
static uint8_t target[ROOM] __attribute__((aligned(4)));
static uint32_t zeroed[4]; /* by the start-up code */

static void prepare(void) {
    for (uint32_t i = 0U; i < ROOM; i++) {
        source[i] = (uint8_t)(i + 1U);
        target[i] = 0xEEU;
    }
}

static int copied(uint32_t from, uint32_t to, uint32_t size) {
    prepare();
    int good = memcpy(target + to, source + from, size) == target + to;
    for (uint32_t i = 0U; i < ROOM; i++) {
        const int inside = i >= to && i < to + size;
        good &= target[i] == (inside ? source[i - to + from] : 0xEEU);
    }
    return good;
}

static int set(uint32_t to, uint32_t size) {
    prepare();
    int good = memset(target + to, 0x1234, size) == target + to;
    for (uint32_t i = 0U; i < ROOM; i++) {
        good &= target[i] == (i >= to && i < to + size ? 0x34U : 0xEEU);
    }
    return good;
}

static void entry(const edgec_worker *worker, void *argument) {
    edgec_barrier(worker);
    *(uint32_t *)argument += 1U + worker->id + (worker->count - 1U);
}

int main(void) {
    uint32_t calls = 0U;
    int good = zeroed[0] == 0U && zeroed[3] == 0U;
    for (uint32_t offset = 0U; offset < 4U; offset++) {
        for (uint32_t size = 0U; size < 40U; size++) {
            good &= copied(offset, 0U, size) & copied(0U, offset, size);
            good &= copied(offset, offset, size) & set(offset, size);
        }
    }
    good &= edgec_run_team(1U, NULL, entry, &calls) == EDGEC_OK && calls == 1U;
    good &= edgec_run_team(2U, NULL, entry, &calls) == EDGEC_BAD_ARGUMENT && calls == 1U;
#ifdef TRAP
    __asm__ volatile("unimp");
#endif
    const uint64_t before = edgec_clock();
    edgec_write("hello\0\xff\n", 8U);
    good &= edgec_clock() - before > 10U;
    return good ? 7 : 1;
}

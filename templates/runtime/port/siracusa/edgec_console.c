/* Output, end and counters of the bare-metal port. */
#include "edgec_runner.h"
#include "edgec_siracusa.h"

_Noreturn void edgec_exit(int code);
_Noreturn void edgec_trap(uint32_t cause, uint32_t address, uint32_t core);

static uint32_t hart(void) {
    uint32_t id;
    __asm__ volatile("csrr %0, mhartid" : "=r"(id));
    return id;
}

void edgec_write(const void *data, uint32_t size) {
    const uint32_t id = hart();
    const uint32_t place = SIRACUSA_STDOUT + ((id & 31U) << 3) + ((id >> 5) << 7);
    volatile uint8_t *const out = (volatile uint8_t *)(uintptr_t)place;
    const uint8_t *const bytes = (const uint8_t *)data;
    for (uint32_t i = 0U; i < size; i++) {
        *out = bytes[i];
    }
}

_Noreturn void edgec_exit(int code) {
    volatile uint32_t *const end = (volatile uint32_t *)(uintptr_t)SIRACUSA_EXIT;
    for (;;) {
        *end = 0x80000000U | (uint32_t)code;
    }
}

const char edgec_clock_unit[] = "cycles";

/* Cycles of core 0. The upper half of the counter is not documented: it is counted here, and a
 * step is far shorter than 2^32 cycles. */
uint64_t edgec_clock(void) {
    static uint32_t high;
    static uint32_t last;
    uint32_t cycles;
    __asm__ volatile("csrr %0, mcycle" : "=r"(cycles));
    high += cycles < last ? 1U : 0U;
    last = cycles;
    return (uint64_t)high << 32 | cycles;
}

static void write_hex(uint32_t value) {
    char text[9];
    for (uint32_t i = 0U; i < 8U; i++) {
        text[i] = "0123456789abcdef"[(value >> (28U - 4U * i)) & 15U];
    }
    text[8] = ' ';
    edgec_write(text, sizeof text);
}

/* Called by the start-up code on any exception: names it and gives up. */
_Noreturn void edgec_trap(uint32_t cause, uint32_t address, uint32_t core) {
    edgec_write("trap: cause, address, core ", 27U);
    write_hex(cause);
    write_hex(address);
    write_hex(core);
    edgec_write("\n", 1U);
    edgec_exit(99);
}

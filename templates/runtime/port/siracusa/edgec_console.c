/* Output, end and counters of the bare-metal port. */
#include "edgec_runner.h"
#include "edgec_siracusa.h"

_Noreturn void edgec_exit(int code);
_Noreturn void edgec_trap(uint32_t cause, uint32_t address, uint32_t core);

static uint8_t last_byte = '\n';

/* All cores write to the controller's channel: the device keeps the lines of channels apart. */
void edgec_write(const void *data, uint32_t size) {
    const uint32_t place = SIRACUSA_STDOUT + (SIRACUSA_CONTROLLER_CLUSTER << 7);
    volatile uint8_t *const out = (volatile uint8_t *)(uintptr_t)place;
    const uint8_t *const bytes = (const uint8_t *)data;
    for (uint32_t i = 0U; i < size; i++) {
        *out = bytes[i];
        last_byte = bytes[i];
    }
}

/* The device passes on whole lines: what is left of a dump needs one more end. */
_Noreturn void edgec_exit(int code) {
    volatile uint32_t *const end = (volatile uint32_t *)(uintptr_t)SIRACUSA_EXIT;
    if (last_byte != '\n') {
        edgec_write("\n", 1U);
    }
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

/* Exceptions of the privileged architecture, by mcause; the rest is told by its number. */
static const char *name_of(uint32_t cause) {
    static const char *const names[] = {
        "fetch from a misaligned address",
        "fetch from where nothing is",
        "illegal instruction",
        "breakpoint",
        "load from a misaligned address",
        "load from where nothing is",
        "store to a misaligned address",
        "store to where nothing is",
    };
    if (cause == 11U) { /* what the GVSoC model gives for an illegal instruction */
        return "illegal instruction or environment call";
    }
    return cause < sizeof names / sizeof names[0] ? names[cause] : "exception";
}

static void write_text(const char *text) {
    uint32_t size = 0U;
    while (text[size] != '\0') {
        size++;
    }
    edgec_write(text, size);
}

/* Called by the start-up code on any exception: names it and gives up. `core` is mhartid: 5 bits
 * of core, the cluster above. */
_Noreturn void edgec_trap(uint32_t cause, uint32_t address, uint32_t core) {
    write_text("trap: ");
    write_text(name_of(cause));
    write_text("; cause, address, core ");
    write_hex(cause);
    write_hex(address);
    write_hex(core);
    write_text("\n");
    edgec_exit(99);
}

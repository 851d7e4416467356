/* Output, exit and instruction counter of a simulated RV32 core: system calls of Linux when
 * EDGEC_RV32_LINUX is defined (qemu-riscv32), else those of the host-target interface (spike).
 * Both number them alike. */
#include "edgec_runner.h"

#define SYSTEM_CALL_WRITE 64U
#define SYSTEM_CALL_EXIT 93U
#define STANDARD_OUTPUT 1U

_Noreturn void edgec_exit(int code);

const char edgec_clock_unit[] = "instructions";

#ifdef EDGEC_RV32_LINUX

static uint32_t system_call(uint32_t number, uint32_t first, uint32_t second, uint32_t third) {
    register uint32_t a0 __asm__("a0") = first;
    register uint32_t a1 __asm__("a1") = second;
    register uint32_t a2 __asm__("a2") = third;
    register uint32_t a7 __asm__("a7") = number;
    __asm__ volatile("ecall" : "+r"(a0) : "r"(a1), "r"(a2), "r"(a7) : "memory");
    return a0;
}

_Noreturn void edgec_exit(int code) {
    for (;;) {
        (void)system_call(SYSTEM_CALL_EXIT, (uint32_t)code, 0U, 0U);
    }
}

/* A process on an emulator sees no meaningful counter. */
uint64_t edgec_clock(void) {
    return 0U;
}

#else

/* The simulator finds these two by their names. */
extern volatile uint64_t tohost;
extern volatile uint64_t fromhost;
__attribute__((section(".tohost"), aligned(64), used)) volatile uint64_t tohost;
__attribute__((section(".tohost"), aligned(64), used)) volatile uint64_t fromhost;

static uint32_t system_call(uint32_t number, uint32_t first, uint32_t second, uint32_t third) {
    static volatile uint64_t call[8] __attribute__((aligned(64)));
    call[0] = number;
    call[1] = first;
    call[2] = second;
    call[3] = third;
    __asm__ volatile("fence" ::: "memory");
    tohost = (uint32_t)(uintptr_t)call;
    while (fromhost == 0U) {
    }
    fromhost = 0U;
    __asm__ volatile("fence" ::: "memory");
    return (uint32_t)call[0];
}

_Noreturn void edgec_exit(int code) {
    for (;;) {
        tohost = (uint64_t)(uint32_t)code << 1 | 1U;
    }
}

uint64_t edgec_clock(void) {
    uint32_t low = 0U;
    uint32_t high = 0U;
    uint32_t again = 1U;
    while (high != again) { /* the lower half may wrap between the two reads */
        __asm__ volatile("csrr %0, minstreth" : "=r"(high));
        __asm__ volatile("csrr %0, minstret" : "=r"(low));
        __asm__ volatile("csrr %0, minstreth" : "=r"(again));
    }
    return (uint64_t)high << 32 | low;
}

static void write_hex(uint32_t value) {
    char text[9];
    for (uint32_t i = 0U; i < 8U; i++) {
        text[i] = "0123456789abcdef"[(value >> (28U - 4U * i)) & 15U];
    }
    text[8] = ' ';
    edgec_write(text, sizeof text);
}

_Noreturn void edgec_trap(uint32_t cause, uint32_t address, uint32_t value);

/* Called by the start-up code on any exception: names it and gives up. */
_Noreturn void edgec_trap(uint32_t cause, uint32_t address, uint32_t value) {
    edgec_write("trap: cause, address, value ", 28U);
    write_hex(cause);
    write_hex(address);
    write_hex(value);
    edgec_write("\n", 1U);
    edgec_exit(99);
}

#endif

void edgec_write(const void *data, uint32_t size) {
    const uint8_t *next = (const uint8_t *)data;
    while (size != 0U) {
        const uint32_t written =
            system_call(SYSTEM_CALL_WRITE, STANDARD_OUTPUT, (uint32_t)(uintptr_t)next, size);
        if (written == 0U || written > size) { /* an error is a large number */
            return;
        }
        next += written;
        size -= written;
    }
}

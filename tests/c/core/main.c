/* One core with the host-target interface of the rv32 port. */
#include "core.h"

#include <stdio.h>
#include <stdlib.h>

/* Returns the exit code when the program has asked for its end, else -1. */
static int serve_host(core *c, uint32_t tohost, uint32_t fromhost) {
    const uint32_t request = core_load(c, tohost, 4U);
    if ((request & 1U) != 0U) {
        return (int)(request >> 1);
    }
    const uint32_t call = request;
    if (core_load(c, call, 4U) != 64U) {
        core_fault(c, "unknown system call", core_load(c, call, 4U));
    }
    const uint32_t size = core_load(c, call + 24U, 4U);
    (void)fwrite(core_bytes(c, core_load(c, call + 16U, 4U), size), 1U, size, stdout);
    core_store(c, call, size, 4U);
    core_store(c, tohost, 0U, 4U);
    core_store(c, fromhost, 1U, 4U);
    return -1;
}

/* core ELF: runs the program until it asks for its end; exit code: its own. */
int main(int argc, char **argv) {
    static core c;
    uint8_t *const elf = argc == 2 ? elf_read(argv[1]) : NULL;
    core_memory ram = {0x80000000U, 64U << 20, calloc(64U << 20, 1U), false};
    c.memories = &ram;
    c.memory_count = 1U;
    if (elf == NULL || ram.bytes == NULL) {
        (void)fprintf(stderr, "usage: core ELF\n");
        return 97;
    }
    elf_load(&c, elf);
    const uint32_t tohost = elf_symbol(elf, "tohost");
    const uint32_t fromhost = elf_symbol(elf, "fromhost");
    free(elf);
    if (tohost == 0U || fromhost == 0U) {
        core_fault(&c, "the program has no host-target interface", 0U);
    }
    int code = -1;
    while (code < 0) {
        core_step(&c);
        if (core_load(&c, tohost, 4U) != 0U) {
            code = serve_host(&c, tohost, fromhost);
        }
    }
    free(ram.bytes);
    return code;
}

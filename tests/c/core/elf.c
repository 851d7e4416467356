/* The ELF file of a program: its segments and symbols. */
#include "core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t word_at(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

void elf_load(core *c, const uint8_t *elf) {
    const uint8_t *header = elf + word_at(elf + 28);
    const uint32_t count = word_at(elf + 44) & 0xFFFFU;
    c->pc = word_at(elf + 24);
    for (uint32_t i = 0U; i < count; i++, header += 32) {
        const uint32_t file_size = word_at(header + 16);
        if (word_at(header) == 1U && file_size != 0U) {
            memcpy(core_bytes(c, word_at(header + 12), file_size), elf + word_at(header + 4),
                   file_size);
        }
    }
}

uint8_t *elf_read(const char *path) {
    FILE *const file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0L, SEEK_END) != 0) {
        return NULL;
    }
    const long size = ftell(file);
    uint8_t *const data = size > 0L ? malloc((size_t)size) : NULL;
    rewind(file);
    if (data != NULL && fread(data, 1U, (size_t)size, file) != (size_t)size) {
        free(data);
        return NULL;
    }
    (void)fclose(file);
    return data;
}

uint32_t elf_symbol(const uint8_t *elf, const char *name) {
    const uint8_t *const sections = elf + word_at(elf + 32);
    const uint32_t count = word_at(elf + 48) & 0xFFFFU;
    for (uint32_t i = 0U; i < count; i++) {
        const uint8_t *const table = sections + 40U * i;
        if (word_at(table + 4) != 2U) { /* SHT_SYMTAB */
            continue;
        }
        const uint8_t *const names = elf + word_at(sections + 40U * word_at(table + 24) + 16);
        const uint8_t *entry = elf + word_at(table + 16);
        for (uint32_t left = word_at(table + 20) / 16U; left != 0U; left--, entry += 16) {
            if (strcmp((const char *)names + word_at(entry), name) == 0) {
                return word_at(entry + 4);
            }
        }
    }
    return 0U;
}

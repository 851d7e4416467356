/* Cores that keep their step from call to call: what other calls do between has no effect. */
#include <stdio.h>

#include "tiny_linked.h"
#include "tiny_port.h"
#include "tiny_selftest.h"

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            printf("line %d: %s\n", __LINE__, #condition);                                         \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

#define STEPS 4

static _Alignas(16) uint8_t memory[16384];
static _Alignas(TINY_ARENA_L1_ALIGNMENT) uint8_t l1[TINY_ARENA_L1_SIZE];

void *tiny_core_memory(const tiny_worker *worker, uint32_t size) {
    (void)worker;
    return size <= sizeof memory ? memory : NULL;
}

int main(void) {
    const tiny_memory first_memory = tiny_linked_memory();
    tiny_memory second_memory = first_memory;
    const tiny_core core = {0U, 1U, NULL};
    tiny_context first;
    tiny_context second;
    tiny_output out;
    int32_t tokens[STEPS];
    int32_t want[STEPS];

    second_memory.arena_l1 = l1;
    CHECK(tiny_init(&first, &first_memory, 1) == TINY_OK);
    CHECK(tiny_init(&second, &second_memory, 1) == TINY_OK);
    for (uint32_t i = 0U; i < STEPS; i++) {
        tokens[i] = tiny_selftest_token(i);
        CHECK(tiny_step(&first, &core, tokens[i], &out) == TINY_OK);
        want[i] = out.next;
    }

    /* two contexts in turn */
    tiny_reset(&first);
    for (uint32_t i = 0U; i < STEPS; i++) {
        CHECK(tiny_step(&first, &core, tokens[i], &out) == TINY_OK && out.next == want[i]);
        CHECK(tiny_step(&second, &core, tokens[i], &out) == TINY_OK && out.next == want[i]);
    }

    /* the same context in other memory, then back in the first one */
    CHECK(tiny_init(&first, &second_memory, 1) == TINY_OK);
    CHECK(tiny_step(&first, &core, tokens[0], &out) == TINY_OK && out.next == want[0]);
    CHECK(tiny_init(&first, &first_memory, 1) == TINY_OK);
    CHECK(tiny_step(&first, &core, tokens[0], &out) == TINY_OK && out.next == want[0]);

    /* a prompt behind a step, and a step behind a prompt */
    CHECK(tiny_prefill(&first, &core, tokens + 1, STEPS - 2U, &out) == TINY_OK);
    CHECK(out.next == want[STEPS - 2]);
    CHECK(tiny_step(&first, &core, tokens[STEPS - 1], &out) == TINY_OK);
    CHECK(out.next == want[STEPS - 1]);

    /* back to a position */
    CHECK(tiny_seek(&first, 1U) == TINY_OK);
    CHECK(tiny_step(&first, &core, tokens[1], &out) == TINY_OK && out.next == want[1]);
    return 0;
}

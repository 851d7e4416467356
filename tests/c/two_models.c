/* Two generated models in one program, and two contexts of one of them: nothing is shared. */
#include <stdio.h>

#include "other_linked.h"
#include "other_selftest.h"
#include "tiny_linked.h"
#include "tiny_selftest.h"

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            printf("line %d: %s\n", __LINE__, #condition);                                         \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

#define STEPS 4

/* A second arena for the first model. */
static _Alignas(TINY_ARENA_L1_ALIGNMENT) uint8_t l1[TINY_ARENA_L1_SIZE];

int main(void) {
    const tiny_memory first_memory = tiny_linked_memory();
    const tiny_memory second_memory = {first_memory.weights_mram, first_memory.weights_tile_sram,
                                       l1};
    const other_memory third_memory = other_linked_memory();
    const tiny_core tiny = {0U, 1U, NULL};
    const other_core other = {0U, 1U, NULL};
    tiny_context first;
    tiny_context second;
    other_context third;
    tiny_output out[2];
    other_output other_out;
    int32_t alone[STEPS];
    int32_t other_alone[STEPS];

    CHECK(tiny_init(&first, &first_memory, 1) == TINY_OK);
    CHECK(tiny_init(&second, &second_memory, 1) == TINY_OK);
    CHECK(other_init(&third, &third_memory, 1) == OTHER_OK);

    /* each by itself */
    for (int i = 0; i < STEPS; i++) {
        CHECK(tiny_step(&first, &tiny, tiny_selftest_token((uint32_t)i), &out[0]) == TINY_OK);
        alone[i] = out[0].next;
    }
    for (int i = 0; i < STEPS; i++) {
        CHECK(other_step(&third, &other, other_selftest_token((uint32_t)i), &other_out) ==
              OTHER_OK);
        other_alone[i] = other_out.next;
    }
    tiny_reset(&first);
    other_reset(&third);

    /* interleaved, the second context one step behind the first */
    for (int i = 0; i <= STEPS; i++) {
        if (i < STEPS) {
            const uint32_t step = (uint32_t)i;
            CHECK(tiny_step(&first, &tiny, tiny_selftest_token(step), &out[0]) == TINY_OK);
            CHECK(other_step(&third, &other, other_selftest_token(step), &other_out) == OTHER_OK);
            CHECK(out[0].next == alone[i]);
            CHECK(other_out.next == other_alone[i]);
        }
        if (i > 0) {
            const uint32_t step = (uint32_t)i - 1U;
            CHECK(tiny_step(&second, &tiny, tiny_selftest_token(step), &out[1]) == TINY_OK);
            CHECK(out[1].next == alone[i - 1]);
        }
    }
    CHECK(tiny_selftest(&first, &tiny, NULL) == TINY_SELFTEST_OK);
    CHECK(tiny_selftest(&second, &tiny, NULL) == TINY_SELFTEST_OK);
    CHECK(other_selftest(&third, &other, NULL) == OTHER_SELFTEST_OK);
    return 0;
}

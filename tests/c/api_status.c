/* Every status code of the generated interface, provoked on purpose. */
#include <stdio.h>
#include <string.h>

#include "tiny_blob.h"
#include "tiny_linked.h"
#include "tiny_selftest.h"

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            printf("line %d: %s\n", __LINE__, #condition);                                         \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

static _Alignas(64) uint8_t mram[TINY_WEIGHTS_MRAM_SIZE + 8U];
static _Alignas(64) uint8_t l1[TINY_ARENA_L1_SIZE + 4U];

/* Status of init with byte `offset` of the first blob changed by `mask`. */
static tiny_status init_spoiled(uint32_t offset, uint8_t mask, int check_payload) {
    tiny_memory memory = tiny_linked_memory();
    tiny_context context;
    memcpy(mram, memory.weights_mram, TINY_WEIGHTS_MRAM_SIZE);
    mram[offset] ^= mask;
    memory.weights_mram = mram;
    return tiny_init(&context, &memory, check_payload);
}

/* Status of init with a first blob that is sound and of another build. */
static tiny_status init_mixed(void) {
    tiny_memory memory = tiny_linked_memory();
    tiny_context context;
    memcpy(mram, memory.weights_mram, TINY_WEIGHTS_MRAM_SIZE);
    mram[72] ^= 1U;
    const uint32_t crc = tiny_crc32(0U, mram, 92U);
    for (uint32_t i = 0U; i < 4U; i++) {
        mram[92U + i] = (uint8_t)(crc >> (8U * i));
    }
    memory.weights_mram = mram;
    return tiny_init(&context, &memory, 1);
}

static int check_init(void) {
    const tiny_memory memory = tiny_linked_memory();
    tiny_context context;
    tiny_memory wrong = memory;
    CHECK(tiny_init(NULL, &memory, 0) == TINY_BAD_ARGUMENT);
    CHECK(tiny_init(&context, NULL, 0) == TINY_BAD_ARGUMENT);
    wrong.weights_tile_sram = NULL;
    CHECK(tiny_init(&context, &wrong, 0) == TINY_BAD_ARGUMENT);
    wrong = memory;
    wrong.arena_l1 = NULL;
    CHECK(tiny_init(&context, &wrong, 0) == TINY_BAD_ARGUMENT);
    wrong.arena_l1 = l1 + 4U;
    CHECK(tiny_init(&context, &wrong, 0) == TINY_MISALIGNED);
    wrong = memory;
    memcpy(mram + 8U, memory.weights_mram, TINY_WEIGHTS_MRAM_SIZE);
    wrong.weights_mram = mram + 8U;
    CHECK(tiny_init(&context, &wrong, 0) == TINY_MISALIGNED);
    wrong = memory;
    wrong.weights_tile_sram = memory.weights_mram; /* a sound blob in the wrong place */
    CHECK(tiny_init(&context, &wrong, 0) == TINY_BAD_TARGET);
    CHECK(init_mixed() == TINY_MIXED_BLOBS);
    wrong = memory;
    wrong.weights_mram = NULL;
    CHECK(tiny_init(&context, &wrong, 0) != TINY_OK);
    const tiny_core core = {0U, 1U, NULL};
    CHECK(tiny_step(&context, &core, 0, NULL) == TINY_CONTEXT_FULL); /* no step after a failure */
    CHECK(init_spoiled(0U, 1U, 0) == TINY_BAD_MAGIC);
    CHECK(init_spoiled(8U, 2U, 0) == TINY_BAD_VERSION);
    CHECK(init_spoiled(12U, 5U, 0) == TINY_BAD_BYTE_ORDER);
    CHECK(init_spoiled(32U, 1U, 0) == TINY_BAD_HEADER_CRC);
    CHECK(init_spoiled(40U, 1U, 0) == TINY_BAD_HEADER_CRC);
    CHECK(init_spoiled(TINY_WEIGHTS_MRAM_SIZE - 64U, 1U, 0) == TINY_OK);
    CHECK(init_spoiled(TINY_WEIGHTS_MRAM_SIZE - 64U, 1U, 1) == TINY_BAD_PAYLOAD_CRC);
    CHECK(init_spoiled(96U, 1U, 1) == TINY_BAD_PAYLOAD_CRC);
    return 0;
}

static int check_step(void) {
    const tiny_memory memory = tiny_linked_memory();
    const tiny_core core = {0U, 1U, NULL};
    const tiny_core no_team = {0U, 0U, NULL};
    const tiny_core too_many = {0U, TINY_MAX_CORES + 1U, NULL};
    const tiny_core outside = {1U, 1U, NULL};
    static int32_t logits[TINY_VOCABULARY_SIZE];
    tiny_context context;
    tiny_output out;
    CHECK(tiny_init(&context, &memory, 1) == TINY_OK);
    CHECK(tiny_step(NULL, &core, 0, &out) == TINY_BAD_ARGUMENT);
    CHECK(tiny_step(&context, NULL, 0, &out) == TINY_BAD_ARGUMENT);
    CHECK(tiny_step(&context, &no_team, 0, &out) == TINY_BAD_ARGUMENT);
    CHECK(tiny_step(&context, &too_many, 0, &out) == TINY_BAD_ARGUMENT);
    CHECK(tiny_step(&context, &outside, 0, &out) == TINY_BAD_ARGUMENT);
    CHECK(tiny_step(&context, &core, -1, &out) == TINY_BAD_TOKEN);
    CHECK(tiny_step(&context, &core, (int32_t)TINY_VOCABULARY_SIZE, &out) == TINY_BAD_TOKEN);
    CHECK(tiny_position(&context) == 0U);
    for (uint32_t i = 0U; i < TINY_CONTEXT_LENGTH; i++) {
        CHECK(tiny_step(&context, &core, (int32_t)i, i == 0U ? NULL : &out) == TINY_OK);
        CHECK(tiny_position(&context) == i + 1U);
    }
    memcpy(logits, out.logits, sizeof logits);
    CHECK(tiny_step(&context, &core, 0, &out) == TINY_CONTEXT_FULL);
    CHECK(tiny_position(&context) == TINY_CONTEXT_LENGTH);
    CHECK(tiny_seek(&context, TINY_CONTEXT_LENGTH + 1U) == TINY_BAD_ARGUMENT);
    CHECK(tiny_seek(NULL, 0U) == TINY_BAD_ARGUMENT);
    CHECK(tiny_seek(&context, TINY_CONTEXT_LENGTH - 1U) == TINY_OK);
    CHECK(tiny_step(&context, &core, 3, &out) == TINY_OK);
    CHECK(memcmp(logits, out.logits, sizeof logits) != 0);
    CHECK(tiny_seek(&context, TINY_CONTEXT_LENGTH - 1U) == TINY_OK);
    CHECK(tiny_step(&context, &core, (int32_t)TINY_CONTEXT_LENGTH - 1, &out) == TINY_OK);
    CHECK(memcmp(logits, out.logits, sizeof logits) == 0);
    tiny_reset(&context);
    CHECK(tiny_position(&context) == 0U);
    CHECK(tiny_weights_mram_size == TINY_WEIGHTS_MRAM_SIZE);
    CHECK(tiny_arena_l1_size == TINY_ARENA_L1_SIZE);
    return 0;
}

/* Prompts: what is refused changes nothing; every partition gives the bits of single steps. */
static int check_prefill(void) {
    const tiny_memory memory = tiny_linked_memory();
    const tiny_core core = {0U, 1U, NULL};
    const tiny_core no_team = {0U, 0U, NULL};
    static int32_t logits[TINY_CONTEXT_LENGTH][TINY_VOCABULARY_SIZE];
    static int32_t tokens[TINY_CONTEXT_LENGTH + 1U];
    tiny_context context;
    tiny_output out = {NULL, -7};
    for (uint32_t i = 0U; i <= TINY_CONTEXT_LENGTH; i++) {
        tokens[i] = (int32_t)((i * 37U + 11U) % TINY_VOCABULARY_SIZE);
    }
    CHECK(tiny_init(&context, &memory, 1) == TINY_OK);
    for (uint32_t i = 0U; i < TINY_CONTEXT_LENGTH; i++) {
        CHECK(tiny_step(&context, &core, tokens[i], &out) == TINY_OK);
        memcpy(logits[i], out.logits, sizeof logits[i]);
    }
    CHECK(tiny_prefill(&context, &core, tokens, 1U, &out) == TINY_CONTEXT_FULL);
    tiny_reset(&context);
    CHECK(tiny_step(&context, &core, tokens[0], NULL) == TINY_OK);
    out.next = -7;
    CHECK(tiny_prefill(NULL, &core, tokens, 1U, &out) == TINY_BAD_ARGUMENT);
    CHECK(tiny_prefill(&context, NULL, tokens, 1U, &out) == TINY_BAD_ARGUMENT);
    CHECK(tiny_prefill(&context, &no_team, tokens, 1U, &out) == TINY_BAD_ARGUMENT);
    CHECK(tiny_prefill(&context, &core, NULL, 1U, &out) == TINY_BAD_ARGUMENT);
    CHECK(tiny_prefill(&context, &core, tokens, 0U, &out) == TINY_BAD_ARGUMENT);
    CHECK(tiny_prefill(&context, &core, tokens, TINY_CONTEXT_LENGTH, &out) == TINY_CONTEXT_FULL);
    CHECK(tiny_prefill(&context, &core, tokens, TINY_CONTEXT_LENGTH + 1U, &out) ==
          TINY_CONTEXT_FULL);
    tokens[TINY_CONTEXT_LENGTH - 1U] = (int32_t)TINY_VOCABULARY_SIZE;
    CHECK(tiny_prefill(&context, &core, tokens + 1, TINY_CONTEXT_LENGTH - 1U, &out) ==
          TINY_BAD_TOKEN);
    tokens[TINY_CONTEXT_LENGTH - 1U] = -1;
    CHECK(tiny_prefill(&context, &core, tokens + 1, TINY_CONTEXT_LENGTH - 1U, &out) ==
          TINY_BAD_TOKEN);
    CHECK(tiny_position(&context) == 1U && out.next == -7);
    tokens[TINY_CONTEXT_LENGTH - 1U] =
        (int32_t)(((TINY_CONTEXT_LENGTH - 1U) * 37U + 11U) % TINY_VOCABULARY_SIZE);
    CHECK(tiny_prefill(&context, &core, tokens + 1, TINY_CONTEXT_LENGTH - 1U, NULL) == TINY_OK);
    /* bit i of `parts`: a prompt ends behind token i */
    for (uint32_t parts = 0U; parts < 1U << (TINY_CONTEXT_LENGTH - 1U); parts++) {
        uint32_t first = 0U;
        tiny_reset(&context);
        for (uint32_t i = 0U; i < TINY_CONTEXT_LENGTH; i++) {
            if ((parts >> i & 1U) != 0U || i + 1U == TINY_CONTEXT_LENGTH) {
                const uint32_t count = i + 1U - first;
                CHECK(tiny_prefill(&context, &core, tokens + first, count, &out) == TINY_OK);
                CHECK(memcmp(logits[i], out.logits, sizeof logits[i]) == 0);
                CHECK(tiny_position(&context) == i + 1U);
                first = i + 1U;
            }
        }
    }
    return 0;
}

/* A self-test that cannot fail proves nothing. */
static int check_selftest(void) {
    tiny_memory memory = tiny_linked_memory();
    const tiny_core core = {0U, 1U, NULL};
    tiny_context context;
    uint32_t step = 99U;
    CHECK(tiny_init(&context, &memory, 1) == TINY_OK);
    CHECK(tiny_selftest(&context, &core, &step) == TINY_SELFTEST_OK);
    CHECK(step == tiny_selftest_steps());
    memcpy(mram, memory.weights_mram, TINY_WEIGHTS_MRAM_SIZE);
    memset(mram + TINY_WEIGHTS_MRAM_SIZE / 2U, 0x5A, TINY_WEIGHTS_MRAM_SIZE / 4U);
    memory.weights_mram = mram;
    CHECK(tiny_init(&context, &memory, 0) == TINY_OK);
    CHECK(tiny_selftest(&context, &core, &step) >= TINY_SELFTEST_WRONG_TOKEN);
    CHECK(step == 0U);
    return 0;
}

int main(void) {
    return check_init() | check_step() | check_prefill() | check_selftest();
}

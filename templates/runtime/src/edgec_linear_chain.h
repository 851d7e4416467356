/* Sums of a segment, one activation at a time: part of edgec_linear_body.h.
 *
 * half >> (bits * j) begins with the field of row j of the run. The fields above it need no mask:
 * with T_j = sum (half >> bits * j) * x modulo 2^32, the sum of row j alone is
 * T_j - 2^bits * T_(j+1). The stored fields are w + 2^(bits-1), which costs 2^(bits-1) * sum x. */

#if EDGEC_XPULP
#include "edgec_xpulp_asm.h"
#endif

/* Columns whose exact sum fits in int32 for any field width: 512 * 2^7 * 2^14 = 2^30. */
#define EDGEC_SEGMENT_COLUMNS 512U

/* M(run, j, next) for every row of a run, from the lowest; the highest has no next one. */
#if EDGEC_FIELD_BITS == 2
#define EDGEC_MIDDLE(M, r) M(r, 1, 2) M(r, 2, 3) M(r, 3, 4) M(r, 4, 5) M(r, 5, 6) M(r, 6, 7)
#define EDGEC_TOP(M, r) M(r, 7, 7)
#elif EDGEC_FIELD_BITS == 4
#define EDGEC_MIDDLE(M, r) M(r, 1, 2) M(r, 2, 3)
#define EDGEC_TOP(M, r) M(r, 3, 3)
#else
#define EDGEC_MIDDLE(M, r)
#define EDGEC_TOP(M, r) M(r, 1, 1)
#endif
#define EDGEC_PAIRS(M, r) M(r, 0, 1) EDGEC_MIDDLE(M, r)
#define EDGEC_UPPER(M, r) EDGEC_MIDDLE(M, r) EDGEC_TOP(M, r)
#define EDGEC_ROWS(M, r) EDGEC_PAIRS(M, r) EDGEC_TOP(M, r)

#define EDGEC_START(r, j, next) uint32_t t##r##_##j = segment->start[j];

/* Adds a half-word times an activation to the sum of its row j. The sums are scalars and not an
 * array because they must stay in registers. Compilers like to interleave columns, run out of
 * registers and spill; on RV32 the instructions are therefore given, and stay in their order. */
#if EDGEC_XPULP
#define EDGEC_ADD(r, j, next)                                                                      \
    __asm__ volatile("srli %[term], %[half], %[shift]\n" EDGEC_X_MAC(sum, term, value)             \
                     : [term] "=&r"(term), [sum] "+r"(t##r##_##j)                                  \
                     : [half] "r"(half), [shift] "i"(EDGEC_FIELD_BITS * j), [value] "r"(value)     \
                     : "memory");
#define EDGEC_ADD_HALF(r)                                                                          \
    uint32_t term;                                                                                 \
    __asm__ volatile(EDGEC_X_MAC(sum, half, value)                                                 \
                     : [sum] "+r"(t##r##_0)                                                        \
                     : [half] "r"(half), [value] "r"(value)                                        \
                     : "memory");                                                                  \
    EDGEC_UPPER(EDGEC_ADD, r)
#elif defined(__riscv) && __riscv_xlen == 32
#define EDGEC_ADD(r, j, next)                                                                      \
    __asm__ volatile("srli %0, %2, %3\n\tmul %0, %0, %4\n\tadd %1, %1, %0"                         \
                     : "=&r"(term), "+r"(t##r##_##j)                                               \
                     : "r"(half), "i"(EDGEC_FIELD_BITS * j), "r"(value)                            \
                     : "memory");
#define EDGEC_ADD_HALF(r)                                                                          \
    uint32_t term;                                                                                 \
    __asm__ volatile("mul %0, %2, %3\n\tadd %1, %1, %0"                                            \
                     : "=&r"(term), "+r"(t##r##_0)                                                 \
                     : "r"(half), "r"(value)                                                       \
                     : "memory");                                                                  \
    EDGEC_UPPER(EDGEC_ADD, r)
#else
#define EDGEC_ADD(r, j, next) t##r##_##j += (half >> (EDGEC_FIELD_BITS * j)) * value;
#define EDGEC_ADD_HALF(r) EDGEC_ROWS(EDGEC_ADD, r)
#endif
#define EDGEC_HALF(i, r)                                                                           \
    {                                                                                              \
        const uint32_t half = run##r[i];                                                           \
        EDGEC_ADD_HALF(r)                                                                          \
    }

#define EDGEC_PAIR_SUM(r, j, next)                                                                 \
    const uint32_t s##r##_##j = t##r##_##j - (t##r##_##next << EDGEC_FIELD_BITS);
#define EDGEC_TOP_SUM(r, j, next) const uint32_t s##r##_##j = t##r##_##j;
#define EDGEC_SUMS(r) EDGEC_PAIRS(EDGEC_PAIR_SUM, r) EDGEC_TOP(EDGEC_TOP_SUM, r)
#define EDGEC_ROW(r, j) ((r) * EDGEC_RUN_ROWS + j)
#define EDGEC_SCALED(r, j) (s##r##_##j * m[(r) / 2U * multiplier_step + EDGEC_ROW((r) % 2U, j)])
#define EDGEC_PUT(r, j, next) acc[EDGEC_ROW(r, j)] = EDGEC_SCALED(r, j);
#define EDGEC_INCREASE(r, j, next) acc[EDGEC_ROW(r, j)] += EDGEC_SCALED(r, j);

/* The sums of the runs that RUNS names, into acc. */
#define EDGEC_CHAIN(RUNS)                                                                          \
    const EDGEC_ACTIVATION *x = segment->x;                                                        \
    const EDGEC_ACTIVATION *const end = x + segment->columns;                                      \
    const EDGEC_ACTIVATION *const end_of_eights = x + (segment->columns & ~7U);                    \
    RUNS(EDGEC_STARTS)                                                                             \
    while (x != end_of_eights) {                                                                   \
        EDGEC_COLUMN(0, RUNS)                                                                      \
        EDGEC_COLUMN(1, RUNS)                                                                      \
        EDGEC_COLUMN(2, RUNS)                                                                      \
        EDGEC_COLUMN(3, RUNS)                                                                      \
        EDGEC_COLUMN(4, RUNS)                                                                      \
        EDGEC_COLUMN(5, RUNS)                                                                      \
        EDGEC_COLUMN(6, RUNS)                                                                      \
        EDGEC_COLUMN(7, RUNS)                                                                      \
        RUNS(EDGEC_STEP_EIGHT)                                                                     \
        x += 8;                                                                                    \
    }                                                                                              \
    while (x != end) {                                                                             \
        EDGEC_COLUMN(0, RUNS)                                                                      \
        RUNS(EDGEC_STEP_ONE)                                                                       \
        x++;                                                                                       \
    }                                                                                              \
    RUNS(EDGEC_SUMS)                                                                               \
    if (first != 0U) {                                                                             \
        RUNS(EDGEC_PUTS)                                                                           \
    } else {                                                                                       \
        RUNS(EDGEC_INCREASES)                                                                      \
    }

#define EDGEC_STARTS(r) EDGEC_ROWS(EDGEC_START, r)
#define EDGEC_STEP_EIGHT(r) run##r += 8;
#define EDGEC_STEP_ONE(r) run##r++;
#define EDGEC_PUTS(r) EDGEC_ROWS(EDGEC_PUT, r)
#define EDGEC_INCREASES(r) EDGEC_ROWS(EDGEC_INCREASE, r)
#define EDGEC_COLUMN(i, RUNS)                                                                      \
    {                                                                                              \
        const uint32_t value = (uint32_t)(int32_t)x[i];                                            \
        RUNS(EDGEC_HALF_##i)                                                                       \
    }
#define EDGEC_HALF_0(r) EDGEC_HALF(0, r)
#define EDGEC_HALF_1(r) EDGEC_HALF(1, r)
#define EDGEC_HALF_2(r) EDGEC_HALF(2, r)
#define EDGEC_HALF_3(r) EDGEC_HALF(3, r)
#define EDGEC_HALF_4(r) EDGEC_HALF(4, r)
#define EDGEC_HALF_5(r) EDGEC_HALF(5, r)
#define EDGEC_HALF_6(r) EDGEC_HALF(6, r)
#define EDGEC_HALF_7(r) EDGEC_HALF(7, r)
#define EDGEC_ONE_RECORD(M) M(0) M(1)
#define EDGEC_TWO_RECORDS(M) M(0) M(1) M(2) M(3)

typedef struct edgec_segment {
    uint32_t columns;
    const EDGEC_ACTIVATION *x;
    uint32_t start[EDGEC_RUN_ROWS]; /* of T_j, so that the sums of u become those of w */
} edgec_segment;

EDGEC_INLINE void edgec_prepare(edgec_segment *segment, const EDGEC_ACTIVATION *x) {
    uint32_t total = 0U;
    const EDGEC_ACTIVATION *const end = x + segment->columns;
    const EDGEC_ACTIVATION *const end_of_fours = x + (segment->columns & ~3U);
    segment->x = x;
    for (; x != end_of_fours; x += 4) {
        total += (uint32_t)(x[0] + x[1] + x[2] + x[3]);
    }
    for (; x != end; x++) {
        const int32_t value = x[0];
        total += (uint32_t)value;
    }
    const uint32_t offset = total << (EDGEC_FIELD_BITS - 1);
    uint32_t above = 0U;
    for (uint32_t j = EDGEC_RUN_ROWS; j-- != 0U;) {
        above = (above << EDGEC_FIELD_BITS) - offset;
        segment->start[j] = above;
    }
}

EDGEC_INLINE const edgec_half *edgec_halves_at(const uint8_t *bytes) {
    const void *const at = bytes;
    return (const edgec_half *)at;
}

EDGEC_INLINE void edgec_one_record(const edgec_segment *segment, const edgec_part *part,
                                   uint32_t first, uint32_t *acc) {
    const uint8_t *const m = part->multipliers;
    const uint32_t multiplier_step = 0U;
    const edgec_half *run0 = edgec_halves_at(part->runs);
    const edgec_half *run1 = edgec_halves_at(part->runs + part->run_size);
    EDGEC_CHAIN(EDGEC_ONE_RECORD)
}

#if EDGEC_FIELD_BITS > 2
/* The activations are loaded once for both. */
EDGEC_INLINE void edgec_two_records(const edgec_segment *segment, const edgec_part *part,
                                    uint32_t first, uint32_t *acc) {
    const uint8_t *const m = part->multipliers;
    const uint32_t multiplier_step = part->multiplier_step;
    const edgec_half *run0 = edgec_halves_at(part->runs);
    const edgec_half *run1 = edgec_halves_at(part->runs + part->run_size);
    const edgec_half *run2 = edgec_halves_at(part->runs + part->step);
    const edgec_half *run3 = edgec_halves_at(part->runs + part->step + part->run_size);
    EDGEC_CHAIN(EDGEC_TWO_RECORDS)
}
#endif

EDGEC_OUTLINE void edgec_accumulate(const edgec_segment *segment, const edgec_part *part,
                                    uint32_t records, uint32_t first, uint32_t *acc) {
    edgec_part at = *part;
#if EDGEC_FIELD_BITS > 2
    for (; records >= 2U; records -= 2U) {
        edgec_two_records(segment, &at, first, acc);
        at.runs += 2U * at.step;
        at.multipliers += 2U * at.multiplier_step;
        acc += 2U * EDGEC_LANES;
    }
#endif
    for (; records != 0U; records--) {
        edgec_one_record(segment, &at, first, acc);
        at.runs += at.step;
        at.multipliers += at.multiplier_step;
        acc += EDGEC_LANES;
    }
}

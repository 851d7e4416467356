/* Sums of a segment, two activations at a time: part of edgec_linear_body.h, for int8 activations
 * and fields of 2 and 4 bits.
 *
 * A word is a run's columns k (lower half) and k + 1. With u its fields of row j,
 * D_j = (word >> bits * j) & mask = u[k] + 2^16 u[k+1], and X = x[k+1] + 2^16 x[k],
 *
 *     D_j * X = u[k] * x[k+1] + 2^16 (u[k] * x[k] + u[k+1] * x[k+1])      (mod 2^32).
 *
 * So the upper half of T_j = sum D_j * X is the sum of row j plus the carry of the lower half,
 * which stays in +-2^15 and hence rounds away. D_0 needs neither shift nor mask: word = sum
 * 2^(bits*j) D_j, and what the other rows add to its sum is taken off at the end. */

/* Columns whose sum fits in 16 bits, and whose lower halves do: 2^(bits-1) * 127 * columns < 2^15
 * and (2^bits - 1) * 127 * columns / 2 < 2^15. */
#if EDGEC_FIELD_BITS == 4
#define EDGEC_SEGMENT_COLUMNS 32U
#define EDGEC_MASK 0x000F000FU
#define EDGEC_MASKED(M) M(1) M(2) M(3)
#else
#define EDGEC_SEGMENT_COLUMNS 128U
#define EDGEC_MASK 0x00030003U
#define EDGEC_MASKED(M) M(1) M(2) M(3) M(4) M(5) M(6) M(7)
#endif
#define EDGEC_ROWS(M) M(0) EDGEC_MASKED(M)

/* Adds a word times a factor to the sum of row j. Compilers like to interleave words, run out of
 * registers and spill; on RV32 the instructions are therefore given, and stay in their order. */
#if defined(__riscv) && __riscv_xlen == 32
#define EDGEC_ADD(j)                                                                               \
    __asm__ volatile("srli %0, %2, %3\n\tand %0, %0, %4\n\tmul %0, %0, %5\n\tadd %1, %1, %0"       \
                     : "=&r"(term), "+r"(t##j)                                                     \
                     : "r"(word), "i"(EDGEC_FIELD_BITS * j), "r"(EDGEC_MASK), "r"(value)           \
                     : "memory");
#define EDGEC_SET(j)                                                                               \
    __asm__ volatile("srli %0, %1, %2\n\tand %0, %0, %3\n\tmul %0, %0, %4"                         \
                     : "=&r"(t##j)                                                                 \
                     : "r"(word), "i"(EDGEC_FIELD_BITS * j), "r"(EDGEC_MASK), "r"(value)           \
                     : "memory");
#define EDGEC_ADD_WORD                                                                             \
    uint32_t term;                                                                                 \
    __asm__ volatile("mul %0, %2, %3\n\tadd %1, %1, %0"                                            \
                     : "=&r"(term), "+r"(t0)                                                       \
                     : "r"(word), "r"(value)                                                       \
                     : "memory");                                                                  \
    EDGEC_MASKED(EDGEC_ADD)
#define EDGEC_HOLD(i) __asm__ volatile("" : "+r"(x##i));
#else
#define EDGEC_ADD(j) t##j += ((word >> (EDGEC_FIELD_BITS * j)) & EDGEC_MASK) * value;
#define EDGEC_SET(j) t##j = ((word >> (EDGEC_FIELD_BITS * j)) & EDGEC_MASK) * value;
#define EDGEC_ADD_WORD                                                                             \
    t0 += word * value;                                                                            \
    EDGEC_MASKED(EDGEC_ADD)
#define EDGEC_HOLD(i)
#endif
#define EDGEC_SET_WORD                                                                             \
    t0 = word * value;                                                                             \
    EDGEC_MASKED(EDGEC_SET)
#define EDGEC_WORD(HOW, stored, factor)                                                            \
    {                                                                                              \
        const uint32_t word = stored;                                                              \
        const uint32_t value = factor;                                                             \
        HOW                                                                                        \
    }
#define EDGEC_ZERO(j) uint32_t t##j = 0U;
#define EDGEC_CORRECT(j) t0 -= t##j << (EDGEC_FIELD_BITS * j);
#define EDGEC_SCALED(j) ((uint32_t)(edgec_signed(t##j + offset) >> 16) * m[j])
#define EDGEC_PUT(j) acc[j] = EDGEC_SCALED(j);
#define EDGEC_INCREASE(j) acc[j] += EDGEC_SCALED(j);
#define EDGEC_FINISH                                                                               \
    EDGEC_MASKED(EDGEC_CORRECT)                                                                    \
    if (first != 0U) {                                                                             \
        EDGEC_ROWS(EDGEC_PUT)                                                                      \
    } else {                                                                                       \
        EDGEC_ROWS(EDGEC_INCREASE)                                                                 \
    }

typedef struct edgec_segment {
    uint32_t columns;
    int32_t last;    /* activation of the last column where their number is odd */
    uint32_t offset; /* rounds the sums, and makes those of w of those of u */
    uint32_t x[EDGEC_SEGMENT_COLUMNS / 2U];
} edgec_segment;

EDGEC_INLINE uint32_t edgec_pair_of(const EDGEC_ACTIVATION *x) {
    const int32_t even = x[0];
    const int32_t odd = x[1];
    return (uint32_t)odd + ((uint32_t)even << 16);
}

EDGEC_INLINE void edgec_prepare(edgec_segment *segment, const EDGEC_ACTIVATION *x) {
    uint32_t total = 0U; /* of the odd columns below, of the even ones above */
    const uint32_t *const end = segment->x + segment->columns / 2U;
    for (uint32_t *pair = segment->x; pair != end; pair++) {
        *pair = edgec_pair_of(x);
        total += *pair;
        x += 2;
    }
    segment->last = (segment->columns & 1U) != 0U ? x[0] : 0;
    const uint32_t odd = (total & 0xFFFFU) ^ 0x8000U; /* both sums stay in 16 bits */
    const uint32_t sum = ((total + 0x8000U) >> 16) + odd - 0x8000U + (uint32_t)segment->last;
    segment->offset = 0x8000U - (sum << (EDGEC_FIELD_BITS + 15));
}

/* One run of a record. */
typedef struct edgec_run {
    const uint8_t *words;
    const uint8_t *m;
    uint32_t *acc;
} edgec_run;

/* Adds the pairs of columns whose words are in the right place for loads, then the others. */
EDGEC_INLINE void edgec_add_run(const edgec_segment *segment, const edgec_part *part, edgec_run run,
                                uint32_t first) {
    const void *const at = run.words;
    const edgec_half *halves = (const edgec_half *)at;
    const edgec_word *words = (const edgec_word *)at;
    const uint8_t *const m = run.m;
    uint32_t *const acc = run.acc;
    const uint32_t offset = segment->offset;
    const uint32_t *x = segment->x;
    const uint32_t *const end = x + segment->columns / 2U;
    EDGEC_ROWS(EDGEC_ZERO)
    if (part->run_size % 4U == 0U) {
        for (; x != end; x++) {
            EDGEC_WORD(EDGEC_ADD_WORD, *words++, *x)
        }
    } else {
        for (; x != end; x++) {
            EDGEC_WORD(EDGEC_ADD_WORD, halves[0] | (uint32_t)halves[1] << 16, *x)
            halves += 2;
        }
        if ((segment->columns & 1U) != 0U) {
            EDGEC_WORD(EDGEC_ADD_WORD, halves[0], (uint32_t)segment->last << 16)
        }
    }
    EDGEC_FINISH
}

/* Segments of any number of columns. */
EDGEC_OUTLINE void edgec_any_segment(const edgec_segment *segment, const edgec_part *part,
                                     uint32_t records, uint32_t first, uint32_t *acc) {
    edgec_run run = {part->runs, part->multipliers, acc};
    for (; records != 0U; records--) {
        const edgec_run second = {run.words + part->run_size, run.m + EDGEC_RUN_ROWS,
                                  run.acc + EDGEC_RUN_ROWS};
        edgec_add_run(segment, part, run, first);
        edgec_add_run(segment, part, second, first);
        run.words += part->step;
        run.m += part->multiplier_step;
        run.acc += EDGEC_LANES;
    }
}

#if EDGEC_FIELD_BITS == 4
#define EDGEC_OTHER_FACTORS(M)                                                                     \
    M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11) M(12) M(13) M(14) M(15)
#define EDGEC_FACTOR(i) uint32_t x##i = segment->x[i];
#define EDGEC_COLUMNS(i) EDGEC_WORD(EDGEC_ADD_WORD, words[i], x##i)
#define EDGEC_DECLARE(j) uint32_t t##j;
#define EDGEC_RUN(row)                                                                             \
    {                                                                                              \
        const uint8_t *const m = multipliers + row;                                                \
        const void *const at = run;                                                                \
        const edgec_word *const words = (const edgec_word *)at;                                    \
        EDGEC_ROWS(EDGEC_DECLARE)                                                                  \
        EDGEC_WORD(EDGEC_SET_WORD, words[0], x0)                                                   \
        EDGEC_OTHER_FACTORS(EDGEC_COLUMNS)                                                         \
        EDGEC_FINISH                                                                               \
        acc += EDGEC_RUN_ROWS;                                                                     \
    }

/* Segments of 32 columns: the factors stay in registers while all records pass by. */
EDGEC_OUTLINE void edgec_full_segment(const edgec_segment *segment, const edgec_part *part,
                                      uint32_t records, uint32_t first, uint32_t *acc) {
    const uint32_t offset = segment->offset;
    const uint32_t step = part->step - part->run_size;
    const uint32_t multiplier_step = part->multiplier_step;
    const uint8_t *multipliers = part->multipliers;
    const uint8_t *run = part->runs;
    EDGEC_FACTOR(0)
    EDGEC_OTHER_FACTORS(EDGEC_FACTOR)
    EDGEC_HOLD(0)
    EDGEC_OTHER_FACTORS(EDGEC_HOLD)
    for (const uint32_t *const end = acc + records * EDGEC_LANES; acc != end;) {
        EDGEC_RUN(0U)
        run += part->run_size;
        EDGEC_RUN(EDGEC_RUN_ROWS)
        run += step;
        multipliers += multiplier_step;
    }
}
#endif

EDGEC_INLINE void edgec_accumulate(const edgec_segment *segment, const edgec_part *part,
                                   uint32_t records, uint32_t first, uint32_t *acc) {
#if EDGEC_FIELD_BITS == 4
    if (segment->columns == EDGEC_SEGMENT_COLUMNS && part->run_size % 4U == 0U) {
        edgec_full_segment(segment, part, records, first, acc);
        return;
    }
#endif
    edgec_any_segment(segment, part, records, first, acc);
}

/* Rows of a linear whose right shifts all lie where two instructions round. */
#ifndef EDGEC_ROW_RULE_H
#define EDGEC_ROW_RULE_H

#include "edgec_fused.h"
#include "edgec_requantizer.h"

/* All rows of a linear obey it, or all go the general way. */
typedef struct edgec_row_rule {
    uint32_t a_high;  /* A << 16 */
    int32_t exponent; /* that of a word - the right shift */
    uint32_t shift;   /* by which lower sums are rounded */
    uint32_t room;    /* by which an accumulator is shifted up; with fast arithmetic rounded down */
    int32_t least;    /* of the right shifts: no row exceeds 2^(31 - least) */
    int32_t spare;    /* negative: there are right shifts elsewhere */
} edgec_row_rule;

/* Whether it serves; plain: for rows with one group and no tail, whose lower sums stay as they are.
 */
static inline int edgec_rule_serves(const edgec_row_rule *rule, uint32_t plain) {
    return (rule->spare | ((plain != 0U ? 0 : 7) - (int32_t)rule->shift)) >= 0;
}

#if EDGEC_ARITHMETIC_FAST

static inline edgec_row_rule edgec_row_rule_of(edgec_scale scale, uint32_t scaling) {
    const int32_t pair[2] = {scale.a, scale.e};
    const edgec_requantizer by = edgec_requantizer_of(pair, scaling);
    edgec_row_rule rule;
    rule.a_high = (uint32_t)by.a << 16;
    rule.exponent = by.exponent;
    rule.shift = edgec_scaling_shift(scaling);
    rule.room = by.drop;
    rule.least = (int32_t)edgec_scaling_least(scaling) - rule.exponent;
    const int32_t most = (int32_t)edgec_scaling_most(scaling) - rule.exponent;
    rule.spare = rule.least | (30 - most);
    return rule;
}

/* The output of an accumulator. */
static inline int32_t edgec_ruled_row(const edgec_row_rule *rule, uint32_t sum, uint32_t word) {
    const uint32_t factor = (edgec_mul_high16(word, rule->a_high) >> EDGEC_FAST_FACTOR_DROP) + 1U;
    const int32_t product = edgec_round_shift(edgec_signed(sum), rule->room) * (int32_t)factor;
    return edgec_round_shift(product, (uint32_t)(edgec_word_exponent(word) - rule->exponent));
}

#else

/* The product's upper word is rounded once more: an accumulator that is known to have room is
 * shifted up first, so that all of the result is in there. */
static inline edgec_row_rule edgec_row_rule_of(edgec_scale scale, uint32_t scaling) {
    edgec_row_rule rule;
    rule.room = edgec_scaling_headroom(scaling);
    rule.a_high = (uint32_t)scale.a << 16;
    rule.exponent = 32 + scale.e - (int32_t)rule.room;
    rule.least = (int32_t)edgec_scaling_least(scaling) - rule.exponent;
    const int32_t most = (int32_t)edgec_scaling_most(scaling) - rule.exponent;
    rule.shift = edgec_scaling_shift(scaling);
    rule.spare = (rule.least - 1) | (31 - most);
    return rule;
}

/* The output of an accumulator. */
static inline int32_t edgec_ruled_row(const edgec_row_rule *rule, uint32_t sum, uint32_t word) {
    const int32_t factor = edgec_signed(edgec_mul_high16(word, rule->a_high));
    const int32_t upper = edgec_mulh(edgec_signed(sum << rule->room), factor);
    return edgec_round_shift(upper, (uint32_t)(edgec_word_exponent(word) - rule->exponent));
}

#endif

#endif

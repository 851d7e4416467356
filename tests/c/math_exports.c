/* The inline functions of edgec_math.h as symbols, for tests through ctypes. */
#include "edgec_math.h"

int32_t math_signed(uint32_t bits);
int32_t math_sat32(int64_t v);
int32_t math_rs32(int32_t x, uint32_t n);
int64_t math_rs64(int64_t x, uint32_t n);
int32_t math_mulh(int32_t a, int32_t b);
int32_t math_bit_length(uint32_t a);
int32_t math_requantize(int32_t acc, int32_t multiplier, int32_t n);
int32_t math_word_multiplier(uint32_t word);
int32_t math_word_exponent(uint32_t word);

int32_t math_signed(uint32_t bits) {
    return edgec_signed(bits);
}

int32_t math_sat32(int64_t v) {
    return edgec_sat32(v);
}

int32_t math_rs32(int32_t x, uint32_t n) {
    return edgec_rs32(x, n);
}

int64_t math_rs64(int64_t x, uint32_t n) {
    return edgec_rs64(x, n);
}

int32_t math_mulh(int32_t a, int32_t b) {
    return edgec_mulh(a, b);
}

int32_t math_bit_length(uint32_t a) {
    return edgec_bit_length(a);
}

int32_t math_requantize(int32_t acc, int32_t multiplier, int32_t n) {
    return edgec_requantize(acc, multiplier, n);
}

int32_t math_word_multiplier(uint32_t word) {
    return edgec_word_multiplier(word);
}

int32_t math_word_exponent(uint32_t word) {
    return edgec_word_exponent(word);
}

/* XpulpV2 in inline assembly: strings for hardware loops, where a compiler would not place the
 * instructions as the loop needs them. Operands are names of the asm statement's operands.
 *
 * Encodings: RI5CY user manual, chapters 13 to 15. A loop holds at least two instructions, all of
 * 32 bits (EDGEC_X_LOOP sees to it), no branch, and runs at least once. */
#ifndef EDGEC_XPULP_ASM_H
#define EDGEC_XPULP_ASM_H

#define EDGEC_X_TEXT_OF(x) #x
#define EDGEC_X_TEXT(x) EDGEC_X_TEXT_OF(x)

/* Runs body, of `size` instructions, as often as operand n says. */
#define EDGEC_X_LOOP(size, body)                                                                   \
    ".option push\n.option norvc\n.insn i 0x7b, 4, x0, %[n], 2*" EDGEC_X_TEXT(                     \
        size) "\n" body ".option pop\n"

/* The same around such a loop, as often as operand `rows` says: two instructions or more are behind
 * the inner one. */
#define EDGEC_X_OUTER(size, body)                                                                  \
    ".option push\n.option norvc\n.insn i 0x7b, 4, x1, %[rows], 2*" EDGEC_X_TEXT(                  \
        size) "\n" body ".option pop\n"

#define EDGEC_X_R(opcode, f3, f7, d, a, b)                                                         \
    ".insn r " #opcode ", " #f3 ", " #f7 ", %[" #d "], %[" #a "], %[" #b "]\n"
#define EDGEC_X_R0(opcode, f3, f7, d, a, fixed)                                                    \
    ".insn r " #opcode ", " #f3 ", " #f7 ", %[" #d "], %[" #a "], " #fixed "\n"
#define EDGEC_X_OP(name, d, a, b) name " %[" #d "], %[" #a "], %[" #b "]\n"
#define EDGEC_X_OPI(name, d, a, i) name " %[" #d "], %[" #a "], " #i "\n"
#define EDGEC_X_LUI(d, i) "lui %[" #d "], " #i "\n"
#define EDGEC_X_CLEAR(d) "addi %[" #d "], x0, 0\n"
#define EDGEC_X_LW(d, p, i) "lw %[" #d "], " #i "(%[" #p "])\n"

/* Loads and stores at p, which then grows by a constant, or by operand s. */
#define EDGEC_X_LWP(d, p, i) ".insn i 0x0b, 2, %[" #d "], %[" #p "], " #i "\n"
#define EDGEC_X_LHP(d, p, i) ".insn i 0x0b, 1, %[" #d "], %[" #p "], " #i "\n"
#define EDGEC_X_LBUP(d, p, i) ".insn i 0x0b, 4, %[" #d "], %[" #p "], " #i "\n"
#define EDGEC_X_LWS(d, p, s) EDGEC_X_R(0x0b, 7, 0x10, d, p, s)
#define EDGEC_X_SWP(d, p, i) ".insn s 0x2b, 2, %[" #d "], " #i "(%[" #p "])\n"
#define EDGEC_X_SHP(d, p, i) ".insn s 0x2b, 1, %[" #d "], " #i "(%[" #p "])\n"
#define EDGEC_X_SBP(d, p, i) ".insn s 0x2b, 0, %[" #d "], " #i "(%[" #p "])\n"
/* Loads the uint16, the word at p + i. */
#define EDGEC_X_LHUX(d, i, p) EDGEC_X_R(0x03, 7, 0x28, d, p, i)
#define EDGEC_X_LWX(d, i, p) EDGEC_X_R(0x03, 7, 0x10, d, p, i)

#define EDGEC_X_MIN(d, a, b) EDGEC_X_R(0x33, 4, 0x02, d, a, b)
#define EDGEC_X_MIN0(d, a) EDGEC_X_R0(0x33, 4, 0x02, d, a, x0)
#define EDGEC_X_MINU(d, a, b) EDGEC_X_R(0x33, 5, 0x02, d, a, b)
#define EDGEC_X_MAX(d, a, b) EDGEC_X_R(0x33, 6, 0x02, d, a, b)
#define EDGEC_X_MAXU(d, a, b) EDGEC_X_R(0x33, 7, 0x02, d, a, b)
#define EDGEC_X_ABS(d, a) EDGEC_X_R0(0x33, 0, 0x02, d, a, x0)
#define EDGEC_X_FL1(d, a) EDGEC_X_R0(0x33, 1, 0x08, d, a, x0) /* the highest set bit; 32: none */
#define EDGEC_X_MAX0(d, a) EDGEC_X_R0(0x33, 6, 0x02, d, a, x0)
#define EDGEC_X_NEG(d, a) "sub %[" #d "], x0, %[" #a "]\n"
#define EDGEC_X_MAC(d, a, b) EDGEC_X_R(0x33, 0, 0x21, d, a, b)
#define EDGEC_X_MSU(d, a, b) EDGEC_X_R(0x33, 1, 0x21, d, a, b)
/* d = a * b of the lower halves, of the upper halves; RS15: rs(., 15), 16: >> 16; (d + a * b) >> 1
 * of the upper halves. All unsigned. */
#define EDGEC_X_MULU(d, a, b) EDGEC_X_R(0x5b, 0, 0x00, d, a, b)
#define EDGEC_X_MULHHU(d, a, b) EDGEC_X_R(0x5b, 0, 0x20, d, a, b)
#define EDGEC_X_MULU_RS15(d, a, b) EDGEC_X_R(0x5b, 4, 0x0f, d, a, b)
#define EDGEC_X_MULU_RS16(d, a, b) EDGEC_X_R(0x5b, 4, 0x10, d, a, b)
/* d += a * b of the lower halves */
#define EDGEC_X_MACU(d, a, b) EDGEC_X_R(0x5b, 1, 0x00, d, a, b)
#define EDGEC_X_MULU_16(d, a, b) EDGEC_X_R(0x5b, 0, 0x10, d, a, b)
#define EDGEC_X_MACHHU_1(d, a, b) EDGEC_X_R(0x5b, 1, 0x21, d, a, b)
#define EDGEC_X_MULHHU_19(d, a, b) EDGEC_X_R(0x5b, 0, 0x33, d, a, b)
/* d += a * b of the upper halves, signed */
#define EDGEC_X_MACHHS(d, a, b) EDGEC_X_R(0x5b, 1, 0x60, d, a, b)
/* rs(a * b, 11) of the lower halves, signed */
#define EDGEC_X_MULS_RS11(d, a, b) EDGEC_X_R(0x5b, 4, 0x4b, d, a, b)
#define EDGEC_X_SUB_SRA16(d, a, b) EDGEC_X_R(0x5b, 3, 0x10, d, a, b) /* (a - b) >> 16 */
#define EDGEC_X_RS14(d, a) EDGEC_X_R0(0x5b, 6, 14, d, a, x0)
#define EDGEC_X_RS23(d, a) EDGEC_X_R0(0x5b, 6, 23, d, a, x0)
/* d = rs(d, n) by the lower 5 bits of n; the same of unsigned numbers. */
#define EDGEC_X_RS(d, n) ".insn r 0x5b, 6, 0x20, %[" #d "], x0, %[" #n "]\n"
/* rs(d + a, n) */
#define EDGEC_X_ADD_RS(d, a, n) EDGEC_X_R(0x5b, 6, 0x20, d, a, n)
#define EDGEC_X_RSU(d, n) ".insn r 0x5b, 6, 0x60, %[" #d "], x0, %[" #n "]\n"
/* Bits `at` .. at + 7 of d become the lowest byte of a; `at` as a register name. */
#define EDGEC_X_INSERT8(d, a, at) EDGEC_X_R0(0x33, 2, 0x67, d, a, at)

#define EDGEC_X_DOT4_SS(d, a, b) EDGEC_X_R(0x57, 1, 0x4c, d, a, b)
#define EDGEC_X_MAC4_SS(d, a, b) EDGEC_X_R(0x57, 1, 0x5c, d, a, b)
#define EDGEC_X_MAC4_US(d, a, b) EDGEC_X_R(0x57, 1, 0x54, d, a, b)
#define EDGEC_X_SHUFFLE4(d, a, choice) EDGEC_X_R(0x57, 1, 0x64, d, a, choice)
#define EDGEC_X_PACK2(d, high, low) EDGEC_X_R(0x57, 0, 0x68, d, high, low) /* lower halves */

#endif

/* XpulpV2: post-increment memory accesses, hardware loops, the scalar and the SIMD arithmetic that
 * the runtime uses. Encodings and meaning: RI5CY user manual, chapters 13 to 15. */
#include "core.h"

static void load_post_increment(core *c, const fields *f) {
    const uint32_t address = c->x[f->rs1];
    const uint32_t increment = sign_extend(f->word >> 20, 12U);
    uint32_t value = core_load(c, address, 1U << (f->f3 & 3U));
    if (f->f3 < 2U) {
        value = sign_extend(value, 8U << f->f3);
    }
    c->x[f->rs1] = address + increment;
    c->x[f->rd] = value;
}

static void store_post_increment(core *c, const fields *f) {
    const uint32_t address = c->x[f->rs1];
    core_store(c, address, c->x[f->rs2], 1U << f->f3);
    c->x[f->rs1] = address + sign_extend(f->f7 << 5 | f->rd, 12U);
}

/* The offset in a register; loads either keep the base or add the offset to it afterwards. */
static bool load_by_register(core *c, const fields *f, bool post_increment) {
    const uint32_t size = 1U << (f->f7 >> 3 & 3U);
    const uint32_t base = c->x[f->rs1];
    const uint32_t next = base + c->x[f->rs2];
    if ((f->f7 & 7U) != 0U || size > 4U || f->f7 > 0x28U) {
        return false;
    }
    uint32_t value = core_load(c, post_increment ? base : next, size);
    if (f->f7 < 0x20U && size < 4U) {
        value = sign_extend(value, 8U * size);
    }
    if (post_increment) {
        c->x[f->rs1] = next;
    }
    c->x[f->rd] = value;
    return true;
}

static bool memory_access(core *c, const fields *f) {
    if (f->opcode == 0x0BU && f->f3 == 7U) {
        return load_by_register(c, f, true);
    }
    if (f->opcode == 0x03U) {
        return load_by_register(c, f, false);
    }
    if (f->opcode == 0x0BU && f->f3 != 3U && f->f3 < 6U) {
        load_post_increment(c, f);
        return true;
    }
    if (f->opcode == 0x2BU && f->f3 < 3U) {
        store_post_increment(c, f);
        return true;
    }
    return false;
}

/* lp.setup and lp.setupi: the loop begins behind the instruction. */
static bool loop_setup(core *c, const fields *f) {
    if (f->opcode != 0x7BU || (f->f3 != 4U && f->f3 != 5U) || f->rd > 1U) {
        return false;
    }
    hardware_loop *const loop = &c->loops[f->rd];
    loop->start = c->pc + 4U;
    if (f->f3 == 4U) {
        loop->end = c->pc + (f->word >> 20) * 2U;
        loop->count = c->x[f->rs1];
    } else {
        loop->end = c->pc + f->rs1 * 2U;
        loop->count = f->word >> 20;
    }
    if (loop->end < loop->start + 4U) { /* the core needs two instructions in a loop */
        core_fault(c, "a hardware loop is too short", loop->end);
    }
    return true;
}

static uint32_t clip(uint32_t value, int64_t low, int64_t high) {
    const int64_t v = (int32_t)value;
    return (uint32_t)(v < low ? low : v > high ? high : v);
}

static bool min_max(core *c, const fields *f) {
    const uint32_t a = c->x[f->rs1];
    const uint32_t b = c->x[f->rs2];
    const bool less = (int32_t)a < (int32_t)b;
    switch (f->f3) {
    case 0U:
        c->x[f->rd] = (a >> 31) != 0U ? 0U - a : a;
        return f->rs2 == 0U; /* p.abs */
    case 4U:
        c->x[f->rd] = less ? a : b;
        return true;
    case 5U:
        c->x[f->rd] = a < b ? a : b;
        return true;
    case 6U:
        c->x[f->rd] = less ? b : a;
        return true;
    case 7U:
        c->x[f->rd] = a < b ? b : a;
        return true;
    default:
        return false;
    }
}

static uint32_t last_one(uint32_t value) {
    uint32_t position = 32U;
    for (uint32_t i = 0U; i < 32U; i++) {
        position = (value >> i & 1U) != 0U ? i : position;
    }
    return position;
}

static bool bit_field(core *c, const fields *f) {
    const uint32_t width = (f->f7 & 31U) + 1U;
    const uint32_t position = f->rs2;
    const uint32_t mask = UINT32_MAX >> (32U - width);
    const uint32_t value = c->x[f->rs1];
    if (position + width > 32U) {
        core_fault(c, "a bit field leaves its register", f->word);
    }
    switch (f->f3) {
    case 0U:
        c->x[f->rd] = sign_extend(value >> position & mask, width);
        return true;
    case 1U:
        c->x[f->rd] = value >> position & mask;
        return true;
    case 2U: /* p.insert */
        c->x[f->rd] = (c->x[f->rd] & ~(mask << position)) | (value & mask) << position;
        return true;
    default:
        return false;
    }
}

static bool scalar(core *c, const fields *f) {
    const uint32_t a = c->x[f->rs1];
    const uint32_t product = a * c->x[f->rs2];
    const int64_t limit = (int64_t)1 << (f->rs2 != 0U ? f->rs2 - 1U : 0U);
    if (f->f7 == 0x02U) {
        return min_max(c, f);
    }
    if (f->f7 == 0x08U && f->rs2 == 0U) {
        switch (f->f3) {
        case 1U:
            c->x[f->rd] = last_one(a);
            return true; /* p.fl1 */
        case 4U:
            c->x[f->rd] = sign_extend(a, 16U);
            return true; /* p.exths */
        case 5U:
            c->x[f->rd] = a & 0xFFFFU;
            return true; /* p.exthz */
        case 6U:
            c->x[f->rd] = sign_extend(a, 8U);
            return true; /* p.extbs */
        case 7U:
            c->x[f->rd] = a & 0xFFU;
            return true; /* p.extbz */
        default:
            return false;
        }
    }
    if (f->f7 == 0x0AU && f->f3 == 1U) {
        c->x[f->rd] = clip(a, -limit, limit - 1);
        return true;
    }
    if (f->f7 == 0x21U && f->f3 < 2U) { /* p.mac, p.msu */
        c->x[f->rd] += f->f3 == 0U ? product : 0U - product;
        return true;
    }
    return f->f7 >= 0x60U && bit_field(c, f);
}

static uint32_t rounded(uint32_t sum, uint32_t n, bool is_signed) {
    const uint32_t half = n != 0U ? sum + (1U << (n - 1U)) : sum;
    return is_signed ? shift_right_signed(half, n) : half >> n;
}

/* Products of halves and sums, both with a rounding shift. The top bit of f7 tells signed from
 * unsigned products, and the other way round in sums. */
static bool normalizing(core *c, const fields *f) {
    const uint32_t a = c->x[f->rs1];
    const uint32_t b = c->x[f->rs2];
    const uint32_t n = f->f7 & 31U;
    const uint32_t kind = f->f7 >> 5;
    if ((f->f3 == 0U || f->f3 == 4U) && kind < 2U) { /* p.mulu[N], p.mulhhu[N], with R: rounded */
        const uint32_t product = kind == 0U ? (a & 0xFFFFU) * (b & 0xFFFFU) : (a >> 16) * (b >> 16);
        c->x[f->rd] = f->f3 == 0U ? product >> n : rounded(product, n, false);
        return true;
    }
    if (f->f3 == 1U && kind < 2U) { /* p.macuN, p.machhuN */
        const uint32_t product = kind == 0U ? (a & 0xFFFFU) * (b & 0xFFFFU) : (a >> 16) * (b >> 16);
        c->x[f->rd] = (c->x[f->rd] + product) >> n;
        return true;
    }
    if (f->f3 == 0U || f->f3 == 1U || f->f3 == 4U) { /* p.muls[N], p.mulhhs[N], likewise */
        const uint32_t high = kind == 2U ? 0U : 16U;
        const uint32_t product =
            sign_extend(a >> high & 0xFFFFU, 16U) * sign_extend(b >> high & 0xFFFFU, 16U);
        if (f->f3 == 1U) { /* p.macsN, p.machhsN */
            c->x[f->rd] = shift_right_signed(c->x[f->rd] + product, n);
            return true;
        }
        c->x[f->rd] = f->f3 == 0U ? shift_right_signed(product, n) : rounded(product, n, true);
        return true;
    }
    if (f->f3 == 3U && kind == 0U) { /* p.subN */
        c->x[f->rd] = shift_right_signed(a - b, n);
        return true;
    }
    if (f->f3 == 6U && (kind & 1U) == 0U) { /* p.addRN with the shift in the instruction */
        c->x[f->rd] = rounded(a + b, n, kind == 0U);
        return true;
    }
    if (f->f3 == 6U && n == 0U) { /* in a register */
        c->x[f->rd] = rounded(c->x[f->rd] + a, b & 31U, kind == 1U);
        return true;
    }
    return false;
}

static uint32_t byte_of(uint32_t word, uint32_t lane, bool is_signed) {
    const uint32_t byte = word >> (8U * lane) & 0xFFU;
    return is_signed ? sign_extend(byte, 8U) : byte;
}

static uint32_t dot4(uint32_t a, bool a_signed, uint32_t b, bool b_signed) {
    uint32_t sum = 0U;
    for (uint32_t lane = 0U; lane < 4U; lane++) {
        sum += byte_of(a, lane, a_signed) * byte_of(b, lane, b_signed);
    }
    return sum;
}

static uint32_t dot2(uint32_t a, uint32_t b) {
    return sign_extend(a & 0xFFFFU, 16U) * sign_extend(b & 0xFFFFU, 16U) +
           sign_extend(a >> 16, 16U) * sign_extend(b >> 16, 16U);
}

static uint32_t shuffle2(uint32_t old, uint32_t from, uint32_t mask) {
    uint32_t result = 0U;
    for (uint32_t lane = 0U; lane < 4U; lane++) {
        const uint32_t choice = mask >> (8U * lane);
        const uint32_t source = (choice & 4U) != 0U ? from : old;
        result |= byte_of(source, choice & 3U, false) << (8U * lane);
    }
    return result;
}

static bool simd(core *c, const fields *f) {
    const uint32_t a = c->x[f->rs1];
    const uint32_t b = c->x[f->rs2];
    uint32_t *const d = &c->x[f->rd];
    switch (f->f7 << 4 | f->f3) {
    case 0x4C0U:
        *d = dot2(a, b);
        return true; /* pv.dotsp.h */
    case 0x5C0U:
        *d += dot2(a, b);
        return true; /* pv.sdotsp.h */
    case 0x4C1U:
        *d = dot4(a, true, b, true);
        return true; /* pv.dotsp.b */
    case 0x501U:
        *d += dot4(a, false, b, false);
        return true; /* pv.sdotup.b */
    case 0x541U:
        *d += dot4(a, false, b, true);
        return true; /* pv.sdotusp.b */
    case 0x5C1U:
        *d += dot4(a, true, b, true);
        return true; /* pv.sdotsp.b */
    case 0x680U:
        *d = a << 16 | (b & 0xFFFFU);
        return true; /* pv.pack.h */
    case 0x701U:
        *d = (*d & 0xFFFF0000U) | (a & 0xFFU) << 8 | (b & 0xFFU);
        return true;
    case 0x6C1U:
        *d = (*d & 0xFFFFU) | a << 24 | (b & 0xFFU) << 16;
        return true;
    case 0x641U:
        *d = shuffle2(*d, a, b);
        return true; /* pv.shuffle2.b */
    default:
        return false;
    }
}

bool execute_xpulp(core *c, const fields *f) {
    switch (f->opcode) {
    case 0x03U:
    case 0x0BU:
    case 0x2BU:
        return memory_access(c, f);
    case 0x33U:
        return scalar(c, f);
    case 0x57U:
        return simd(c, f);
    case 0x5BU:
        return normalizing(c, f);
    case 0x7BU:
        return loop_setup(c, f);
    default:
        return false;
    }
}

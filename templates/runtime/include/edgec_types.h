/* Types shared by the generated code, the kernels and the ports. */
#ifndef EDGEC_TYPES_H
#define EDGEC_TYPES_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Most cores that may work on one context: the planner reserves one edgec_partial for each. */
#define EDGEC_MAX_CORES 16U

typedef enum edgec_status {
    EDGEC_OK = 0,
    EDGEC_BAD_ARGUMENT = 1,     /* null pointer, or more than EDGEC_MAX_CORES cores */
    EDGEC_MISALIGNED = 2,       /* a weight blob or an arena is not aligned as its region asks */
    EDGEC_BAD_MAGIC = 3,        /* not a weight blob at all */
    EDGEC_BAD_VERSION = 4,      /* blob of another format version */
    EDGEC_BAD_BYTE_ORDER = 5,   /* blob and core disagree about endianness */
    EDGEC_BAD_TARGET = 6,       /* blob made for another target or memory region */
    EDGEC_BAD_GRAPH = 7,        /* blob of another architecture or memory plan than this code */
    EDGEC_BAD_LENGTH = 8,       /* blob shorter or longer than this code expects */
    EDGEC_BAD_HEADER_CRC = 9,   /* header damaged */
    EDGEC_BAD_PAYLOAD_CRC = 10, /* table of contents or weights damaged */
    EDGEC_CONTEXT_FULL = 11,    /* the KV cache has no room for so many tokens */
    EDGEC_BAD_TOKEN = 12,       /* token id outside the vocabulary */
    EDGEC_MIXED_BLOBS = 13      /* blobs of different builds: weights of two models */
} edgec_status;

/* What one core leaves for the others during a reduction. */
typedef struct edgec_partial {
    int32_t max[3]; /* one per vector that the kernel reduces */
    int32_t min[3];
    uint64_t sum;
} edgec_partial;

/* One core of the team that executes a step; every core calls every kernel. */
typedef struct edgec_worker {
    uint32_t id;             /* 0 .. count-1 */
    uint32_t count;          /* 1 .. EDGEC_MAX_CORES */
    void *team;              /* the port's own data, passed through to it */
    edgec_partial *partials; /* [EDGEC_MAX_CORES], shared by the team */
} edgec_worker;

/* A packed matrix and how it is moved: its records and their transfers are in plan.json. */
typedef struct edgec_matrix {
    uint32_t rows;             /* output channels */
    uint32_t columns;          /* inputs */
    uint32_t group_size;       /* columns per scale group, at most `columns` */
    uint32_t field_bits;       /* 2, 4 or 8 stored bits per weight */
    uint32_t record_size;      /* bytes of the record of 32 / field_bits rows */
    uint32_t records_per_tile; /* records moved at a time; all of them when read in place */
    uint32_t slot_size;        /* bytes of a tile slot; 0: read in place */
    uint32_t has_requant;      /* records begin with requantization words */
    uint32_t slots;            /* 2: transfers overlap with the work; 1: they take turns */
} edgec_matrix;

/* Shapes and constants of attention. */
typedef struct edgec_attention_params {
    uint32_t heads;
    uint32_t kv_heads;
    uint32_t head_dim;
    uint32_t context;             /* rows of the cache, and of a head in the scratch */
    uint32_t positions_per_chunk; /* positions moved at a time */
    uint32_t slot_size;           /* bytes of a chunk slot; 0: read in place */
    uint32_t slots;               /* 2: transfers overlap with the work; 1: they take turns */
    int32_t score_multiplier;     /* Mc */
    int32_t score_exponent;       /* ec */
    uint32_t exp_bits;            /* EB: bits of a softmax weight, at most 15 */
} edgec_attention_params;

/* Scale of one cached vector. code: its exponent, bits 0 to 5, and of this KV head up to here the
 * largest exponent, bits 6 to 11, and what the smallest is below it, bits 12 to 15, at most 15. */
typedef struct edgec_kv_scale {
    uint16_t amax;
    uint16_t code;
} edgec_kv_scale;

/* The KV cache of one block. */
typedef struct edgec_kv_cache {
    int8_t *k;               /* [context][kv_heads][head_dim] */
    edgec_kv_scale *k_scale; /* [context][kv_heads] */
    int8_t *v;               /* [context][kv_heads][head_dim] */
    edgec_kv_scale *v_scale; /* [context][kv_heads] */
} edgec_kv_cache;

#ifdef __cplusplus
}
#endif

#endif

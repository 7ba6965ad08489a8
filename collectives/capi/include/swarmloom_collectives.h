/* Collectives between processes: shared memory inside a host, TCP between hosts, with deadlines and survivors.
 *
 * Every rank makes the same calls in the same order, one thread at a time for each group. A call returns SWL_OK or says
 * what went wrong; swl_error gives it in words and swl_missing the rank that is gone. After a failed collective the
 * input is as it was, the output is undefined, and only swl_shrink and swl_group_free are of use.
 *
 * Link with -lswarmloom_collectives_c. */
#ifndef SWARMLOOM_COLLECTIVES_H
#define SWARMLOOM_COLLECTIVES_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum swl_status {
    SWL_OK = 0,
    SWL_USAGE = 1,    /* lengths, ranks or numbers that do not fit: nothing was sent */
    SWL_LOST = 2,     /* a rank is gone: swl_missing says which */
    SWL_TIMEOUT = 3,  /* a rank did not do its part in time: swl_missing says which */
    SWL_ABORTED = 4,  /* another rank gave up and told this one: because of whom, is in the text of swl_error */
    SWL_MISMATCH = 5, /* the ranks called different things */
    SWL_SETUP = 6,    /* the group did not come together */
    SWL_FAILED = 7,   /* anything else, or the group has failed before */
};

enum swl_dtype { SWL_F32 = 0, SWL_F64 = 1, SWL_BF16 = 2, SWL_F16 = 3, SWL_I8 = 4, SWL_I32 = 5, SWL_I64 = 6, SWL_U8 = 7 };
enum swl_op { SWL_SUM = 0, SWL_PRODUCT = 1, SWL_MIN = 2, SWL_MAX = 3 };
enum swl_transport { SWL_AUTO = 0, SWL_SHM = 1, SWL_TCP = 2, SWL_OFI = 3 /* libfabric, loaded at run time */ };

typedef struct swl_group swl_group;
typedef struct swl_region swl_region;

/* Meets the other ranks at `address` ("127.0.0.1:29500"), where rank 0 listens. `token` is known to the ranks only.
 * `*group` is set in any case but SWL_USAGE for a null pointer, so that swl_error can be asked; free it. */
int swl_group_join(const char *address, const uint8_t *token, size_t token_bytes, uint32_t rank, uint32_t ranks,
                   double timeout_s, int transport, swl_group **group);
void swl_group_free(swl_group *group);

uint32_t swl_rank(const swl_group *group);
uint32_t swl_ranks(const swl_group *group);
uint64_t swl_epoch(const swl_group *group);
/* Ranks of this group, as swl_group_join counted them: `members` has room for swl_ranks. swl_missing counts as the group of
 * the failed operation does. */
void swl_members(const swl_group *group, uint32_t *members);
/* The text of the last failure, cut to `bytes` with its final zero; returns the length of the whole text. */
size_t swl_error(const swl_group *group, char *text, size_t bytes);
/* The rank that the last failure is about, or -1. */
int64_t swl_missing(const swl_group *group);
/* How long an operation may take, from when it first has to wait. */
int swl_set_timeout(swl_group *group, double timeout_s);

/* `input` and `output` of all_reduce may be the same memory; otherwise buffers do not overlap. Counts are in elements;
 * `parts` has one number for each rank, `counts[i * ranks + j]` is what rank i has for rank j. */
int swl_all_reduce(swl_group *group, const void *input, void *output, size_t count, int dtype, int op);
int swl_reduce_scatter(swl_group *group, const void *input, void *output, const size_t *parts, int dtype, int op);
int swl_all_gather(swl_group *group, const void *input, void *output, const size_t *parts, int dtype);
int swl_broadcast(swl_group *group, const void *input, void *output, size_t count, uint32_t root, int dtype);
int swl_reduce(swl_group *group, const void *input, void *output, size_t count, uint32_t root, int dtype, int op);
int swl_all_to_all(swl_group *group, const void *input, void *output, const size_t *counts, int dtype);
int swl_send(swl_group *group, const void *input, void *output, size_t count, uint32_t from, uint32_t to, int dtype);
int swl_barrier(swl_group *group);

/* Zeroed memory that the ranks of this host reach directly; null where there is none (see swl_error). */
swl_region *swl_region_new(swl_group *group, size_t bytes);
void *swl_region_data(const swl_region *region);
void swl_region_free(swl_region *region);
/* As swl_all_reduce, with input and output in regions on every rank: no staging. */
int swl_all_reduce_registered(swl_group *group, const void *input, void *output, size_t count, int dtype, int op);

/* After a failure: makes the group one of those who live. Ranks are numbered anew, in the old order; swl_members says who
 * is who. A rank that has not called it within half the time is left out, and gets SWL_SETUP when it does. The operation
 * that failed may have ended on some survivors: agree on where to go on. */
int swl_shrink(swl_group *group, double timeout_s);

#ifdef __cplusplus
}
#endif
#endif

/* The measured grid and the timing loop, common to all peers; collectives/src/bench/grid.rs is its twin. A peer
 * supplies `run`, which carries out one collective on float32, with a sum where it reduces and rank 0 as the root.
 *
 * Environment, beside that of shmclock.h: BENCH_GRID ("all_reduce:8,all_gather:4096": what to measure, in this order),
 * BENCH_BUDGET_MS (time for each). */
#ifndef GRID_H
#define GRID_H
#include "shmclock.h"

/* `bytes` is the larger side of the operation on one rank:
 *   all_reduce, broadcast, reduce  the vector
 *   all_gather                     the gathered result  (each rank sends bytes/n)
 *   reduce_scatter                 the input            (each rank keeps bytes/n)
 *   all_to_all                     the input            (bytes/n to each rank)    */
enum op { ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, BROADCAST, ALL_TO_ALL, REDUCE, N_OPS };
static const char *OP_NAME[N_OPS] = {"all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all", "reduce"};

static int is_parted(enum op op) { return op == ALL_GATHER || op == REDUCE_SCATTER || op == ALL_TO_ALL; }
static int64_t in_count(enum op op, int64_t count, int n) { return op == ALL_GATHER ? count / n : count; }
static int64_t out_count(enum op op, int64_t count, int rank, int n) {
    return op == REDUCE_SCATTER ? count / n : op == REDUCE && rank ? 0 : count;
}

/* Small whole numbers, so that a sum is exact in any order. */
static inline float value(int rank, int64_t i, int iter) { return (float)(((i + 37 * rank) & 1023) + (iter & 511)); }

static float expected(enum op op, int64_t i, int64_t count, int rank, int n, int iter) {
    int64_t part = count / n;
    float s = 0;
    switch (op) {
    case ALL_REDUCE:
    case REDUCE: for (int r = 0; r < n; r++) s += value(r, i, iter); return s;
    case REDUCE_SCATTER: for (int r = 0; r < n; r++) s += value(r, rank * part + i, iter); return s;
    case ALL_GATHER: return value((int)(i / part), i % part, iter);
    case ALL_TO_ALL: return value((int)(i / part), rank * part + i % part, iter);
    case BROADCAST: return value(0, i, iter);
    default: return 0;
    }
}

/* in: fresh values, written just before the call; out: the result. in == out for broadcast, and for all_reduce where
 * the peer wants it so. 0 where all went well. */
typedef int (*run_fn)(enum op op, float *in, float *out, int64_t count, int rank, int n);

static void measure(const char *peer, enum op op, int64_t bytes, int64_t budget_ns, int rank, int n, float *in,
                    float *out, int in_place, run_fn run) {
    int64_t count = is_parted(op) ? bytes / 4 / n * n : bytes / 4;
    if (!count) return;
    int64_t nin = in_count(op, count, n), nout = out_count(op, count, rank, n), bad = 0;
    float *dst = op == BROADCAST || (in_place && op == ALL_REDUCE) ? in : out;
    double before = sc_one_way();
    /* a few untimed passes tell the number of iterations; then warm-up, then timing */
    int probe = 6, iters = 0, warm = probe, total = probe;
    int64_t fastest = INT64_MAX;
    for (int it = 0; it < total; it++) {
        int64_t t = sc_now();
        for (int64_t i = 0; i < nin; i++) in[i] = value(rank, i, it);
        sc_barrier();
        int64_t a = sc_now();
        if (run(op, in, dst, count, rank, n)) bad++;
        int64_t b = sc_now();
        if (it >= warm) {
            sc_record(it - warm, a, b);
            if (nout) {
                int64_t i = (int64_t)((uint64_t)it * 2654435761u % (uint64_t)nout);
                bad += dst[i] != expected(op, i, count, rank, n, it);
            }
            continue;
        }
        if (b - t < fastest) fastest = b - t;
        if (it == 0)
            for (int64_t i = 0; i < nout; i++) bad += dst[i] != expected(op, i, count, rank, n, it);
        if (it == probe - 1) {
            int64_t want = budget_ns / (fastest + 1);
            want = want < 15 ? 15 : want > 12000 ? 12000 : want;
            iters = (int)sc_share((uint64_t)want);
            warm = probe + iters / 8;
            total = warm + iters;
        }
    }
    sc_summary(peer, OP_NAME[op], bytes, iters, before, bad);
}

static void *big(int64_t bytes) {
    void *p = NULL;
    if (posix_memalign(&p, 4096, bytes)) exit(1);
    memset(p, 0, bytes);
    return p;
}

/* Calls `each` for every point of BENCH_GRID; returns the largest size. */
static int64_t points(void (*each)(enum op op, int64_t bytes, void *context), void *context) {
    const char *list = getenv("BENCH_GRID");
    int64_t largest = 4096;
    while (list && *list) {
        size_t name = strcspn(list, ":");
        int64_t bytes = list[name] ? atoll(list + name + 1) : 0;
        for (int op = 0; op < N_OPS; op++)
            if (strlen(OP_NAME[op]) == name && !strncmp(list, OP_NAME[op], name) && each) each((enum op)op, bytes, context);
        if (bytes > largest) largest = bytes;
        list += strcspn(list, ",");
        list += *list == ',';
    }
    return largest;
}

struct grid { const char *peer; int64_t budget_ns; int rank, n, in_place; float *in, *out; run_fn run; };

static void one_point(enum op op, int64_t bytes, void *context) {
    struct grid *g = (struct grid *)context;
    measure(g->peer, op, bytes, g->budget_ns, g->rank, g->n, g->in, g->out, g->in_place, g->run);
}

/* All points. Buffers are made here where `in` is null. */
static void grid(const char *peer, int rank, int n, float *in, float *out, int in_place, run_fn run) {
    const char *budget = getenv("BENCH_BUDGET_MS");
    int64_t bytes = points(NULL, NULL);
    struct grid g = {peer, (budget ? atoll(budget) : 100) * 1000000, rank, n, in_place, in, out, run};
    if (!in) g.in = (float *)big(bytes), g.out = (float *)big(bytes);
    points(one_point, &g);
}
#endif

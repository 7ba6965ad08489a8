/* Start line, clock and result pool of the ranks of one measured program, in a file that all of them map. All peers
 * use it, and collectives/src/bench/clock.rs is its twin for our own programs.
 *
 *   sc_deadline end this process after BENCH_DEADLINE_S seconds
 *   sc_open     map the file that BENCH_SHM names (empty at first)
 *   sc_barrier  spinning barrier between the ranks; does not belong to the library under test
 *   sc_now      CLOCK_MONOTONIC in ns, the same in all processes of a host
 *   sc_one_way  time of a cache line between ranks 0 and 1
 *   sc_summary  for each operation the largest of the ranks' (end - start), then percentiles
 *
 * Environment: BENCH_SHM, BENCH_CPUS ("0,1": processors by rank, empty: nothing is pinned), BENCH_SPINS (looks before a
 * wait gives the processor away), BENCH_DEADLINE_S. */
#ifndef SHMCLOCK_H
#define SHMCLOCK_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifdef __cplusplus
#define SC_ALIGN alignas(128)
#else
#define SC_ALIGN _Alignas(128)
#endif
#define SC_MAX_RANKS 16
#define SC_MAX_ITERS 20000
#define SC_BLOB_BYTES 4096

struct sc_slot { SC_ALIGN uint64_t seq; };
struct sc_shared {
    struct sc_slot slot[SC_MAX_RANKS];
    SC_ALIGN uint64_t word;        /* one value of rank 0 for all */
    SC_ALIGN int64_t wrong[SC_MAX_RANKS];
    char blob[SC_BLOB_BYTES];
    int64_t start[SC_MAX_RANKS][SC_MAX_ITERS];
    int64_t end[SC_MAX_RANKS][SC_MAX_ITERS];
};

static struct sc_shared *sc_mem;
static int sc_rank, sc_size, sc_spins;
static int sc_loose;               /* not pinned, but while sc_one_way measures */
static uint64_t sc_seq;

static inline int64_t sc_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* First of all: whatever a library does, this process ends. */
static void sc_deadline(void) {
    const char *seconds = getenv("BENCH_DEADLINE_S");
    if (seconds) alarm((unsigned)atoi(seconds));
}

static int sc_open(int rank, int size) {
    const char *path = getenv("BENCH_SHM"), *spins = getenv("BENCH_SPINS");
    if (!path || size > SC_MAX_RANKS) { fprintf(stderr, "BENCH_SHM is not set, or there are too many ranks\n"); return -1; }
    int fd = open(path, O_RDWR);
    if (fd < 0) { perror(path); return -1; }
    if (ftruncate(fd, sizeof(struct sc_shared))) { perror("ftruncate"); return -1; }
    sc_mem = (struct sc_shared *)mmap(NULL, sizeof(struct sc_shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (sc_mem == MAP_FAILED) { perror("mmap"); return -1; }
    sc_rank = rank;
    sc_size = size;
    /* more ranks than processors: give the processor away while waiting */
    sc_spins = spins ? atoi(spins) : size > sysconf(_SC_NPROCESSORS_ONLN) ? 50 : 20000;
    for (int i = 0; i < SC_MAX_ITERS; i += 512) {   /* own pages are there before the first measurement */
        sc_mem->start[rank][i] = 0;
        sc_mem->end[rank][i] = 0;
    }
    return 0;
}

/* This thread to the processor of its rank in BENCH_CPUS. */
static void sc_pin(int rank) {
    const char *list = getenv("BENCH_CPUS");
    int cpu[SC_MAX_RANKS], n = 0;
    for (char *next; list && *list && n < SC_MAX_RANKS; list = *next ? next + 1 : next) {
        cpu[n++] = (int)strtol(list, &next, 10);
        if (next == list) return;
    }
    if (!n) return;
    cpu_set_t s;
    CPU_ZERO(&s);
    CPU_SET(cpu[rank % n], &s);
    if (sched_setaffinity(0, sizeof s, &s)) perror("pinning");
}

static void sc_barrier(void) {
    uint64_t want = ++sc_seq;
    __atomic_store_n(&sc_mem->slot[sc_rank].seq, want, __ATOMIC_RELEASE);
    for (int r = 0; r < sc_size; r++) {
        int n = 0;
        while (__atomic_load_n(&sc_mem->slot[r].seq, __ATOMIC_ACQUIRE) < want) {
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
            if (++n > sc_spins) { sched_yield(); n = 0; }
        }
    }
}

/* rank 0's value, for all */
static uint64_t sc_share(uint64_t v) {
    if (sc_rank == 0) sc_mem->word = v;
    sc_barrier();
    v = sc_mem->word;
    sc_barrier();
    return v;
}

static void sc_record(int iter, int64_t start, int64_t end) {
    sc_mem->start[sc_rank][iter] = start;
    sc_mem->end[sc_rank][iter] = end;
}

static int sc_cmp(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* One-way time of a cache line between ranks 0 and 1, in ns; -1 where there are not just these two: tells on which
 * processors a hypervisor runs the ranks at the moment. */
static double sc_one_way(void) {
    int64_t best = INT64_MAX;
    cpu_set_t all;
    if (sc_size != 2) return -1;
    if (sc_loose) {
        sched_getaffinity(0, sizeof all, &all);
        sc_pin(sc_rank);
        sc_barrier();
    }
    for (int k = 0; k < 5; k++) {
        int64_t t = sc_now();
        for (int i = 0; i < 200; i++) sc_barrier();
        t = sc_now() - t;
        if (t < best) best = t;
    }
    if (sc_loose) sched_setaffinity(0, sizeof all, &all);
    return best / 200.0;
}

/* One JSON line from rank 0. `bad` is this rank's count of wrong elements, `before` what sc_one_way said before. */
static void sc_summary(const char *peer, const char *op, int64_t bytes, int iters, double before, int64_t bad) {
    static int64_t v[SC_MAX_ITERS];
    sc_barrier();
    double after = sc_one_way();
    sc_mem->wrong[sc_rank] = bad;
    sc_barrier();
    if (sc_rank == 0) {
        int64_t wrong = 0;
        for (int r = 0; r < sc_size; r++) wrong += sc_mem->wrong[r];
        for (int i = 0; i < iters; i++) {
            int64_t m = 0;
            for (int r = 0; r < sc_size; r++) {
                int64_t d = sc_mem->end[r][i] - sc_mem->start[r][i];
                if (d > m) m = d;
            }
            v[i] = m;
        }
        qsort(v, iters, sizeof v[0], sc_cmp);
        printf("{\"peer\":\"%s\",\"op\":\"%s\",\"bytes\":%lld,\"ranks\":%d,\"iters\":%d,"
               "\"one_way_before_ns\":%.1f,\"one_way_ns\":%.1f,"
               "\"min_us\":%.3f,\"p10_us\":%.3f,\"p50_us\":%.3f,\"p90_us\":%.3f,\"wrong\":%lld}\n",
               peer, op, (long long)bytes, sc_size, iters, before, after, v[0] / 1e3, v[iters / 10] / 1e3,
               v[iters / 2] / 1e3, v[iters * 9 / 10] / 1e3, (long long)wrong);
        fflush(stdout);
    }
    sc_barrier();
}

#endif

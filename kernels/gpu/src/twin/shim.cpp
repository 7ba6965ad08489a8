// Runs `kernels.cu` on the processor: the grid in loops, the threads of a block as fibers that meet at barriers.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <ucontext.h>
#include <utility>
#include <vector>

struct Dim {
    unsigned x;
};
static Dim blockIdx, threadIdx, gridDim, blockDim;

#define __global__
#define __device__
#define __forceinline__ inline
// One block runs at a time.
#define __shared__ static

template <class To, class From> static To bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "bits of another size");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}
static unsigned __float_as_uint(float x) { return bits<unsigned>(x); }
static float __uint_as_float(unsigned x) { return bits<float>(x); }
static long long __double_as_longlong(double x) { return bits<long long>(x); }
static double __longlong_as_double(long long x) { return bits<double>(x); }
static float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
static float __fsqrt_rn(float x) { return std::sqrt(x); }
static int __float2int_rn(float x) { return x != x ? 0 : (int)std::nearbyint(x); }
static unsigned atomicMax(unsigned *at, unsigned value) {
    unsigned old = *at;
    if (value > old) *at = value;
    return old;
}

// Fibers: `__syncthreads` goes back to the loop in `run_block`, which goes on once all threads have come to it.
static ucontext_t loop_context;
static std::vector<ucontext_t> fibers;
static std::vector<bool> ended;
static unsigned current;
static void __syncthreads() { swapcontext(&fibers[current], &loop_context); }

struct Kernel {
    const char *name;
    void *function;
    void (*call)(void *function, void **arguments);
};
static std::vector<Kernel> &kernels() {
    static std::vector<Kernel> all;
    return all;
}
template <class... A, size_t... I> static void spread(void (*f)(A...), void **arguments, std::index_sequence<I...>) {
    f(*(typename std::remove_reference<A>::type *)arguments[I]...);
}
template <class... A> static void call_as(void *function, void **arguments) {
    spread((void (*)(A...))function, arguments, std::index_sequence_for<A...>());
}
template <class... A> static bool add_kernel(const char *name, void (*f)(A...)) {
    kernels().push_back({name, (void *)f, call_as<A...>});
    return true;
}
#define REGISTER(name) static bool registered_##name = add_kernel(#name, name);

#include "kernels.cu"

static const Kernel *running;
static void **running_arguments;
static void enter() {
    running->call(running->function, running_arguments);
    ended[current] = true;
    swapcontext(&fibers[current], &loop_context);
}

static void run_block(unsigned threads, bool backwards) {
    static std::vector<std::vector<char>> stacks;
    if (stacks.size() < threads) stacks.resize(threads, std::vector<char>(64 << 10));
    if (fibers.size() < threads) fibers.resize(threads);
    ended.assign(threads, false);
    for (unsigned i = 0; i < threads; i++) {
        getcontext(&fibers[i]);
        fibers[i].uc_stack.ss_sp = stacks[i].data();
        fibers[i].uc_stack.ss_size = stacks[i].size();
        fibers[i].uc_link = nullptr;
        makecontext(&fibers[i], enter, 0);
    }
    for (unsigned left = threads; left > 0;) {
        unsigned ends = 0;
        for (unsigned step = 0; step < threads; step++) {
            current = backwards ? threads - 1 - step : step;
            if (ended[current]) continue;
            threadIdx.x = current;
            swapcontext(&loop_context, &fibers[current]);
            ends += ended[current];
        }
        // A thread that ends while others wait at a barrier would hang a device.
        if (ends != 0 && ends != left) {
            std::fprintf(stderr, "%s: threads have parted at a barrier\n", running->name);
            std::abort();
        }
        left -= ends;
    }
}

extern "C" int launch(const char *name, unsigned grid, unsigned block, void **arguments, int backwards) {
    for (const Kernel &kernel : kernels()) {
        if (std::strcmp(kernel.name, name) != 0) continue;
        running = &kernel;
        running_arguments = arguments;
        gridDim.x = grid;
        blockDim.x = block;
        for (unsigned i = 0; i < grid; i++) {
            blockIdx.x = backwards ? grid - 1 - i : i;
            run_block(block, backwards != 0);
        }
        return 0;
    }
    return 1;
}

extern "C" const char *kernel_name(unsigned index) { return index < kernels().size() ? kernels()[index].name : nullptr; }

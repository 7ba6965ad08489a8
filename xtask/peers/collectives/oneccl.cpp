// oneCCL on host memory, float32. Started by mpiexec for placement only; the address of the library's own key-value
// store travels through the shared clock page. Usage: oneccl NAME
#include "grid.h"
#include <memory>
#include <oneapi/ccl.hpp>

static std::unique_ptr<ccl::communicator> comm;

static int run(enum op op, float *in, float *out, int64_t count, int rank, int n) {
    (void)rank;
    size_t c = count, part = c / n;
    const auto f32 = ccl::datatype::float32;
    const auto sum = ccl::reduction::sum;
    switch (op) {
    case ALL_REDUCE: ccl::allreduce(in, out, c, f32, sum, *comm).wait(); return 0;
    case ALL_GATHER: ccl::allgather(in, out, part, f32, *comm).wait(); return 0;
    case REDUCE_SCATTER: ccl::reduce_scatter(in, out, part, f32, sum, *comm).wait(); return 0;
    case BROADCAST: ccl::broadcast(in, c, f32, 0, *comm).wait(); return 0;
    case ALL_TO_ALL: ccl::alltoall(in, out, part, f32, *comm).wait(); return 0;
    case REDUCE: ccl::reduce(in, out, c, f32, sum, 0, *comm).wait(); return 0;
    default: return 1;
    }
}

int main(int argc, char **argv) {
    sc_deadline();
    const char *my_rank = getenv("PMI_RANK"), *size = getenv("PMI_SIZE");
    if (!my_rank || !size) return 1;
    int rank = atoi(my_rank), n = atoi(size);
    if (sc_open(rank, n)) return 1;
    ccl::init();
    std::shared_ptr<ccl::kvs> kvs;
    if (rank == 0) {
        kvs = ccl::create_main_kvs();
        auto a = kvs->get_address();
        memcpy(sc_mem->blob, a.data(), a.size());
        sc_barrier();
    } else {
        sc_barrier();
        ccl::kvs::address_type a;
        memcpy(a.data(), sc_mem->blob, a.size());
        kvs = ccl::create_kvs(a);
    }
    comm.reset(new ccl::communicator(ccl::create_communicator(n, rank, kvs)));
    sc_pin(rank);
    grid(argc > 1 ? argv[1] : "oneccl", rank, n, NULL, NULL, 0, run);
    comm.reset();
    return 0;
}

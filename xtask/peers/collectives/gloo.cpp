// gloo as PyTorch has it (c10d::ProcessGroupGloo of libtorch), called from C++: what a user pays in Python comes on top.
// On the loopback interface, in place as c10d does it. libtorch ships that class but not gloo's own headers; the few
// types that its declaration names stand in the folder `gloo`.
// Usage: gloo NAME RANK RANKS STORE_FILE, one process for each rank.
#define USE_C10D_GLOO
#include "grid.h"
#include <ATen/Parallel.h>
#include <ATen/ops/from_blob.h>
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

static c10::intrusive_ptr<c10d::ProcessGroupGloo> group;
// One tensor for each buffer and length, as a program would keep it.
static at::Tensor in_tensor, out_tensor;

static at::Tensor &tensor(at::Tensor &kept, float *at, int64_t count) {
    if (!kept.defined() || kept.data_ptr() != at || kept.numel() != count) kept = at::from_blob(at, {count}, at::kFloat);
    return kept;
}

static int run(enum op op, float *in, float *out, int64_t count, int rank, int n) {
    at::Tensor &i = tensor(in_tensor, in, in_count(op, count, n));
    switch (op) {
    case ALL_REDUCE:
    case BROADCAST:
    case REDUCE: {
        std::vector<at::Tensor> list{i};
        if (op == ALL_REDUCE) group->allreduce(list)->wait();
        else if (op == BROADCAST) group->broadcast(list)->wait();
        else {
            group->reduce(list)->wait();
            // In place here; elsewhere the result has a buffer of its own, which is not paid for by this.
            if (rank == 0) memcpy(out, in, count * 4);
        }
        return 0;
    }
    case ALL_GATHER: group->_allgather_base(tensor(out_tensor, out, count), i)->wait(); return 0;
    case REDUCE_SCATTER: group->_reduce_scatter_base(tensor(out_tensor, out, count / n), i)->wait(); return 0;
    case ALL_TO_ALL: {
        std::vector<int64_t> even;
        group->alltoall_base(tensor(out_tensor, out, count), i, even, even)->wait();
        return 0;
    }
    default: return 1;
    }
}

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    sc_deadline();
    int rank = atoi(argv[2]), n = atoi(argv[3]);
    at::set_num_threads(1);
    try {
        auto store = c10::make_intrusive<c10d::FileStore>(argv[4], n);
        auto options = c10d::ProcessGroupGloo::Options::create();
        options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1"));
        group = c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, n, options);
        // Its threads want processors of their own.
        sc_loose = 1;
        if (sc_open(rank, n)) return 1;
        grid(argv[1], rank, n, NULL, NULL, 1, run);
        group.reset();
    } catch (const std::exception &error) {
        fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}

/* Any MPI library: blocking collectives on float32. Compiled with that library's mpicc. Usage: mpi NAME */
#include "grid.h"
#include <mpi.h>

static int run(enum op op, float *in, float *out, int64_t count, int rank, int n) {
    int c = (int)count, part = c / n;
    (void)rank;
    switch (op) {
    case ALL_REDUCE: return MPI_Allreduce(in, out, c, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    case ALL_GATHER: return MPI_Allgather(in, part, MPI_FLOAT, out, part, MPI_FLOAT, MPI_COMM_WORLD);
    case REDUCE_SCATTER: return MPI_Reduce_scatter_block(in, out, part, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    case BROADCAST: return MPI_Bcast(in, c, MPI_FLOAT, 0, MPI_COMM_WORLD);
    case ALL_TO_ALL: return MPI_Alltoall(in, part, MPI_FLOAT, out, part, MPI_FLOAT, MPI_COMM_WORLD);
    case REDUCE: return MPI_Reduce(in, out, c, MPI_FLOAT, MPI_SUM, 0, MPI_COMM_WORLD);
    default: return 1;
    }
}

int main(int argc, char **argv) {
    int rank, n;
    sc_deadline();
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &n);
    sc_pin(rank);
    if (sc_open(rank, n)) MPI_Abort(MPI_COMM_WORLD, 1);
    MPI_Barrier(MPI_COMM_WORLD);
    grid(argc > 1 ? argv[1] : "mpi", rank, n, NULL, NULL, 0, run);
    MPI_Finalize();
    return 0;
}

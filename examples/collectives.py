"""Collectives of swarmloom from Python, through its C library and ctypes alone: no package has to be installed.

    cargo build --release -p swarmloom-collectives-capi
    python3 examples/collectives.py target/release/libswarmloom_collectives_c.so

starts four processes that reduce arrays over shared memory, kills one of them, and lets the others go on.
Give NumPy arrays or torch tensors by their addresses (`array.ctypes.data`, `tensor.data_ptr()`).
"""

import array
import ctypes
import multiprocessing
import os
import signal
import socket
import sys

F32, SUM, AUTO = 0, 0, 0
OK, LOST, TIMEOUT, ABORTED = 0, 2, 3, 4


class Group:
    """One rank's side of a group. Every rank makes the same calls in the same order."""

    def __init__(self, library, address, token, rank, ranks, timeout=30.0, transport=AUTO):
        self._lib = ctypes.CDLL(library)
        for name in ("swl_rank", "swl_ranks"):
            getattr(self._lib, name).restype = ctypes.c_uint32
        self._lib.swl_missing.restype = ctypes.c_int64
        self._lib.swl_error.restype = ctypes.c_size_t
        self._group = ctypes.c_void_p()
        self._check(
            self._lib.swl_group_join(
                address.encode(), token, ctypes.c_size_t(len(token)), ctypes.c_uint32(rank), ctypes.c_uint32(ranks),
                ctypes.c_double(timeout), ctypes.c_int(transport), ctypes.byref(self._group),
            )
        )

    def _check(self, status):
        if status == OK:
            return
        text = ctypes.create_string_buffer(1024)
        self._lib.swl_error(self._group, text, ctypes.c_size_t(len(text)))
        # Somebody is gone, hangs, or gave up: those who live can shrink the group.
        error = ConnectionError if status in (LOST, TIMEOUT, ABORTED) else RuntimeError
        raise error(text.value.decode(errors="replace"))

    @property
    def rank(self):
        return self._lib.swl_rank(self._group)

    @property
    def ranks(self):
        return self._lib.swl_ranks(self._group)

    @property
    def missing(self):
        return self._lib.swl_missing(self._group)

    def all_reduce(self, source, target, count, dtype=F32, op=SUM):
        """`source` and `target` are addresses of `count` elements; they may be the same."""
        self._check(
            self._lib.swl_all_reduce(
                self._group, ctypes.c_void_p(source), ctypes.c_void_p(target), ctypes.c_size_t(count),
                ctypes.c_int(dtype), ctypes.c_int(op),
            )
        )

    def shrink(self, timeout=10.0):
        self._check(self._lib.swl_shrink(self._group, ctypes.c_double(timeout)))

    def close(self):
        self._lib.swl_group_free(self._group)
        self._group = ctypes.c_void_p()


def main(library, address, rank, ranks):
    group = Group(library, address, b"example", rank, ranks)
    mine, total = array.array("f", [rank + 1] * 1000), array.array("f", [0] * 1000)
    (source, count), (target, _) = mine.buffer_info(), total.buffer_info()
    group.all_reduce(source, target, count)
    print(f"rank {rank}: {mine[0]:.0f} here, {total[0]:.0f} in all", flush=True)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        group.all_reduce(source, target, count)
    except ConnectionError as error:
        print(f"rank {rank}: {error}", flush=True)
        group.shrink()
    group.all_reduce(source, target, count)
    print(f"rank {rank} is rank {group.rank} of {group.ranks} now: {total[0]:.0f} in all", flush=True)
    group.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        meeting = "127.0.0.1:%d" % one.getsockname()[1]
    processes = [multiprocessing.Process(target=main, args=(sys.argv[1], meeting, rank, 4)) for rank in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    codes = [process.exitcode for process in processes]
    sys.exit(0 if codes == [0, -signal.SIGKILL, 0, 0] else f"exit codes {codes}")

"""Federated averaging as a bare PyTorch loop in two processes: what `bench simulate` takes as the limit of a framework.

`torch_loop_peer.py FOLDER`: FOLDER is that of `simulation_common.py`. Two processes train half of the selected clients
each, with one thread, on models in shared memory; the first averages. Says one line,
    {"updates": 300, "seconds": 14.1, "accuracy": 0.91}
where `seconds` is the time of all rounds.
"""

import json
import sys
import time

import torch
import torch.multiprocessing as multiprocessing

from simulation_common import Work, accuracy, model_from, train

PROCESSES = 2


def part(number, work, shared, sums, barrier):
    torch.set_num_threads(1)
    data = {}
    for version in range(work.rounds):
        barrier.wait()
        total = torch.zeros_like(shared)
        for client in work.selected(version)[number::PROCESSES]:
            if client not in data:
                data[client] = work.local_data(client)
            model = model_from(shared.clone())
            train(model, data[client], work)
            total += torch.nn.utils.parameters_to_vector(model.parameters()).detach()
        sums[number].copy_(total)
        barrier.wait()
        if number == 0:
            shared.copy_(sum(sums) / work.per_round)


def main():
    work = Work(sys.argv[1])
    shared = work.weights.clone().share_memory_()
    sums = [torch.zeros_like(shared).share_memory_() for _ in range(PROCESSES)]
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(PROCESSES)
    other = context.Process(target=part, args=(1, work, shared, sums, barrier))
    other.start()
    first = time.perf_counter()
    part(0, work, shared, sums, barrier)
    seconds = time.perf_counter() - first
    other.join()
    updates = work.rounds * work.per_round
    print(json.dumps({"updates": updates, "seconds": seconds, "accuracy": accuracy(shared, work)}))


if __name__ == "__main__":
    main()

"""Flower's simulation engine on the work of `bench simulate`, at the best configuration that was found for it.

`flower_peer.py FOLDER [--idle]`: FOLDER is that of `simulation_common.py`. Clients are `ClientApp`s of the message API
in Ray actors with one processor and one PyTorch thread each; their data stay in the actor; nothing is evaluated by
clients. With `--idle` they send the model back as it came, so that only Flower's own work remains. Says one line,
    {"updates": 290, "seconds": 22.0, "accuracy": 0.91}
where `seconds` is from the second round's start to the end (the first one starts Ray's actors), and `updates` are those of
that time.
"""

import json
import logging
import os
import sys
import time

os.environ.setdefault("RAY_DEDUP_LOGS", "0")
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import log
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

FOLDER, IDLE = sys.argv[1], "--idle" in sys.argv
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from simulation_common import LeNet, Work, accuracy, model_from, train

logging.getLogger("flwr").setLevel(logging.ERROR)
KEPT = {}

client = ClientApp()


@client.train()
def local(message: Message, context: Context):
    arrays = message.content["arrays"]
    if not IDLE:
        if "work" not in KEPT:
            KEPT["work"] = Work(FOLDER)
        work = KEPT["work"]
        number = int(message.content["config"]["client"])
        if number not in KEPT:
            KEPT[number] = work.local_data(number)
        model = LeNet()
        model.load_state_dict(arrays.to_torch_state_dict())
        train(model, KEPT[number], work)
        arrays = ArrayRecord(model.state_dict())
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})})
    return Message(content, reply_to=message)


server = ServerApp()
TOLD = {}


@server.main()
def rounds(grid: Grid, context: Context):
    work = Work(FOLDER)
    while len(grid.get_node_ids()) < work.clients:
        time.sleep(0.01)
    nodes = sorted(grid.get_node_ids())
    state = model_from(work.weights.clone()).state_dict()
    for version in range(work.rounds):
        if version == 1:
            TOLD["second"] = time.perf_counter()
        sent = ArrayRecord(state)
        messages = [
            Message(RecordDict({"arrays": sent, "config": ConfigRecord({"client": number})}), nodes[number], "train")
            for number in work.selected(version)
        ]
        replies = [reply.content["arrays"].to_torch_state_dict() for reply in grid.send_and_receive(messages)]
        assert len(replies) == work.per_round
        state = {name: torch.stack([reply[name] for reply in replies]).mean(0) for name in state}
    TOLD["end"] = time.perf_counter()
    TOLD["updates"] = (work.rounds - 1) * work.per_round
    flat = torch.cat([tensor.flatten() for tensor in state.values()])
    TOLD["accuracy"] = accuracy(flat, work)


if __name__ == "__main__":
    clients = json.load(open(os.path.join(FOLDER, "settings.json")))["clients"]
    answers = os.dup(1)
    os.dup2(2, 1)  # others' words go where they do not disturb
    run_simulation(server, client, num_supernodes=clients, backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0}})
    line = {
        "updates": TOLD["updates"],
        "seconds": TOLD["end"] - TOLD["second"],
        "accuracy": TOLD["accuracy"],
    }
    os.write(answers, (json.dumps(line) + "\n").encode())

#!/usr/bin/env python3
"""Writes FedScale's traces as the tables that `swarmloom simulate` reads (`population.trace`).

    python3 fedscale_traces.py --devices client_device_capacity --behaviour client_behave_trace

Devices: {id: {"computation": ms a sample takes to infer, "communication": kbit/s}}. FedScale counts three times that for a
sample's training, 1024 bits for a kbit, and one rate both ways. Behaviour: {id: {"active": [s, ...], "inactive": [s, ...],
"finish_time": s}}: reachable from each `active` to the `inactive` in the same place, and again after `finish_time`. The ids of
the two files have nothing to do with each other, so the table of devices has none.
"""

import argparse
import pickle


class Plain(pickle.Unpickler):
    """Pickles of numbers, texts, lists and dictionaries: anything else could run code."""

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"{module}.{name}: a trace has numbers, texts, lists and dictionaries only")


def load(path):
    with open(path, "rb") as file:
        return Plain(file).load()


def devices(found, path):
    with open(path, "w", encoding="ascii") as table:
        table.write("seconds_per_sample,down_bits_per_s,up_bits_per_s\n")
        kept = 0
        for device in found.values():
            seconds, bits = 3 * device["computation"] / 1000, 1024 * device["communication"]
            if seconds > 0 and bits > 0:
                table.write(f"{seconds},{bits},{bits}\n")
                kept += 1
    print(f"{path}: {kept} of {len(found)} devices; the others have no speed")


def behaviour(found, path):
    period = max(device["finish_time"] for device in found.values())
    with open(path, "w", encoding="ascii") as table:
        table.write("device,from_seconds,to_seconds\n")
        kept = 0
        for number, device in found.items():
            end = 0
            for begin, stop in sorted(zip(device["active"], device["inactive"])):
                begin, stop = max(begin, end), min(stop, period)
                if begin < stop:
                    table.write(f"{number},{begin},{stop}\n")
                    end = stop
                    kept += 1
    shorter = sum(device["finish_time"] < period for device in found.values())
    print(f"{path}: {kept} times of {len(found)} devices; period_s = {period}, which {shorter} devices do not reach")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--devices", help="pickled devices; writes devices.csv")
    arguments.add_argument("--behaviour", help="pickled behaviour; writes availability.csv")
    given = arguments.parse_args()
    if given.devices:
        devices(load(given.devices), "devices.csv")
    if given.behaviour:
        behaviour(load(given.behaviour), "availability.csv")


if __name__ == "__main__":
    main()

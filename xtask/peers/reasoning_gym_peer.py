"""reasoning-gym as a program to compare with.

Says {"peer": "reasoning-gym", "version": "..."} when it is ready. Then answers each line of standard input,
    {"task": "bf", "config": {"difficulty": 1}, "seed": 42, "first": 0, "count": 100}
with one line of standard output: the seconds that generating the items `first` to `first + count - 1` took, the
seconds that scoring each item's own answer and one wrong answer took, and the sums of both scores.
    {"task": "bf", "count": 100, "generate_s": 0.5, "score_s": 0.01, "right": 100.0, "wrong": 1.0, "failed": []}
`failed` are the indices of items that reasoning-gym itself could not make (a division by zero); they count in no sum.
A request that fails is answered with {"task": "bf", "error": "..."}. Ends when its standard input does.
"""

import importlib.metadata
import json
import os
import sys
import time

import reasoning_gym

WRONG = "foo"

# Some generators print while they work. Answers go to the real standard output, their words nowhere.
ANSWERS = sys.stdout
sys.stdout = open(os.devnull, "w")


def measure(request):
    first, count = request.get("first", 0), request["count"]
    config = dict(request.get("config") or {}, seed=request["seed"], size=first + count)
    dataset = reasoning_gym.create_dataset(request["task"], **config)
    start = time.perf_counter()
    items, failed = [], []
    for index in range(first, first + count):
        try:
            items.append(dataset[index])
        except ArithmeticError:
            failed.append(index)
    generated = time.perf_counter()
    right = sum(dataset.score_answer(item["answer"], item) for item in items)
    wrong = sum(dataset.score_answer(WRONG, item) for item in items)
    scored = time.perf_counter()
    return {
        "task": request["task"],
        "count": count,
        "generate_s": generated - start,
        "score_s": scored - generated,
        "right": float(right),
        "wrong": float(wrong),
        "failed": failed,
    }


def main():
    say({"peer": "reasoning-gym", "version": importlib.metadata.version("reasoning-gym")})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            say(measure(request))
        except Exception as error:
            say({"task": request.get("task"), "error": f"{type(error).__name__}: {error}"})


def say(message):
    print(json.dumps(message), file=ANSWERS, flush=True)


main()

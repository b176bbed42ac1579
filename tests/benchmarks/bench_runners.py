"""What a task run costs on threads, on a local Dask cluster and on a local Ray cluster of two workers.

    python tests/benchmarks/bench_runners.py --tasks 40 --rounds 3

Tasks do nothing, so all that is timed is Prefect and the engine, against a Prefect server of its own. They are
sent one after another, each when the one before has landed (as the stages of a study are), and all at once.
The runners take turns within a round.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cloudpickle
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.testing.utilities import prefect_test_harness

from dihal_core.profiles import load_study
from tasks.runners import StudyTaskRunner, choose_runner

RUNNERS = ("threads", "dask", "ray")


@task(cache_policy=NO_CACHE, persist_result=False)
def nothing(number: int) -> int:
    """Return the number."""
    return number


@flow(task_runner=StudyTaskRunner(64))
def many(runner: str, count: int) -> dict[str, float]:
    """Return seconds: until the runner is there, of the first task in each worker, per task in turn and at once."""
    started = time.perf_counter()
    choose_runner(load_study("smoke", overrides={"compute.runner": runner}).compute)
    opened = time.perf_counter()
    [future.result() for future in [nothing.submit(number) for number in range(2)]]
    first = time.perf_counter()
    for number in range(count):
        nothing.submit(number).result()
    turn = time.perf_counter()
    [future.result() for future in [nothing.submit(number) for number in range(count)]]
    ended = time.perf_counter()
    return {
        "start_s": opened - started,
        "first_s": first - opened,
        "in_turn_ms": 1e3 * (turn - first) / count,
        "at_once_ms": 1e3 * (ended - turn) / count,
    }


def main() -> int:
    """Print one line per runner, and JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    os.environ["PREFECT_LOGGING_LEVEL"] = "ERROR"
    os.environ["PREFECT_RESULTS_LOCAL_STORAGE_PATH"] = tempfile.mkdtemp()
    found: dict[str, list[dict[str, float]]] = {runner: [] for runner in RUNNERS}
    with prefect_test_harness(server_startup_timeout=180):
        for _ in range(arguments.rounds):
            for runner in RUNNERS:
                found[runner].append(many(runner, arguments.tasks))
    rows = {
        runner: {name: round(statistics.median(row[name] for row in turns), 2) for name in turns[0]}
        for runner, turns in found.items()
    }
    print("runner   start s  first tasks s  ms a task in turn  ms a task at once")
    for runner, row in rows.items():
        print(f"{runner:<8} {row['start_s']:>7} {row['first_s']:>14} {row['in_turn_ms']:>18} {row['at_once_ms']:>18}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Kill a dump many times, harm its chunks in between, and count what was lost: `drill_script.py HOME KILLS`.

Lives are forked from one process that has imported everything, so a kill costs milliseconds. Prints JSON.
"""

import importlib.util
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from dihal_core.activations import run
from dihal_core.activations.names import GROUP, chunk_file
from dihal_core.activations.plan import DumpPlan
from dihal_core.files import MANIFEST

_script = Path(__file__).parents[1] / "dihal_core" / "activations" / "dump_script.py"
_spec = importlib.util.spec_from_file_location("dump_script", _script)
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)

LIFE_SECONDS = 120.0


def start(home: Path, plan: DumpPlan) -> int:
    """Fork a life: it dumps, logging every batch it has computed, and finishes the store."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        log = os.open(home / "batches", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        compute = run.batch_states

        def logged(backbone, plan, first):
            states = compute(backbone, plan, first)
            os.write(log, f"{first}\n".encode())
            return states

        run.batch_states = logged
        script.dump(home, plan)
        code = 0
    finally:
        os._exit(code)


def wait(child: int, moment: float | None) -> bool:
    """Wait for a life, killing it at `moment` seconds; say whether it was killed."""
    began, killed = time.monotonic(), False
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        age = time.monotonic() - began
        if done:
            if not killed and status:
                raise SystemExit(f"a life ended by itself with status {status}")
            return killed and os.WIFSIGNALED(status)
        if moment is not None and age > moment and not killed:
            os.kill(child, random.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)))
            killed = True
        if age > LIFE_SECONDS:
            os.kill(child, signal.SIGKILL)
            raise SystemExit(f"a life still ran after {LIFE_SECONDS} s")
        time.sleep(0.0005)


def batches(home: Path) -> list[int]:
    path = home / "batches"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def harm(partial: Path, draw: random.Random) -> str | None:
    """Tear, flip or remove a chunk of a committed unit; return the unit."""
    records = sorted(partial.glob("commits/unit-*.json"))
    if not records:
        return None
    record = draw.choice(records)
    array, chunks = draw.choice(sorted(json.loads(record.read_bytes())["crc32c"].items()))
    path = chunk_file(partial / GROUP, array, int(draw.choice(sorted(chunks))), 2 if array.startswith("geom") else 3)
    if not path.exists():
        return None
    data = bytearray(path.read_bytes())
    path.unlink()
    kind = draw.choice(("torn", "flipped", "missing"))
    if kind == "torn":
        path.write_bytes(data[: draw.randrange(len(data))])
    elif kind == "flipped":
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
    return record.stem


def drill(root: Path, kills: int, seed: int) -> dict:
    draw = random.Random(seed)
    plan = script.tiny_plan(640, whole=100, short=False)
    unit_of = {first: unit.index for unit in plan.units() for first in unit.windows[:: plan.batch_sequences]}
    size = plan.unit_batches
    undisturbed = root / "undisturbed"
    undisturbed.mkdir()
    wait(start(undisturbed, plan), None)
    wanted = json.loads((undisturbed / "activations" / "k" / MANIFEST).read_bytes())["digest"]
    found = Counter(kills=0, stores=0, harmed=0, undetected=0, different=0)
    most_units = most_batches = 0
    while found["kills"] < kills:
        home = root / f"store-{found['stores']}"
        home.mkdir()
        found["stores"] += 1
        harmed: dict[str, int] = {}
        finished = False
        while not finished:
            before = batches(home)
            moment = draw.uniform(0.0, 0.25) if found["kills"] < kills else None
            killed = wait(start(home, plan), moment)
            finished = (home / "activations" / "k" / MANIFEST).exists()
            found["kills"] += killed
            earlier, now = Counter(before), Counter(batches(home)[len(before) :])
            again = [first for first in now if earlier[first] and f"unit-{unit_of[first]:06d}" not in harmed]
            complete = Counter(unit_of[first] for first in earlier)
            redone = {unit_of[first] for first in again if complete[unit_of[first]] == size}
            most_units, most_batches = max(most_units, len(redone)), max(most_batches, len(again))
            if not finished and draw.random() < 0.3:
                unit = harm(home / "activations" / "k.partial", draw)
                if unit is not None and unit not in harmed:
                    harmed[unit] = len(batches(home))
        for unit, place in harmed.items():
            remade = {unit_of[first] for first in batches(home)[place:]}
            found["harmed"] += 1
            found["undetected"] += int(unit.removeprefix("unit-")) not in remade
        digest = json.loads((home / "activations" / "k" / MANIFEST).read_bytes())["digest"]
        found["different"] += digest != wanted
        shutil.rmtree(home)
    return {
        **found,
        "most_units_redone": most_units,
        "most_batches_redone": most_batches,
        "batches_of_a_unit": size,
        "seed": seed,
    }


if __name__ == "__main__":
    script.tiny_backbone()
    seed = random.randrange(2**31)
    print(json.dumps(drill(Path(sys.argv[1]), int(sys.argv[2]), seed)))

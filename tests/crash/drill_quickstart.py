"""kill -9 the real quickstart in dump, geometry, sweep and final training; compare with an undisturbed run.

    python tests/crash/drill_quickstart.py --home /tmp/drilled --reference runs

`--reference` is the home of an undisturbed study by the same code (`make study`); `--home` must be new.
Prints one line per kill and one per stage; exits 1 if a digest differs. Takes as long as a study and a few
restarts. The report is left out: it tells the time.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

STAGES = ("activations", "geometry", "sweep", "replace")
SAVED = {"activations": 3, "geometry": 20, "sweep": 2, "replace": 1}
"""Commit records and checkpoints to wait for before the kill: the middle of a stage, not its first moment."""
PATIENCE_SECONDS = 1800


def digests(home: Path) -> dict[str, str]:
    """Return `{stage/unit: digest}` of all finished stores but the report."""
    manifests = (json.loads(path.read_bytes()) for path in home.glob("*/*/manifest.json"))
    return {f"{m['stage']}/{m['unit']}": m["digest"] for m in manifests if m["stage"] != "report"}


def saved(home: Path, stage: str) -> int:
    """Return how many commit records, checkpoints and finished units `stage` has left on disk."""
    patterns = ("*.partial/commits/*.json", "*.partial/checkpoint*", "*/manifest.json")
    return sum(1 for pattern in patterns for _ in (home / stage).glob(pattern))


def start(home: Path, profile: str) -> subprocess.Popen[bytes]:
    """Start the study in a process group of its own."""
    log = open(home.with_suffix(".log"), "ab")  # noqa: SIM115
    command = [sys.executable, "-m", "flows.cli", "study", "--profile", profile, "--home", str(home)]
    return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def kill_in(stage: str, home: Path, profile: str) -> str:
    """Run until `stage` has saved work, kill -9, and say what was saved."""
    began = time.monotonic()
    process = start(home, profile)
    try:
        while saved(home, stage) < SAVED[stage]:
            if process.poll() is not None or time.monotonic() - began > PATIENCE_SECONDS:
                raise SystemExit(f"the study ended or stood still before {stage} had saved any work; see its log")
            time.sleep(0.02)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return f"{stage}: killed after {time.monotonic() - began:.0f} s with {saved(home, stage)} pieces of work on disk"


def main() -> int:
    """Run the drill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True, help="new folder of the drilled study")
    parser.add_argument("--reference", type=Path, required=True, help="home of an undisturbed study")
    parser.add_argument("--profile", default="quickstart")
    arguments = parser.parse_args()
    home = arguments.home.resolve()
    if home.exists():
        parser.error(f"{home} exists; give a new folder")
    home.parent.mkdir(parents=True, exist_ok=True)
    for stage in STAGES:
        print(kill_in(stage, home, arguments.profile), flush=True)
    if start(home, arguments.profile).wait() != 0:
        raise SystemExit(f"the study failed after the kills; see {home.with_suffix('.log')}")
    drilled, undisturbed = digests(home), digests(arguments.reference.resolve())
    wrong = sorted(name for name in drilled.keys() | undisturbed.keys() if drilled.get(name) != undisturbed.get(name))
    print(f"{len(drilled)} stores compared, {len(wrong)} differ" + (f": {', '.join(wrong)}" if wrong else ""))
    return 1 if wrong or not drilled else 0


if __name__ == "__main__":
    sys.exit(main())

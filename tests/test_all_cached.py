import json
import subprocess
import sys
from pathlib import Path

import pytest

from dihal_core.planning import plan_study
from dihal_core.profiles import load_study
from dihal_core.study import pin_settings

SCRIPT = Path(__file__).with_name("all_cached.py")


def judged(rows) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT], input=json.dumps(rows), capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("status", ["will run", "3 of 30 will run", "will resume", "damaged"])
def test_a_plan_with_anything_but_cached_stages_is_told(status):
    done = judged([{"stage": "corpus", "status": "cached"}, {"stage": "sweep", "status": status}])
    assert done.returncode == 1
    assert done.stderr == f"not everything is cached: sweep: {status}\n"


def test_a_plan_of_cached_stages_passes_and_one_without_stages_does_not():
    assert judged([{"stage": "corpus", "status": "cached"}]).returncode == 0
    assert judged([]).stderr == "not everything is cached: the plan names no stage\n"


def test_the_plan_of_a_study_that_never_ran_is_told(tmp_path):
    rows = plan_study(pin_settings(load_study("smoke"), ask_hub=False), tmp_path)
    done = judged(rows)
    assert done.returncode == 1
    assert "corpus: will run" in done.stderr

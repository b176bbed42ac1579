"""Helpers that other people's processes run: in while a dump is made, out before its store is finished."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from dihal_core.activations import gate as gate_module
from dihal_core.activations.gate import DumpGate
from dihal_core.activations.helping import join_dump
from dihal_core.errors import ResourceError
from dihal_core.profiles import load_study
from dihal_core.requests import make_request
from dihal_core.runner import ensure

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
HELP = """
    import json, sys
    from dihal_core.activations.helping import join_dump
    from dihal_core.requests import StageRequest
    print(join_dump(StageRequest.from_json(json.load(open(sys.argv[1])))))
"""


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    home = tmp_path_factory.mktemp("dump")
    return home, ensure(make_request("corpus", load_study("smoke"), {"assets": {}}, home))


def request_in(home, corpus, **overrides):
    settings = load_study("smoke", overrides=overrides)
    return make_request("activations", settings, {"assets": {}, "corpus": corpus}, home)


def test_a_gate_is_open_while_its_block_runs_and_one_process_enters_once(tmp_path):
    gate = DumpGate(tmp_path, "k")
    assert not gate.is_open()
    with gate.open():
        assert gate.is_open()
        with DumpGate(tmp_path, "k").enter() as may_help:
            assert not may_help  # unit leases do not exclude threads of one process
    assert not gate.is_open()
    with gate.enter() as may_help:
        assert not may_help


def test_a_dump_waits_for_its_helpers_and_names_one_that_does_not_leave(tmp_path, monkeypatch):
    code = """
        import sys, time
        from pathlib import Path
        from dihal_core.activations.gate import DumpGate
        with DumpGate(Path(sys.argv[1]), "k").enter() as may_help:
            print(may_help, flush=True)
            time.sleep(float(sys.argv[2]))
    """
    started = time.monotonic()
    with DumpGate(tmp_path, "k").open():
        helper = python(code, str(tmp_path), "1.0")
        assert helper.stdout is not None
        assert helper.stdout.readline() == "True\n"
        started = time.monotonic()
    assert time.monotonic() - started > 0.5
    assert helper.wait(30) == 0

    monkeypatch.setattr(gate_module, "STOP_SECONDS", 0.3)
    with contextlib.ExitStack() as stack:
        stack.enter_context(DumpGate(tmp_path, "k").open())
        stuck = python(code, str(tmp_path), "60")
        assert stuck.stdout is not None
        assert stuck.stdout.readline() == "True\n"
        with pytest.raises(ResourceError, match="did not leave within 0 s"):
            stack.close()
    stuck.send_signal(signal.SIGKILL)
    stuck.wait(30)
    with DumpGate(tmp_path, "k").open():  # locks of the dead are gone
        assert DumpGate(tmp_path, "k").is_open()


def test_a_dump_that_another_process_helped_with_has_the_bytes_of_one_made_alone(corpus, tmp_path):
    home, record = corpus
    alone = ensure(request_in(home, record))
    request = request_in(tmp_path, record, **{"compute.runner": "dask", "compute.dump_workers": 2})
    path = tmp_path / "request.json"
    path.write_text(json.dumps(request.to_json()))
    helper = python(HELP, str(path))
    waited = time.monotonic()

    def made_by_others() -> bool:
        records = tmp_path.glob(f"activations/{request.key}.partial/commits/unit*.json")
        return any(json.loads(path.read_bytes())["process"] != os.getpid() for path in records)

    def patiently(_done: float, _total: float, _unit: str) -> None:
        while helper.poll() is None and not made_by_others() and time.monotonic() - waited < 120:
            time.sleep(0.1)

    shared = ensure(request, patiently)
    assert float(helper.communicate(timeout=60)[0]) > 0
    assert helper.returncode == 0
    assert shared.digest == alone.digest
    makers = {json.loads(path.read_bytes()).get("process") for path in (shared.path / "commits").glob("unit*.json")}
    assert helper.pid in makers  # a quick helper may have made them all
    assert makers <= {os.getpid(), helper.pid}


def test_a_helper_of_a_finished_dump_or_of_one_that_never_begins_leaves(corpus, tmp_path, caplog):
    home, record = corpus
    request = request_in(home, record)
    ensure(request)
    assert join_dump(request) == 0.0
    assert join_dump(request_in(tmp_path, record), patience_s=0.3) == 0.0
    assert "did not begin within 0 s" in caplog.text

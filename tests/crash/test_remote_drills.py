"""kill -9, a second maker and a lost network, with DIHAL_HOME on an S3-compatible server. Each run is a machine."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.sorting import FlowRunSort

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

HOME = "s3://dihal/runs"
LONGER = ["replace.training.epochs=8", "replace.training.max_steps=60", "compute.remote_sync_seconds=1"]
TOLD_WITHIN_SECONDS = 150
"""Two minutes, and what a loaded machine takes to end its processes."""
PUBLISH = """
import sys
from dihal_core.remote.link import share
from dihal_core.inspection import inspect_folder
from dihal_core.store import StageStore, resolve_home
home = resolve_home("s3://dihal/runs")
status = inspect_folder(home, "corpus", "k")
if status.record is None:
    store = StageStore(home, "corpus", "k")
    for index in range(400):
        store.write_bytes(f"part/{index:03d}.bin", index.to_bytes(4, "little") * 2000)
    record = store.finalize({}, {"request": {}}, None)
else:
    record = status.record
print(share(home, record).digest)
"""


class Server:
    """An S3-compatible server that can go away and come back with what it held."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.start()

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "AKIATESTDIHAL",
            "AWS_SECRET_ACCESS_KEY": "not-to-be-seen-anywhere",  # pragma: allowlist secret
            "AWS_DEFAULT_REGION": "us-east-1",
        }


class SilentServer(Server):
    """The same as a process that can be halted: it then takes connections and data, and never answers."""

    def start(self) -> None:
        words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self._process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def fall_silent(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def speak(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Server]:
    made = getattr(request, "param", Server)()
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    filesystem = fsspec.filesystem("s3")
    if filesystem.exists("dihal"):  # what an earlier server of this process held
        filesystem.rm("dihal", recursive=True)
    filesystem.mkdir("dihal")
    yield made
    made.stop()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def machine(tmp_path: Path, server: Server, prefect_server: str) -> Callable[..., subprocess.Popen[str]]:
    """Start a command on a machine: a cache folder of its own."""

    def start(name: str, *words: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *words],
            env={
                **os.environ,
                "PREFECT_API_URL": prefect_server,
                "DIHAL_CACHE": str(tmp_path / name),
                "DIHAL_HOME": HOME,
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return start


def study(*home: str) -> list[str]:
    return ["-m", "flows.cli", "study", "--profile", "smoke", *home, "--set", *LONGER]


def output(process: subprocess.Popen[str], code: int = 0) -> str:
    said = process.communicate(timeout=420)[0]
    assert process.returncode == code, said[-3000:]
    return said


def objects(ending: str = "") -> list[str]:
    filesystem = fsspec.filesystem("s3", use_listings_cache=False)
    filesystem.invalidate_cache()
    return [path for path in filesystem.find(HOME) if path.endswith(ending)]


def kill_when(process: subprocess.Popen[str], moment: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 300
    while not moment():
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def digests(manifests: list[dict[str, Any]]) -> dict[str, str]:
    return {f"{m['stage']}/{m['unit']}": m["digest"] for m in manifests if m["stage"] != "report"}


def published() -> dict[str, str]:
    filesystem = fsspec.filesystem("s3", use_listings_cache=False)
    filesystem.invalidate_cache()
    return digests([json.loads(filesystem.cat_file(path)) for path in filesystem.glob(f"{HOME}/*/*/manifest.json")])


def test_a_kill_between_data_and_manifest_leaves_no_store_and_the_next_run_finishes_it(machine):
    first = machine("first", "-c", PUBLISH)
    kill_when(first, lambda: len(objects(".bin")) > 100)
    assert not objects("k/manifest.json")
    arrived = len(objects(".bin"))
    assert arrived < 400
    look = "from dihal_core.inspection import inspect_store; from dihal_core.store import resolve_home; print(inspect_store(resolve_home(), 'corpus', 'k').state)"
    assert output(machine("second", "-c", look)).strip() == "absent"
    assert output(machine("first", "-c", look)).strip() == "unpublished"
    digest = output(machine("first", "-c", PUBLISH)).strip()
    assert output(machine("second", "-c", look)).strip() == "intact"
    assert len(objects(".bin")) == 400  # what had arrived was not sent under another name
    fetch = (
        "from dihal_core.inspection import inspect_folder, inspect_store; from dihal_core.store import resolve_home; r = inspect_store(resolve_home(), 'corpus', 'k').record;"
        "print(inspect_folder(r.path.parent.parent, 'corpus', 'k').record.digest)"
    )
    assert output(machine("second", "-c", fetch)).strip() == digest


def test_two_machines_that_publish_one_key_at_once_leave_one_whole_store(machine):
    both = [machine(name, "-c", PUBLISH) for name in ("first", "second")]
    said = {output(process).strip() for process in both}
    assert len(said) == 1
    fetch = "from dihal_core.inspection import inspect_store; from dihal_core.store import resolve_home; print(inspect_store(resolve_home(), 'corpus', 'k').record.path)"
    output(machine("third", "-c", fetch))
    assert len(objects("corpus/k/manifest.json")) == 1
    assert len(objects(".bin")) == 400  # the other attempt was removed


def test_another_machine_goes_on_where_one_was_killed_and_the_numbers_are_the_same(machine, tmp_path):
    output(machine("local", *study("--home", str(tmp_path / "local"))))
    found = (tmp_path / "local").glob("*/*/manifest.json")
    undisturbed = digests([json.loads(path.read_bytes()) for path in found])

    first = machine("first", *study())
    kill_when(first, lambda: any("/replace/" in path for path in objects(".partial/index.json")))
    assert "replace/None" not in published()
    before = published()
    said = output(machine("second", *study()))
    assert "goes on from a snapshot" in said
    assert published() == undisturbed
    assert before.items() <= undisturbed.items()
    assert not objects(".partial/index.json")


def test_a_lost_network_fails_in_a_sentence_keeps_the_work_and_the_same_command_ends_it(machine, server):
    first = machine("first", *study(), AWS_MAX_ATTEMPTS="1")
    deadline = time.monotonic() + 300
    while not any("/geometry/" in path for path in objects("manifest.json")):
        assert first.poll() is None, first.communicate()[0][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    made = published()
    server.stop()
    gone = time.monotonic()
    said = first.communicate(timeout=600)[0]
    assert first.returncode == 2, said[-3000:]
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)
    assert run.state.name == "Failed"
    assert "NetworkError" in run.state.message
    print(f"told after {time.monotonic() - gone:.0f} s: {run.state.name}: {run.state.message}")
    assert "NetworkError" in said
    assert "kept on this machine" in said
    assert "Traceback" not in said.splitlines()[-1]
    server.start()
    again = output(machine("first", *study()))
    assert "report:" in again
    assert made.items() <= published().items()


@pytest.mark.parametrize("server", [SilentServer], indirect=True)
@pytest.mark.parametrize(
    ("stage", "sign"), [("geometry", "manifest.json"), ("replace", ".partial/index.json")], ids=["flow", "task"]
)
def test_a_store_that_accepts_and_never_answers_fails_the_run_in_a_sentence_within_two_minutes(
    machine, server, stage, sign
):
    first = machine("first", *study())
    deadline = time.monotonic() + 300
    while not any(f"/{stage}/" in path for path in objects(sign)):
        assert first.poll() is None, first.communicate()[0][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    made = published()
    server.fall_silent()
    silent = time.monotonic()
    said = first.communicate(timeout=400)[0]
    seconds = time.monotonic() - silent
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)
    print(f"told after {seconds:.0f} s: {run.state.name}: {run.state.message}")
    assert first.returncode == 2, said[-3000:]
    assert run.state.name == "Failed"
    assert "NetworkError" in run.state.message
    assert "kept on this machine" in said
    assert "Traceback" not in said.splitlines()[-1]
    assert seconds < TOLD_WITHIN_SECONDS
    server.speak()
    again = output(machine("first", *study()))
    assert "report:" in again
    assert made.items() <= published().items()

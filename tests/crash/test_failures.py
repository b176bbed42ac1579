"""What an operator meets: killed processes, a cancelled run, a lost server, a full disk, a layer that fails.

Every drill asks three things: does the state of the run tell the truth within two minutes, is every
finished store intact, and does a retry or the next run end in the digests of an undisturbed run.
`DIHAL_OUTCOMES=FILE` writes down what was seen, as the table of OUTCOMES.md.
"""

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelling

from flows import server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("drill_site", Path(__file__).with_name("drill_site.py"))
drills = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(drills)

CANARIES = {
    "HF_TOKEN": "hf_canaryCanaryCanary0123456789",
    "AWS_SECRET_ACCESS_KEY": "canary/Secret/0123456789abcdef",  # pragma: allowlist secret
    "DIHAL_TEST_PASSWORD": "canary-password-0123456789",  # pragma: allowlist secret
}
OUTCOMES: list[str] = []


def note(event: str, state, seconds: float | None, tasks: str, afterwards: str) -> None:
    """One row of the table; `seconds` is None for a run that goes on to its own end."""
    told = f"{state.name}: {state.message}" if state.message else state.name
    moment = "at its end" if seconds is None else f"{seconds:.0f} s"
    OUTCOMES.append(f"| {event} | {told} | {moment} | {tasks} | {afterwards} |")


@pytest.fixture(scope="module")
def told_people(receiving):
    with receiving() as made:
        yield made


@pytest.fixture(scope="module")
def site(tmp_path_factory, told_people):
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "deployments", folder / "project" / "deployments")
    port = server.free_port(int(os.environ.get("DIHAL_TEST_PORT", "4750")))
    made = drills.Site(folder / "project", folder / "runs", port, {**CANARIES, "PYTHONPATH": str(ROOT)})
    try:
        made.up()
        made.notify(told_people.url)
        made.up()  # the automation tells too from now on
        yield made
    finally:
        made.dihal("down")
        if os.environ.get("DIHAL_OUTCOMES"):
            Path(os.environ["DIHAL_OUTCOMES"]).write_text("\n".join(OUTCOMES) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def undisturbed(site, tmp_path_factory):
    home = tmp_path_factory.mktemp("undisturbed") / "runs"
    state = site.finished(site.start(home))
    assert state.name == "Completed", state.message
    return home


def lost_tasks(site, run) -> list[str]:
    """Task runs that claim to be running although their process is gone; events arrive a moment late."""
    deadline = time.monotonic() + 20
    while True:
        lost = [name for name, state in site.task_states(run).items() if state in ("Running", "Pending")]
        if not lost or time.monotonic() > deadline:
            return lost
        time.sleep(0.5)


def were_told(told_people, run) -> str:
    """What people were told of a run that ended badly, once: by its process, by its worker, or by the server."""

    def found() -> list[dict]:
        return [message for message in told_people.messages if str(run) in message["body"]]

    drills.until(found, 20, f"word of {run}")
    time.sleep(3)  # a second one, from somebody else
    (message,) = found()
    assert f"prefect flow-run retry {run}" in message["body"]
    return message["subject"]


def fill(path: Path) -> None:
    """Write until nothing more fits."""
    handle = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        for block in (2**16, 2**12, 1):
            with contextlib.suppress(OSError):
                while True:
                    os.write(handle, b"\0" * block)
    finally:
        os.close(handle)


def check_stores(home: Path, undisturbed: Path) -> None:
    """Nothing is torn, and whatever is finished is what an undisturbed run makes."""
    assert drills.torn_stores(home) == []
    wanted = drills.digests(undisturbed)
    found = drills.digests(home)
    assert {name: wanted[name] for name in found} == found


def test_kill_9_of_the_flow_process(site, undisturbed, told_people, tmp_path):
    home = tmp_path / "runs"
    run = site.start(home)
    drills.wait_for_work(home, "replace")
    state, seconds = site.told(run, drills.stop(site.flow_process(home), signal.SIGKILL))
    assert state.type == StateType.CRASHED
    check_stores(home, undisturbed)
    assert lost_tasks(site, run) == []
    assert "Crashed" in were_told(told_people, run)
    tasks = site.task_counts(run)
    assert "Crashed" in tasks
    again = site.retry(run)
    assert again.name == "Completed", again.message
    assert drills.digests(home) == drills.digests(undisturbed)
    note("kill -9 of the flow process", state, seconds, tasks, "retry: Completed, same digests")


def test_kill_9_of_the_worker_leaves_the_study_running_to_its_end(site, undisturbed, tmp_path):
    home = tmp_path / "runs"
    run = site.start(home)
    drills.wait_for_work(home, "replace")
    process = site.flow_process(home)
    site.kill("worker")
    psutil.wait_procs([process], timeout=drills.PATIENCE_SECONDS)
    assert not process.is_running()
    state, _ = site.told(run, time.monotonic())
    check_stores(home, undisturbed)
    assert state.name == "Completed", state.message
    assert drills.digests(home) == drills.digests(undisturbed)
    site.up()
    note("kill -9 of the worker", state, None, site.task_counts(run), "nothing to do: it ran to its end")


def test_kill_9_of_flow_process_and_worker(site, undisturbed, told_people, tmp_path):
    home = tmp_path / "runs"
    run = site.start(home)
    foreign = site.foreign_run()
    drills.wait_for_work(home, "replace")
    process = site.flow_process(home)
    site.kill("worker")
    state, seconds = site.told(run, drills.stop(process, signal.SIGKILL))
    assert state.type == StateType.CRASHED
    assert "heartbeat" in state.message
    assert "is called Crashed" in were_told(told_people, run)
    check_stores(home, undisturbed)
    site.up()
    again = site.retry(run)
    assert again.name == "Completed", again.message
    assert lost_tasks(site, run) == []
    tasks = site.task_counts(run)
    assert "Crashed" in tasks
    assert drills.digests(home) == drills.digests(undisturbed)
    assert site.state(foreign).name == "Running"  # silent for longer than ours was, but not ours to judge
    note("kill -9 of both", state, seconds, f"after the retry: {tasks}", "retry: Completed, same digests")


def test_sigterm_stops_the_training_at_its_next_step(site, undisturbed, told_people, tmp_path):
    home = tmp_path / "runs"
    run = site.start(home)
    drills.wait_for_work(home, "replace")
    process = site.flow_process(home)
    sent = drills.stop(process, signal.SIGTERM)
    psutil.wait_procs([process], timeout=60)
    ended = time.monotonic() - sent
    state, seconds = site.told(run, sent)
    assert state.type == StateType.CRASHED
    assert drills.saved_work(home, "replace"), "the checkpoint is gone, or the training ran to its end"
    assert ended < 30
    check_stores(home, undisturbed)
    assert lost_tasks(site, run) == []
    assert "Crashed" in were_told(told_people, run)
    assert site.task_states(run)["replace"] == "Crashed"
    tasks = site.task_counts(run)
    again = site.retry(run)
    assert again.name == "Completed", again.message
    assert drills.digests(home) == drills.digests(undisturbed)
    note(f"SIGTERM to the flow process (gone after {ended:.0f} s)", state, seconds, tasks, "retry: same digests")


def test_ctrl_c_in_the_terminal_stops_the_training_at_its_next_step(site, undisturbed, tmp_path):
    home = tmp_path / "runs"
    settings = [f"{name}={value}" for name, value in drills.SLOWED.items()]
    command = [
        sys.executable,
        "-m",
        "flows.cli",
        "study",
        "--profile",
        "smoke",
        "--home",
        str(home),
        "--set",
        *settings,
    ]
    environment = {**site.environment, "PREFECT_API_URL": site.url}
    process = subprocess.Popen(
        command,
        cwd=site.project,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a runner in the background may ignore it
    )
    drills.wait_for_work(home, "replace")
    sent = drills.stop(psutil.Process(process.pid), signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    ended = time.monotonic() - sent
    assert process.returncode == 130, said[-2000:]
    assert "the same command goes on where it stopped" in said
    assert "Traceback" not in said
    assert drills.saved_work(home, "replace")
    assert ended < 30
    check_stores(home, undisturbed)
    done = subprocess.run(command, cwd=site.project, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert drills.digests(home) == drills.digests(undisturbed)
    with site.client() as client:
        # by name: an earlier drill leaves a run of somebody else's on the server
        ours = [run for run in client.read_flow_runs() if run.deployment_id is None and run.name.startswith("smoke")]
    first = min(ours, key=lambda run: run.created)
    assert first.state.type == StateType.CRASHED
    tasks = site.task_counts(first.id)
    note(f"Ctrl-C (gone after {ended:.0f} s)", first.state, ended, tasks, "same command again: same digests")


def test_cancel_from_the_ui(site, undisturbed, told_people, tmp_path):
    home = tmp_path / "runs"
    run = site.start(home)
    drills.wait_for_work(home, "replace")
    process = site.flow_process(home)
    asked = time.monotonic()
    with site.client() as client:  # what the button of the UI sends
        client.set_flow_run_state(run, Cancelling())
    state, seconds = site.told(run, asked)
    assert state.type == StateType.CANCELLED
    psutil.wait_procs([process], timeout=60)
    assert not process.is_running()
    assert drills.saved_work(home, "replace")
    check_stores(home, undisturbed)
    assert lost_tasks(site, run) == []
    assert "Cancel" in were_told(told_people, run)
    tasks = site.task_counts(run)
    again = site.finished(site.start(home))
    assert again.name == "Completed", again.message
    assert drills.digests(home) == drills.digests(undisturbed)
    note("cancelled from the UI", state, seconds, tasks, "next run: Completed, same digests")


@pytest.mark.parametrize("seconds_away", [5, 100])
def test_the_server_restarts_in_mid_run(site, undisturbed, tmp_path, seconds_away):
    home = tmp_path / "runs"
    run = site.start(home)
    drills.wait_for_work(home, "replace")
    process = site.flow_process(home)
    site.kill("server")
    time.sleep(seconds_away)  # 100: longer than the automation grants a run between two heartbeats
    site.up()
    psutil.wait_procs([process], timeout=drills.PATIENCE_SECONDS)
    state, _ = site.told(run, time.monotonic())
    check_stores(home, undisturbed)
    assert state.name == "Completed", state.message
    assert drills.digests(home) == drills.digests(undisturbed)
    outcome = "nothing to do: it ran to its end"
    note(f"kill -9 of the server, up again after {seconds_away} s", state, None, site.task_counts(run), outcome)


def test_a_full_disk(site, undisturbed, told_people, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("this machine permits no mount; tests/crash/test_dump_drills.py fills a disk without one")
    home = disk / "runs"
    try:
        run = site.start(home)
        drills.wait_for_work(home, "activations")
        filler = disk / "filler"
        fill(filler)
        full = time.monotonic()
        state, seconds = site.told(run, full)
        assert state.type == StateType.FAILED
        assert "disk" in state.message
        assert "is full" in state.message
        assert "Failed" in were_told(told_people, run)
        check_stores(home, undisturbed)
        tasks = site.task_counts(run)
        filler.unlink()
        again = site.retry(run)
        assert again.name == "Completed", again.message
        assert drills.digests(home) == drills.digests(undisturbed)
        note("disk full in the dump", state, seconds, tasks, "room made, retry: Completed, same digests")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_one_layer_fails_for_good(site, undisturbed, told_people, tmp_path):
    home = tmp_path / "runs"
    (store,) = (undisturbed / "sweep").glob("L02-*")
    obstacle = home / "sweep" / f"{store.name}.partial"
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("a file where the folder of layer 2 should be")
    run = site.start(home)
    state = site.finished(run)
    assert state.name == "Partial"
    assert "L02" in state.message
    assert "Partial" in were_told(told_people, run)
    assert site.task_states(run)["sweep-L02"] == "Failed"
    missing = set(drills.digests(undisturbed)) - set(drills.digests(home))
    assert "sweep/2" in missing
    assert drills.torn_stores(home) == []
    tasks = site.task_counts(run)
    obstacle.unlink()
    again = site.finished(site.start(home))
    assert again.name == "Completed", again.message
    assert drills.lacking(home, drills.digests(undisturbed)) == []  # beside them: the agreement without layer 2
    note(
        "layer 2 of the sweep fails for good",
        state,
        None,
        tasks,
        "cause removed, next run: same digests",
    )


def test_no_secret_of_the_environment_is_written_anywhere(site, undisturbed):
    for folder in (site.home, site.project, undisturbed):
        for path in folder.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                for name, value in CANARIES.items():
                    assert value.encode() not in content, f"{name} is in {path}"

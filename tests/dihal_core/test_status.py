import fcntl
import json
import subprocess
import sys

import pytest

from dihal_core.journal import RunJournal
from dihal_core.status import format_status, home_status, untrue_runs
from dihal_core.store import StageStore, store_lock
from flows.cli import main

SETTINGS = {
    "profile": "smoke",
    "seed": 0,
    "backbone": {"name": "tiny", "revision": None},
    "compute": {"device": "cpu"},
}


def begin(home, run_id="run-1") -> RunJournal:
    stages = ("corpus", "geometry", "agreement")  # the order of the flow, not of the alphabet
    journal = RunJournal(home / "studies" / "s", "full-study", stages, SETTINGS, {"id": run_id, "name": "smoke"})
    journal.expect("corpus", 1)
    journal.note("corpus", "corpus", "corpus", "k0")
    StageStore(home, "corpus", "k0").finalize({}, {}, None)
    journal.expect("geometry", 3)
    for layer in range(3):
        journal.note("geometry", f"geometry-L0{layer}", "geometry", f"L0{layer}")
    StageStore(home, "geometry", "L00").finalize({}, {}, 0)
    store = StageStore(home, "geometry", "L01")
    store.commit("large-000", {})
    store.commit("large-001", {})
    return journal


def rows(home) -> dict:
    return {row["stage"]: row for row in home_status(home)["studies"][0]["stages"]}


def die(home, journal) -> None:
    """Let the journal name a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    data = json.loads(journal.path.read_bytes())
    data["process"]["pid"] = process.pid
    journal.path.write_text(json.dumps(data))


def test_done_partial_and_absent_stages_are_told_from_the_stores_alone(tmp_path):
    begin(tmp_path)
    found = rows(tmp_path)
    assert [(name, row["state"]) for name, row in found.items()] == [
        ("corpus", "done"),
        ("geometry", "partial"),
        ("agreement", "absent"),
    ]
    assert (found["geometry"]["done"], found["geometry"]["units"], found["geometry"]["committed"]) == (1, 3, 2)


def test_a_store_whose_lock_a_living_process_holds_is_running(tmp_path):
    begin(tmp_path)
    code = (
        "import sys, pathlib, time\nfrom dihal_core.store import store_lock\n"
        "with store_lock(pathlib.Path(sys.argv[1]), 'geometry', 'L01'):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        assert rows(tmp_path)["geometry"]["state"] == "running"
        assert rows(tmp_path)["geometry"]["running_units"] == ["geometry-L01"]
    finally:
        process.kill()
        process.wait()
    assert rows(tmp_path)["geometry"]["state"] == "partial"  # kill -9 frees the lock at once


def test_looking_keeps_nobody_from_working(tmp_path):
    begin(tmp_path)
    rows(tmp_path)
    with store_lock(tmp_path, "geometry", "L01"), open(tmp_path / "geometry" / ".L01.lock") as handle:
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert rows(tmp_path)["geometry"]["state"] == "running"


def test_a_run_whose_process_is_gone_is_stopped_and_what_prefect_says_of_it_is_untrue(tmp_path):
    journal = begin(tmp_path)
    prefect = [
        {"id": "run-1", "name": "smoke", "state": "Running"},
        {"id": "elsewhere", "name": "x", "state": "Running"},
    ]
    assert home_status(tmp_path)["studies"][0]["state"] == "running"
    assert untrue_runs(tmp_path, prefect) == []
    die(tmp_path, journal)
    status = home_status(tmp_path)
    assert status["studies"][0]["state"] == "stopped"
    assert [run["id"] for run in untrue_runs(tmp_path, prefect)] == ["run-1"]
    text = format_status({**status, "untrue": untrue_runs(tmp_path, prefect)})
    assert "Prefect says Running but nothing runs: flow run smoke (run-1)" in text
    assert "[stopped]" in text


def test_a_killed_run_is_remembered_after_the_next_one_began(tmp_path):
    die(tmp_path, begin(tmp_path))
    RunJournal(tmp_path / "studies" / "s", "full-study", ("corpus",), SETTINGS, {"id": "run-2", "name": "smoke"})
    prefect = [{"id": name, "name": name, "state": "Running"} for name in ("run-1", "run-2")]
    assert [run["id"] for run in untrue_runs(tmp_path, prefect)] == ["run-1"]


def test_the_end_of_a_run_is_told_with_its_reason(tmp_path):
    begin(tmp_path).close("failed", "geometry-L02: no variance")
    study = home_status(tmp_path)["studies"][0]
    assert (study["state"], study["message"]) == ("failed", "geometry-L02: no variance")


def test_the_command_needs_no_server_and_always_exits_0(tmp_path, capsys):
    assert main(["status", "--home", str(tmp_path / "nothing"), "--no-server"]) == 0
    assert "no study was run here yet" in capsys.readouterr().out
    begin(tmp_path)
    (tmp_path / "studies" / "s" / "runs" / "broken.json").write_text("{")
    (tmp_path / "studies" / "s" / "runs" / "older.json").write_text(
        '{"stages": {}, "process": {}, "settings": {}, "started": "x"}'
    )
    StageStore(tmp_path, "sweep", "L01-left")
    assert main(["status", "--home", str(tmp_path), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert [item["study"] for item in status["studies"]] == ["s"]
    assert [item["store"] for item in status["other"]] == ["sweep/L01-left"]
    assert main(["status", "--home", str(tmp_path)]) == 0
    assert "geometry                 partial  1/3" in capsys.readouterr().out

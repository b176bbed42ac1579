"""What `dihal status`, `compare` and the watch know of a remote home: what all machines did, not this one's share."""

import json
import socket

import pytest

from dihal_core import journal as journals
from dihal_core.comparing import compare_studies
from dihal_core.errors import ConfigError
from dihal_core.files import write_atomically
from dihal_core.journal import RunJournal
from dihal_core.profiles import load_study
from dihal_core.remote.home import remote_home
from dihal_core.remote.link import pull_studies, pull_study, push_study, resumable, share
from dihal_core.status import home_status
from dihal_core.store import StageStore, resolve_home
from dihal_core.study import publish_study, study_name
from dihal_core.watching import memory_name, remember, remembered, watched

SETTINGS = {
    "profile": "smoke",
    "seed": 0,
    "backbone": {"name": "tiny", "revision": None},
    "compute": {"device": "cpu"},
}


def begin(home, start: str = "2030-01-01T00:00:00+00:00") -> RunJournal:
    run = RunJournal(home / "studies" / "s", "full-study", ("corpus", "geometry"), SETTINGS, {"id": "r", "name": "n"})
    run.content["started"] = start
    run.note("corpus", "corpus", "corpus", "k0")
    run.expect("corpus", 1)
    return run


def finished_store(home, stage: str, key: str):
    store = StageStore(home, stage, key)
    store.write_bytes("data.bin", b"x")
    return share(home, store.finalize({}, {"request": {}}, None))


def interrupted_store(home, stage: str, key: str) -> None:
    with resumable(home, stage, key, 100.0):
        store = StageStore(home, stage, key)
        store.write_bytes("a.bin", b"a")
        store.commit("unit-1", {})
        raise KeyboardInterrupt


def told(address: str) -> dict:
    (study,) = home_status(resolve_home(address))["studies"]
    return study


def test_another_machine_sees_how_a_run_goes_and_how_it_ended(address, machine):
    home = resolve_home(address)
    run = begin(home)
    machine("second")
    assert [row["state"] for row in told(address)["stages"]] == ["absent", "absent"]
    machine("first")
    finished_store(home, "corpus", "k0")
    run.expect("geometry", 1)
    machine("second")
    assert [row["state"] for row in told(address)["stages"]] == ["done", "absent"]
    assert told(address)["state"] == "running"
    machine("first")
    run.close("failed", "geometry: no room")
    machine("second")
    assert (told(address)["state"], told(address)["message"]) == ("failed", "geometry: no room")


def test_bringing_a_study_undoes_nothing_of_what_its_journal_says(address, machine):
    home = resolve_home(address)
    run = begin(home)
    write_atomically(home / "studies/s/study.json", b"{}")
    push_study(home, "s")
    run.close("finished")
    pull_studies(home)
    assert told(address)["state"] == "finished"
    machine("second")
    pull_study(resolve_home(address), "s")
    assert told(address)["state"] == "finished"


def test_a_journal_that_could_not_be_shared_is_not_replaced_by_what_was(address, machine, monkeypatch, caplog):
    home = resolve_home(address)
    run = begin(home)
    with monkeypatch.context() as patch:
        patch.setattr(type(remote_home(address).objects), "_put", lambda *_: (_ for _ in ()).throw(OSError("away")))
        run.close("finished")
    assert "other machines see an earlier state of this run" in caplog.text
    assert told(address)["state"] == "finished"
    machine("second")
    assert told(address)["state"] == "running"
    begin(resolve_home(address), "2030-01-02T00:00:00+00:00").close("partial", "missing L02")
    machine("first")
    assert told(address)["state"] == "partial"  # the later run, whichever machine made it


def test_units_are_shared_now_and_then_and_stages_at_once(address, machine, monkeypatch):
    home = resolve_home(address)
    run = begin(home)
    name = "studies/s/runs/full-study.json"
    for layer in range(3):
        run.note("geometry", f"geometry-L0{layer}", "geometry", f"L0{layer}")
    assert json.loads(remote_home(address).objects.read(name))["stages"]["geometry"]["keys"] == {}
    monkeypatch.setattr(journals, "SHARED_EVERY_S", 0.0)
    run.note("geometry", "geometry-L03", "geometry", "L03")
    assert len(json.loads(remote_home(address).objects.read(name))["stages"]["geometry"]["keys"]) == 4


def test_work_that_another_machine_left_unfinished_is_partial(address, machine):
    home = resolve_home(address)
    begin(home)
    with pytest.raises(KeyboardInterrupt):
        interrupted_store(home, "corpus", "k0")
    machine("second")
    row = told(address)["stages"][0]
    assert (row["state"], row["committed"]) == ("partial", 1)


def test_a_home_that_does_not_answer_is_said_and_this_machine_told(monkeypatch, machine):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "x" * 12)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    address = "s3://bucket/away"
    begin(resolve_home(address))
    status = home_status(resolve_home(address))
    assert [item["study"] for item in status["studies"]] == ["s"]
    assert "s3://bucket/away: listing studies failed" in status["missed"]


def test_an_address_of_no_known_kind_is_no_empty_home(machine):
    with pytest.raises(ConfigError, match="Protocol not known: foo"):
        home_status(resolve_home("foo://x/y"))


def test_the_watch_remembers_for_all_machines(address, machine):
    target = watched(["qwen3-8b"])[0]
    remember(resolve_home(address), target, "a" * 40)
    machine("second")
    assert remembered(resolve_home(address), "qwen3-8b")["revision"] == "a" * 40
    remote_home(address).objects.write(memory_name("qwen3-8b"), b"{")
    with pytest.raises(ConfigError, match="qwen3-8b.json is unreadable"):
        remembered(resolve_home(address), "qwen3-8b")


def test_a_study_of_another_machine_is_compared_and_is_the_one_before(address, machine):
    for seed in (0, 1):
        machine(f"machine of seed {seed}")
        home, settings = resolve_home(address), load_study("smoke", seed=seed)
        name = study_name(settings)
        score = {"selected_layer": 2, "selection_probability": {"2": 0.9}, "layers": []}
        store = StageStore(home, "report", f"report{seed}")
        store.write_bytes("report.html", b"<html>")
        store.write_json("study.json", {"study": name, "settings": settings.model_dump(mode="json"), "score": score})
        publish_study(home, settings, store.finalize({}, {}, None), {})
        push_study(home, name)
    kept = json.loads((home / "studies" / name / "study.json").read_bytes())
    assert "selected layer 2 as before" in kept["difference"]["line"]
    machine("third")
    with pytest.raises(ConfigError, match=f"a comparison needs two of this home: .*, {name}"):
        compare_studies(resolve_home(address), [name])

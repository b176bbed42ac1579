"""Places in artifacts: plain paths beside links for a folder, addresses and commands that work for a remote home."""

import json
import re
import shlex
import uuid
from pathlib import Path

import pytest

from dihal_core.files import dump_json, write_atomically
from dihal_core.journal import RunJournal
from dihal_core.profiles import load_study
from dihal_core.remote import home as remote
from dihal_core.remote.link import push_study, share
from dihal_core.store import StageRecord, StageStore, resolve_home
from flows.cli import main
from tasks.links import links, page_place, place

RESULT = {"answer": {"lines": ["Where      layer 2"]}, "settings": {}, "results": {}}


def study_of(home: Path) -> tuple[Path, Path, StageRecord]:
    """The folder of a study with a result, the journal of its run, and a store."""
    store = StageStore(home, "corpus", "c" * 24)
    store.write_bytes("data.bin", b"some data")
    record = share(home, store.finalize({}, {"request": {"inputs": {}}}, None))
    folder = home / "studies" / "one"
    for path, content in ((folder / "study.json", RESULT), (folder / "report.html", {})):
        write_atomically(path, dump_json(content))
    push_study(home, "one")
    journal = RunJournal(folder, "full-study", (), load_study("smoke").model_dump(mode="json"), {})
    journal.close("finished")
    return folder, journal.path, record


def test_a_local_place_can_be_copied_as_text_and_stands_beside_its_link(tmp_path):
    folder, journal, record = study_of(tmp_path)
    text = links(folder, journal, record)
    for path in (folder, journal, record.path):
        assert f"`{path}` ([open]({path.as_uri()}))" in text
    page = record.path / "report.html"
    assert page_place(record, "report.html") == f"`{page}` ([open]({page.as_uri()}))"
    assert "DIHAL_HOME" not in text


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Address of a remote home with a study, the foot of an artifact of it; this process is another machine by now."""
    monkeypatch.setenv("DIHAL_CACHE", str(tmp_path / "first"))
    address = f"memory://links-{uuid.uuid4().hex}"
    home = resolve_home(address)
    folder, journal, record = study_of(home)
    text = links(folder, journal, record) + place(home, folder / "report.html") + page_place(record, "report.html")
    monkeypatch.setenv("DIHAL_CACHE", str(tmp_path / "second"))
    remote._remote_home.cache_clear()
    return address, text


def test_a_remote_place_is_its_address_and_no_path_of_this_machine(elsewhere, tmp_path):
    address, text = elsewhere
    assert f"Study: `{address}/studies/one` (to have it here: `DIHAL_HOME={address} dihal report`)" in text
    assert f"`{address}/studies/one/runs/full-study.json`" in text
    assert f"`{address}/studies/one/report.html`" in text
    assert f"`{address}/corpus/{'c' * 24}`" in text
    assert str(tmp_path) not in text
    assert "file://" not in text


def test_every_command_of_a_remote_place_brings_it_to_another_machine(elsewhere, tmp_path, capsys, monkeypatch):
    address, text = elsewhere
    commands = set(re.findall(r"`DIHAL_HOME=(\S+) dihal ([^`]+)`", text))
    assert {words.split()[0] for _, words in commands} == {"report", "status", "verify"}
    for home, words in sorted(commands):
        monkeypatch.setenv("DIHAL_HOME", home)
        assert main([*shlex.split(words), *(["--no-server"] if words == "status" else [])]) == 0, capsys.readouterr()
    here = resolve_home(address)
    assert here.is_relative_to(tmp_path / "second")
    assert json.loads((here / "studies/one/study.json").read_bytes()) == RESULT
    assert (here / "studies/one/report.html").is_file()
    assert (here / "studies/one/runs/full-study.json").is_file()
    assert (here / "corpus" / ("c" * 24) / "data.bin").read_bytes() == b"some data"

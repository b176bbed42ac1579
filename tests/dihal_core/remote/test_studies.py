import os

import pytest

from dihal_core.errors import NetworkError
from dihal_core.files import write_atomically
from dihal_core.remote.link import pull_studies, pull_study, push_study
from dihal_core.store import resolve_home

FILES = {"report.html": b"<html>", "study.json": b"{}", "hybrid/config.json": b"{}", "figures/a.svg": b"<svg/>"}


def write_study(home, name="smoke-x-s0", files=FILES):
    for item, data in files.items():
        write_atomically(home / "studies" / name / item, data)


def test_a_study_folder_is_the_same_on_another_machine(address, machine):
    home = resolve_home(address)
    write_study(home)
    os.utime(home / "studies/smoke-x-s0/study.json", (1e9, 1e9))
    assert push_study(home, "smoke-x-s0") == f"{address}/studies/smoke-x-s0"
    machine("second")
    pull_studies(resolve_home(address))
    folder = resolve_home(address) / "studies/smoke-x-s0"
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == FILES
    assert (folder / "study.json").stat().st_mtime == 1e9  # `dihal report` takes the latest


def test_a_study_published_again_is_brought_up_to_date(address, machine):
    home = resolve_home(address)
    write_study(home)
    push_study(home, "smoke-x-s0")
    machine("second")
    pull_study(resolve_home(address), "smoke-x-s0")
    machine("first")
    write_study(home, files={"report.html": b"<html>2"})
    push_study(home, "smoke-x-s0")
    machine("second")
    pull_study(resolve_home(address), "smoke-x-s0")
    assert (resolve_home(address) / "studies/smoke-x-s0/report.html").read_bytes() == b"<html>2"


def test_a_damaged_study_file_is_named_and_not_brought(address, machine, objects_under, monkeypatch):
    monkeypatch.setattr("dihal_core.remote.studies.ATTEMPTS", 1)
    home = resolve_home(address)
    write_study(home)
    push_study(home, "smoke-x-s0")
    files = objects_under(address)
    path = next(path for path in files if path.endswith("report.html"))
    files[path].pipe_file(path, b"<HTML>")
    machine("second")
    with pytest.raises(NetworkError, match=r"report.html of study smoke-x-s0"):
        pull_study(resolve_home(address), "smoke-x-s0")
    folder = resolve_home(address) / "studies/smoke-x-s0"
    assert not (folder / "report.html").exists()
    assert not (folder / "study.json").exists()


def test_a_study_that_was_never_published_changes_nothing(address, machine):
    home = resolve_home(address)
    write_study(home)
    pull_study(home, "smoke-x-s0")
    assert (home / "studies/smoke-x-s0/study.json").read_bytes() == b"{}"


def test_a_local_home_has_no_address_to_push_to(tmp_path):
    write_study(tmp_path)
    assert push_study(tmp_path, "smoke-x-s0") is None

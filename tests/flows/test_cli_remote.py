import os
import time
from pathlib import Path

import pytest

from flows.cli import main


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A home on a storage that needs no network, with one upload that was killed three days ago."""
    monkeypatch.setenv("DIHAL_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "bucket" / "corpus" / "k" / "v-0123" / "data.bin"
    data.parent.mkdir(parents=True)
    data.write_bytes(b"x" * 2_000_000)
    moment = time.time() - 3 * 24 * 3600
    os.utime(data, (moment, moment))
    return f"file://{tmp_path}/bucket"


def test_leftovers_are_listed_and_only_removed_when_asked(address, tmp_path, capsys):
    data = tmp_path / "bucket" / "corpus" / "k" / "v-0123" / "data.bin"
    assert main(["leftovers", "--home", address]) == 0
    said = capsys.readouterr().out
    assert f"2.0 MB       1 objects  {address}/corpus/k/v-0123" in said
    assert "1 leftovers, 2.0 MB, older than 24 hours; --remove deletes them" in said
    assert data.is_file()
    assert main(["leftovers", "--home", address, "--hours", "100", "--remove"]) == 0
    assert data.is_file()
    assert main(["leftovers", "--home", address, "--remove"]) == 0
    assert not data.exists()
    assert "removed" in capsys.readouterr().out


def test_a_folder_and_a_negative_age_are_refused(address, tmp_path, capsys):
    assert main(["leftovers", "--home", str(tmp_path)]) == 2
    assert "is a folder on this machine" in capsys.readouterr().err
    assert main(["leftovers", "--home", address, "--hours", "-1"]) == 2
    assert "give a number above 0" in capsys.readouterr().err

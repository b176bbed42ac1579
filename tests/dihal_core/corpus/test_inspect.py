import gzip
import json
import os
import subprocess
import sys

import pytest

from dihal_core.corpus.inspect import format_inspection, inspect_path
from dihal_core.errors import ConfigError


def row(number, **changes):
    return json.dumps({"id": f"d{number}", "text": f"text {number}", "source": "web", **changes}).encode() + b"\n"


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "shards"
    (root / "a").mkdir(parents=True)
    (root / "a" / "good.jsonl.gz").write_bytes(gzip.compress(b"".join(row(i) for i in range(300))))
    (root / "a" / "mixed.json").write_bytes(row(1) + b"{broken\n" + row(900, text=None) + row(901) + row(902, text=""))
    whole = gzip.compress(b"".join(row(i, text=os.urandom(40).hex()) for i in range(400, 500)))
    (root / "torn.json.gz").write_bytes(whole[: len(whole) // 2])
    (root / "pointer.json.gz").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (root / "zero.json.gz").write_bytes(b"")
    (root / "folder.json.gz").mkdir()
    (root / "notes.md").write_bytes(b"# notes\n")
    return root


def test_everything_is_accounted_for_with_path_and_offset(folder):
    found = inspect_path(str(folder), with_ids=True)
    facts = found.to_json()
    torn = next(shard for shard in facts["shards"] if shard["name"] == "torn.json.gz")["accepted"]
    assert 10 < torn < 90
    assert facts["documents"] == len(facts["ids"]) == 302 + torn
    assert facts["ids"][:3] == ["d0", "d1", "d2"]
    assert facts["rejects"] == {"bad_json": 1, "empty_text": 1, "text_not_a_string": 1}
    assert {"path": "a/mixed.json", "reason": "bad_json", "count": 1, "offsets": [len(row(1))]} in facts["rejected"]
    assert {d["path"]: d["damage"] for d in facts["damaged_shards"]} == {
        "folder.json.gz": "folder_instead_of_a_file",
        "pointer.json.gz": "git_lfs_pointer",
        "torn.json.gz": "truncated_gzip",
        "zero.json.gz": "empty_file",
    }
    assert next(d["offset"] for d in facts["damaged_shards"] if d["path"] == "torn.json.gz") > 1000
    assert facts["ignored"] == ["notes.md"]
    assert facts["duplicate_ids"] == 1
    assert facts["sources"] == {"web": 302 + torn}
    assert facts["healthy"]
    assert facts["damaged_lines"] == 2


def test_the_text_names_what_the_json_names(folder):
    text = format_inspection(inspect_path(str(folder), with_ids=True))
    for part in (
        "bad_json 1 in a/mixed.json at byte",
        "torn.json.gz: truncated_gzip at byte",
        "notes.md",
        "accepted: the corpus stage would take what is readable",
    ):
        assert part in text
    assert text.splitlines()[-1].startswith("d4")


def test_more_than_one_percent_of_damaged_lines_is_refused_and_empty_texts_do_not_count(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"".join(row(i) for i in range(99)) + b"{\n")
    assert inspect_path(str(path)).problem is None
    path.write_bytes(b"".join(row(i) for i in range(98)) + b"{\n\xff\n")
    assert inspect_path(str(path)).problem == "2 of 100 lines are damaged (2.0%, at most 1.0% allowed)"
    assert inspect_path(str(path), max_damaged_fraction=0.05).problem is None
    path.write_bytes(row(0) + row(1, text="") * 500 + b"\n" * 500)
    assert inspect_path(str(path)).problem is None


def test_nothing_read_is_a_problem_and_nothing_there_a_wrong_request(tmp_path):
    (tmp_path / "empty").mkdir()
    assert inspect_path(str(tmp_path / "empty")).problem == "no document could be read"
    (tmp_path / "page.json.gz").write_bytes(b"<html>")
    assert inspect_path(str(tmp_path / "page.json.gz")).problem == "no document could be read"
    os.mkfifo(tmp_path / "pipe.gz")
    found = inspect_path(str(tmp_path / "pipe.gz"))
    assert found.shards[0].file_damage == "not_a_regular_file"
    with pytest.raises(ConfigError, match="does not exist"):
        inspect_path(str(tmp_path / "nowhere.gz"))


def test_an_address_is_read_like_a_path(folder):
    import fsspec

    with fsspec.open("memory://inspected/a.jsonl.gz", "wb") as handle:
        handle.write((folder / "a" / "good.jsonl.gz").read_bytes())
    assert inspect_path("memory://inspected").documents == 300
    assert inspect_path("memory://inspected/a.jsonl.gz").documents == 300


def test_no_heavy_library_is_imported():
    code = (
        "import sys; from flows.cli import main; main(['corpus', 'inspect', '/dev/null']); "
        "print([m for m in ('torch', 'transformers', 'datasets', 'prefect', 'pandas', 'aiohttp') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"

import gzip
import json
import shutil

import fsspec
import pytest
from backports import zstd

from dihal_core.corpus.folder_plan import make_folder_plan
from dihal_core.corpus.windows import load_windows
from dihal_core.errors import AssetError, ConfigError
from dihal_core.profiles import load_study
from dihal_core.requests import make_request
from dihal_core.runner import ensure
from dihal_core.seeding import stream

WORDS = [f"{a}{b}" for a in ("ba", "ke", "li", "mo", "nu", "ra") for b in range(300)]


def lines(name, count):
    draws = stream(0, "folder", name)
    return b"".join(
        json.dumps({"id": f"{name}-{n}", "text": " ".join(draws.choice(WORDS, 70)), "source": "any"}).encode() + b"\n"
        for n in range(count)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    for name, data in {
        "web/a/part-0.jsonl.gz": gzip.compress(lines("a0", 90)),
        "web/a/part-1.jsonl.gz": gzip.compress(lines("a1", 90)),
        "web/b.json.zst": zstd.compress(lines("b", 60)),
        "loose.jsonl": lines("loose", 40),
        "NOTES.txt": b"collected by hand\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def settings_of(root, **overrides):
    values = {
        "kind": "folder",
        "base_url": str(root),
        "num_sequences": 120,
        "num_heldout": 8,
        "num_eval_wiki": 0,
        "heldout_permille": 100,
        **overrides,
    }
    return load_study("smoke", overrides={f"corpus.{name}": value for name, value in values.items()})


def build(home, root, **overrides):
    return ensure(make_request("corpus", settings_of(root, **overrides), {"assets": {}}, home))


def facts_of(record):
    return json.loads((record.path / "corpus.json").read_bytes())


def test_every_sub_folder_is_a_source_in_proportion_to_its_bytes_or_all_are_equal(folder):
    by_bytes = make_folder_plan(settings_of(folder).corpus, 0)
    assert list(by_bytes.shares) == ["root", "web-a", "web"]
    assert by_bytes.shares["web-a"] > by_bytes.shares["web"] > 0.15
    equal = make_folder_plan(settings_of(folder, folder_mixture="equal").corpus, 0)
    assert set(equal.shares.values()) == {1 / 3}
    assert any("NOTES.txt" in sentence for sentence in by_bytes.missing)


def test_a_folder_of_any_packing_gives_windows_and_its_account(folder, tmp_path):
    record = build(tmp_path, folder, folder_mixture="equal")
    facts = facts_of(record)
    assert {row["source"]: row["windows"]["train"] for row in facts["sources"]} == {"root": 40, "web-a": 40, "web": 40}
    assert {row["licence"] for row in facts["sources"]} == {"not stated by the shards"}
    assert sum(shard["accepted"] for shard in facts["shards"]) == 280
    assert len(load_windows(record, "train")) == 120
    assert str(folder) not in (record.path / "corpus.json").read_text()


def test_a_remote_folder_gives_the_same_windows(folder, tmp_path):
    for path in folder.rglob("*"):
        if path.is_file():
            with fsspec.open(f"memory://folder/{path.relative_to(folder).as_posix()}", "wb") as handle:
                handle.write(path.read_bytes())
    left, right = (build(tmp_path / str(n), root) for n, root in enumerate((folder, "memory://folder")))
    assert (load_windows(left, "train").tokens_NT == load_windows(right, "train").tokens_NT).all()
    assert facts_of(right)["shards"][0]["url"].startswith("memory://folder/")


def test_unreadable_parts_are_named_and_the_rest_is_used(folder, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(folder, root)
    (root / "web" / "gone.jsonl.gz").symlink_to(root / "nowhere")
    (root / "web" / "page.jsonl.gz").write_bytes(b"<!doctype html>")
    missing = facts_of(build(tmp_path / "home", root))["missing"]
    assert "web/gone.jsonl.gz is left out: missing_file" in missing
    assert any("web/page.jsonl.gz is damaged (html_instead_of_a_shard at byte 0); nothing" in s for s in missing)


def test_a_folder_without_shards_and_a_folder_of_damage_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no shard; expected files of JSON lines"):
        build(tmp_path / "home", tmp_path / "empty")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.jsonl").write_bytes(lines("x", 50) + b"{broken\n")
    with pytest.raises(
        AssetError, match=r"1 of 51 lines are damaged \(2\.0%, at most 1\.0% allowed.*x\.jsonl: bad_json 1"
    ):
        build(tmp_path / "home", tmp_path / "bad")


def test_the_kind_needs_a_root():
    with pytest.raises(ConfigError, match=r"set corpus\.base_url to a folder"):
        load_study("smoke", overrides={"corpus.kind": "folder"})


def test_evaluation_pages_that_were_not_fetched_are_said_to_be_missing(folder, tmp_path):
    facts = facts_of(build(tmp_path, folder, num_eval_wiki=4))
    assert any("evaluation pages are left out: asset text-enwiki-pages" in sentence for sentence in facts["missing"])

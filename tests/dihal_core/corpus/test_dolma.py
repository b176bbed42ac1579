import functools
import gzip
import http.server
import json
import shutil
import threading

import pytest

from dihal_core.corpus.documents import Document
from dihal_core.corpus.dolma import Keeper, open_shard
from dihal_core.corpus.dolma_plan import make_plan
from dihal_core.corpus.lines import ReadReport, read_documents
from dihal_core.corpus.quotas import largest_remainder
from dihal_core.corpus.shards import FOLDERS, folder_quotas
from dihal_core.corpus.windows import load_windows
from dihal_core.errors import AssetError, ConfigError, NetworkError
from dihal_core.profiles import load_study
from dihal_core.requests import make_request
from dihal_core.runner import ensure
from dihal_core.seeding import stream

VOCABULARY = [f"{a}{b}" for a in ("ba", "ke", "li", "mo", "nu", "ra", "se", "ti") for b in range(300)]


def rows(folder, shard, count):
    source = stream(0, "test", folder, shard)
    for number in range(count):
        text = " ".join(source.choice(VOCABULARY, int(source.integers(20, 120))))
        yield {"id": f"{shard}-{number}", "text": text, "source": folder, "metadata": {folder: [number]}}


def write_shard(root, path, lines):
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(line) + "\n" if isinstance(line, dict) else line for line in lines).encode()
    target.write_bytes(gzip.compress(data, mtime=0) if path.endswith(".gz") else data)
    return target


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    """Two shards of every folder of Dolma v1.7 (or the one there is), in the true naming."""
    root = tmp_path_factory.mktemp("mirror")
    for folder in FOLDERS.values():
        for path in folder.shards()[:2]:
            write_shard(root, path, rows(folder.name, path, 80 if folder.name == "wiki" else 30))
    return root


def request_for(home, root, **overrides):
    values = {
        "kind": "dolma",
        "base_url": str(root),
        "num_sequences": 300,
        "num_heldout": 12,
        "num_eval_wiki": 4,
        "heldout_permille": 100,
        **overrides,
    }
    settings = load_study("smoke", overrides={f"corpus.{name}": value for name, value in values.items()})
    return make_request("corpus", settings, {"assets": {}}, home)


def build(home, root, progress=lambda *a: None, **overrides):
    return ensure(request_for(home, root, **overrides), progress)


def facts_of(record):
    return json.loads((record.path / "corpus.json").read_bytes())


@pytest.fixture(scope="module")
def record(mirror, tmp_path_factory):
    return build(tmp_path_factory.mktemp("home"), mirror)


def test_a_mirror_gives_the_published_mixture_and_its_account(record, mirror):
    facts = facts_of(record)
    assert {row["source"] for row in facts["sources"]} >= {
        "cc_en_head",
        "starcoder",
        "falcon-refinedweb-filtered",
        "wiki",
    }
    windows = {row["source"]: row["windows"]["train"] for row in facts["sources"]}
    assert sum(windows.values()) == 300
    assert windows["falcon-refinedweb-filtered"] == 83
    assert windows["starcoder"] == 48
    for shard in facts["shards"]:
        assert len(shard["sha256"]) == 64
        assert shard["bytes_read"] == (mirror / shard["name"]).stat().st_size
        assert shard["accepted"] == shard["lines"] > 0
    assert "source reddit: the local mirror has 2 of its 78 shards" in facts["missing"]
    assert len(load_windows(record, "train")) == 300
    assert len(load_windows(record, "heldout")) == 12
    assert len(load_windows(record, "eval_wiki")) == 4


def test_neither_text_nor_the_path_of_the_mirror_is_kept(record, mirror):
    assert not (record.path / "spool").exists()
    for path in record.path.glob("*.json*"):
        if path.name != "manifest.json":
            content = path.read_text()
            assert str(mirror) not in content
            assert "ba17 " not in content


def test_a_build_killed_between_shards_resumes_to_the_same_bytes(record, mirror, tmp_path):
    class Killed(BaseException):
        pass

    def die(done, total, unit):
        if unit == "shards" and done >= total / 2:
            raise Killed

    with pytest.raises(Killed):
        build(tmp_path, mirror, die)
    partial = next((tmp_path / "corpus").glob("*.partial"))
    spooled = sorted((partial / "spool").iterdir())
    assert 0 < len(spooled) < len(facts_of(record)["shards"])
    spooled[0].unlink()  # a commit without its file is not trusted
    assert build(tmp_path, mirror).digest == record.digest


def test_the_mirror_may_hold_plain_files_in_another_packing(record, mirror, tmp_path):
    plain = tmp_path / "plain"
    for path in mirror.rglob("*.gz"):
        target = plain / path.relative_to(mirror).with_suffix("")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(gzip.decompress(path.read_bytes()))
    other = build(tmp_path / "home", plain)
    left, right = (load_windows(r, "train").tokens_NT for r in (record, other))
    assert (left == right).all()


def test_absent_folders_are_named_and_their_windows_go_to_the_others(mirror, tmp_path):
    small = tmp_path / "small"
    for folder in ("wiki", "reddit"):
        shutil.copytree(mirror / folder, small / folder)
    facts = facts_of(build(tmp_path / "home", small, num_sequences=64))
    assert [row["source"] for row in facts["sources"] if row["windows"]["train"]] == ["reddit", "wiki"]
    assert sum("is left out: the local mirror has none" in sentence for sentence in facts["missing"]) == 17


def damaged(mirror, tmp_path, change):
    root = tmp_path / "damaged"
    shutil.copytree(mirror / "reddit", root / "reddit")
    change(root / "reddit" / "reddit-0000.json.gz")
    return root


def test_too_many_damaged_lines_fail_with_reasons_shard_and_offset(mirror, tmp_path):
    def change(path):
        write_shard(path.parent, path.name, ["{broken\n", *rows("reddit", "a", 30), {"id": "x", "source": "reddit"}])

    with pytest.raises(AssetError, match=r"2 of 62 lines .*bad_json 1.*missing_text 1.*reddit-0000.*from byte 0"):
        build(tmp_path / "home", damaged(mirror, tmp_path, change), num_sequences=64, num_eval_wiki=0)


def test_a_truncated_shard_gives_its_readable_part_and_is_named(mirror, tmp_path):
    def change(path):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 3 // 4])

    root = damaged(mirror, tmp_path, change)
    facts = facts_of(build(tmp_path / "home", root, num_sequences=64, num_eval_wiki=0, max_damaged_fraction=0.05))
    assert any("reddit-0000.json.gz is damaged (truncated_gzip)" in sentence for sentence in facts["missing"])
    assert 5 < next(s for s in facts["shards"] if s["name"].endswith("0000.json.gz"))["accepted"] < 30


def test_nothing_readable_is_an_error_that_says_what_was_found(mirror, tmp_path):
    root = damaged(mirror, tmp_path, lambda path: None)
    for path in root.rglob("*.gz"):
        path.write_bytes(b"<html>404 Not Found</html>")
    with pytest.raises(AssetError, match="no document could be read .*html_instead_of_a_shard"):
        build(tmp_path / "home", root, num_sequences=64, num_eval_wiki=0)


def test_a_mirror_that_is_not_there_or_empty_is_named(tmp_path):
    with pytest.raises(ConfigError, match="is no folder"):
        build(tmp_path / "home", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds none of Dolma"):
        build(tmp_path / "home", tmp_path / "empty")


def test_the_paper_plan_needs_no_network_and_follows_the_published_mixture():
    corpus = load_study("paper-qwen3-8b").corpus
    plan = make_plan(corpus, 0)
    assert plan.missing == ()
    assert 90 < len(plan.shards) < 152
    assert len({shard.unit for shard in plan.shards}) == len(plan.shards)
    assert largest_remainder(300_000, plan.shares) == folder_quotas(300_000)
    assert plan == make_plan(corpus, 0)
    assert plan.shards != make_plan(corpus, 1).shards


@pytest.fixture
def server(mirror):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(mirror))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def test_a_shard_is_streamed_over_http_like_a_local_one(server, mirror):
    found = []
    for root in (server, str(mirror)):
        report = ReadReport("wiki/wiki-0000.json.gz")
        with open_shard(root, report.name) as handle:
            found.append(([d.id for d in read_documents(handle, report, 1500)], report))
    assert found[0] == found[1]
    assert found[0][1].bytes_read == 1500


def test_a_missing_address_and_an_unreachable_host_are_told_apart(server):
    with pytest.raises(AssetError, match=r"reddit-0077\.json\.gz answers 404; set corpus\.base_url"):
        open_shard(server, "reddit/reddit-0077.json.gz")
    with pytest.raises(NetworkError, match="could not be reached"):
        open_shard("http://127.0.0.1:9", "reddit/reddit-0077.json.gz")


def test_a_keeper_holds_the_smallest_ranks_in_any_order():
    corpus = load_study("smoke").corpus
    documents = [Document(f"d{i}", "x" * 100, "wiki") for i in range(500)]
    ranks = stream(0, "ranks").permutation(500).tolist()
    kept = []
    for order in (range(500), reversed(range(500))):
        keeper = Keeper(20, corpus, 4)
        for i in order:
            keeper.offer(ranks[i], documents[i])
        kept.append([d.id for d in keeper.kept()])
    assert kept[0] == kept[1] == [f"d{ranks.index(r)}" for r in range(20)]

import functools
import gzip
import http.server
import json
import shutil
import threading

import fsspec
import pytest
from backports import zstd

from dihal_core.corpus.dolma_plan import make_plan
from dihal_core.corpus.prepared import Prepared
from dihal_core.corpus.quotas import largest_remainder
from dihal_core.corpus.shards import FOLDERS, folder_quotas
from dihal_core.corpus.tokenise import WindowEncoder
from dihal_core.corpus.windows import load_windows
from dihal_core.errors import ArtifactError, AssetError, ConfigError, NetworkError
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


def settings_of(root, **overrides):
    values = {
        "kind": "dolma",
        "base_url": str(root),
        "num_sequences": 300,
        "num_heldout": 12,
        "num_eval_wiki": 4,
        "heldout_permille": 100,
        **overrides,
    }
    return {f"corpus.{name}": value for name, value in values.items()}


def request_for(home, root, **overrides):
    settings = load_study("smoke", overrides=settings_of(root, **overrides))
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
    assert 0 < len([path for path in spooled if path.suffix == ".gz"]) < len(facts_of(record)["shards"])
    next(path for path in spooled if path.suffix == ".gz").unlink()
    next(
        path for path in spooled if path.name.endswith(".places.json")
    ).unlink()  # a commit without its file is not trusted
    assert build(tmp_path, mirror).digest == record.digest


@pytest.mark.parametrize("victim", ["*.gz", "*.tokens.npy"])
def test_a_damaged_interim_file_is_discarded_with_a_sentence_and_a_rerun_is_whole(record, mirror, tmp_path, victim):
    class Killed(BaseException):
        pass

    def die(done, total, unit):
        if unit == "shards" and done >= total:
            raise Killed

    with pytest.raises(Killed):
        build(tmp_path, mirror, die)
    damaged = max((tmp_path / "corpus").glob(f"*.partial/spool/{victim}"), key=lambda path: path.stat().st_size)
    damaged.write_bytes(damaged.read_bytes()[:20])
    with pytest.raises(ArtifactError, match="interim file of the corpus .* is damaged"):
        build(tmp_path, mirror)
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

    with pytest.raises(
        AssetError, match=r"2 of 62 lines .*bad_json 1.*missing_text 1.*reddit-0000.*bad_json 1 \(first at byte 0\)"
    ):
        build(tmp_path / "home", damaged(mirror, tmp_path, change), num_sequences=64, num_eval_wiki=0)


def test_a_truncated_shard_gives_its_readable_part_and_is_named(mirror, tmp_path):
    def change(path):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 3 // 4])

    root = damaged(mirror, tmp_path, change)
    facts = facts_of(build(tmp_path / "home", root, num_sequences=64, num_eval_wiki=0))
    assert any("reddit-0000.json.gz is damaged (truncated_gzip at byte " in sentence for sentence in facts["missing"])
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
    assert plan.evaluation_folder is None  # WikiText-103 is the evaluation set
    assert largest_remainder(300_000, plan.shares) == folder_quotas(300_000)
    assert plan == make_plan(corpus, 0)
    assert plan.shards != make_plan(corpus, 1).shards


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def serve():
    running = []

    def start(folder):
        handler = functools.partial(QuietHandler, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def published(root):
    """Fill a mirror up to all shards of Dolma v1.7, as links: an address is taken to hold all of them."""
    for folder in FOLDERS.values():
        for path in folder.shards()[2:]:
            (root / path).symlink_to(root / folder.shards()[0])
    return root


@pytest.fixture(scope="module")
def whole_mirror(mirror, tmp_path_factory):
    root = tmp_path_factory.mktemp("whole") / "mirror"
    shutil.copytree(mirror, root)
    return published(root)


def test_http_gives_the_windows_of_a_local_mirror_and_names_the_addresses(serve, whole_mirror, tmp_path):
    address = serve(whole_mirror)
    overrides = {"num_sequences": 64, "shards_per_source": 2}
    local, remote = (build(tmp_path / str(n), r, **overrides) for n, r in enumerate((whole_mirror, address)))
    left, right = (load_windows(record, "train").tokens_NT for record in (local, remote))
    assert (left == right).all()
    shards = facts_of(remote)["shards"]
    assert all(shard["url"] == f"{address}/{shard['name']}" for shard in shards)
    assert [s["sha256"] for s in shards] == [s["sha256"] for s in facts_of(local)["shards"]]
    assert all(shard["url"] is None for shard in facts_of(local)["shards"])


def test_another_file_system_gives_the_same_windows(whole_mirror, tmp_path):
    overrides = {"num_sequences": 64, "shards_per_source": 1}
    local = build(tmp_path / "0", whole_mirror, **overrides)
    wanted = [shard["name"] for shard in facts_of(local)["shards"]]
    for name in wanted:
        with fsspec.open(f"memory://dolma/{name}", "wb") as handle:
            handle.write((whole_mirror / name).read_bytes())
    remote = build(tmp_path / "1", "memory://dolma", **overrides)
    left, right = (load_windows(record, "train").tokens_NT for record in (local, remote))
    assert (left == right).all()


def test_a_missing_address_an_html_page_and_an_unreachable_host_are_told_apart(serve, whole_mirror, tmp_path):
    address, few = serve(whole_mirror), {"shards_per_source": 2}
    spoilt = sorted((whole_mirror / "wiki").iterdir())[0]
    content = spoilt.read_bytes()
    try:
        spoilt.write_bytes(b"<!DOCTYPE html><html>Please log in</html>")
        with pytest.raises(AssetError, match=r"wiki-0000\.json\.gz answers with an HTML page instead of a shard"):
            build(tmp_path / "html", address, **few)
        spoilt.unlink()
        with pytest.raises(AssetError, match=r"wiki-0000\.json\.gz answers 404; set corpus\.base_url"):
            build(tmp_path / "missing", address, **few)
    finally:
        spoilt.write_bytes(content)
    with pytest.raises(NetworkError, match="could not be reached"):
        build(tmp_path / "away", "http://127.0.0.1:9", **few)


@pytest.fixture(scope="module")
def damaged_mirror(mirror, tmp_path_factory):
    """All sources, every kind of damage in some shard, below 1 % of the lines."""
    root = tmp_path_factory.mktemp("spoilt") / "mirror"
    shutil.copytree(mirror, root)
    shard = {folder: [root / path for path in FOLDERS[folder].shards()[:2]] for folder in FOLDERS}
    data = shard["books"][0].read_bytes()
    shard["books"][0].write_bytes(data[: len(data) // 2])
    data = bytearray(shard["reddit"][0].read_bytes())
    data[len(data) // 2] ^= 0x40
    shard["reddit"][0].write_bytes(bytes(data))
    shard["starcoder"][0].write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    shard["pes2o"][0].write_bytes(b"<html>404</html>")
    shard["tulu_flan"][0].write_bytes(b"")
    plain = gzip.decompress(shard["wiki"][1].read_bytes())
    half = plain.index(b"\n", len(plain) // 2) + 1
    shard["wiki"][1].write_bytes(zstd.compress(plain[:half]) + zstd.compress(plain[half:]))
    plain = gzip.decompress(shard["c4-filtered"][0].read_bytes())
    shard["c4-filtered"][0].write_bytes(b"\xef\xbb\xbf" + plain.replace(b"\n", b"\r\n"))
    plain = gzip.decompress(shard["cc_en_head"][0].read_bytes())
    empty = b'{"id": "e", "text": "", "source": "s"}\n' * 10
    shard["cc_en_head"][0].write_bytes(gzip.compress(plain[:500] + b"\xff" + plain[500:] + empty))
    return root


def test_one_and_four_workers_give_one_digest_from_a_damaged_mirror_of_all_sources(damaged_mirror, tmp_path):
    records = []
    for workers in (1, 4):
        settings = load_study("smoke", overrides={"compute.corpus_workers": workers, **settings_of(damaged_mirror)})
        records.append(ensure(make_request("corpus", settings, {"assets": {}}, tmp_path / str(workers))))
    assert records[0].key == records[1].key
    assert records[0].digest == records[1].digest
    facts = facts_of(records[0])
    damage = {shard["name"].split("/")[0]: shard["file_damage"] for shard in facts["shards"] if shard["file_damage"]}
    assert damage == {
        "books": "truncated_gzip",
        "reddit": "corrupt_gzip",
        "starcoder": "git_lfs_pointer",
        "pes2o": "html_instead_of_a_shard",
        "tulu_flan": "empty_file",
    }
    assert sum("is damaged" in sentence for sentence in facts["missing"]) == 5
    head = next(shard for shard in facts["shards"] if shard["name"] == "cc_en_head/cc_en_head-0000.json.gz")
    assert head["rejects"] == {"bad_utf8": 1, "empty_text": 10}
    assert len(head["offsets"]["bad_utf8"]) == 1
    quota = {name for name, windows in folder_quotas(300).items() if windows}  # one window in 300 is not due to all
    assert {row["source"] for row in facts["sources"]} == {*quota, "eval_wiki"}
    assert len({name.split("_")[0] for name in quota}) > 12


def test_readers_go_on_while_finished_shards_are_tokenised_and_the_windows_are_used(mirror, tmp_path, monkeypatch):
    """Windows prepared on the way must be those that the choice would make, and spare it the work."""
    anew = []
    original = WindowEncoder.encode_anew

    def counted(self, documents, cap):
        anew.append((self.prepared is None, len(documents)))
        return original(self, documents, cap)

    monkeypatch.setattr(WindowEncoder, "encode_anew", counted)
    record = build(tmp_path / "with", mirror)
    early = sum(count for before, count in anew if before)
    late = sum(count for before, count in anew if not before)
    assert early > late  # most of what was chosen had been tokenised while shards were read
    monkeypatch.setattr(Prepared, "find", lambda self, document, cap: None)
    assert build(tmp_path / "without", mirror).digest == record.digest

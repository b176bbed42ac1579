import json

import numpy as np
import pytest

from dihal_core.corpus.builtin import read_builtin
from dihal_core.corpus.documents import group_permille
from dihal_core.corpus.windows import SPLITS, load_windows
from dihal_core.errors import ArtifactError, ConfigError
from dihal_core.profiles import load_study
from dihal_core.requests import make_request
from dihal_core.runner import ensure


def build(home, seed=0, assets=None, progress=None, **overrides):
    settings = load_study("smoke", seed=seed, overrides={f"corpus.{name}": value for name, value in overrides.items()})
    request = make_request("corpus", settings, {"assets": assets or {}}, home)
    return ensure(request, progress) if progress else ensure(request)


def facts_of(record):
    return json.loads((record.path / "corpus.json").read_bytes())


def documents_of(record):
    return [json.loads(line) for line in (record.path / "documents.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return build(tmp_path_factory.mktemp("home"), num_sequences=64, num_heldout=16, num_eval_wiki=16)


def test_the_store_holds_the_windows_that_were_asked_for(record):
    for split, wanted in (("train", 64), ("heldout", 16), ("eval_wiki", 16)):
        windows = load_windows(record, split)
        assert windows.tokens_NT.shape == (wanted, 48)
        assert windows.tokens_NT.dtype == np.int32
        assert (windows.tokens_NT[:, 0] == windows.separator_id).all()
        assert not (windows.tokens_NT[:, 1:] == windows.separator_id).any()
        for tokens, length in zip(windows.tokens_NT, windows.lengths_N, strict=True):
            assert 16 <= length <= 48
            assert (tokens[length:] == windows.pad_id).all()
        assert (windows.bytes_N == windows.lengths_N - 2).all()  # one token is one byte


def test_two_builds_are_bit_identical_and_another_seed_differs(record, tmp_path):
    again = build(tmp_path, num_sequences=64, num_heldout=16, num_eval_wiki=16)
    other = build(tmp_path, seed=1, num_sequences=64, num_heldout=16, num_eval_wiki=16)
    assert again.digest == record.digest
    assert other.digest != record.digest


def test_splits_share_no_document_and_no_group(record):
    rows = documents_of(record)
    assert [row["document"] for row in rows] == list(range(len(rows)))
    for key in ("document", "id", "group"):
        sides = [{row[key] for row in rows if row["split"] == split} for split in SPLITS]
        assert not sides[0] & sides[1]
        assert not sides[0] & sides[2]
        assert not sides[1] & sides[2]
    used = {int(n) for split in SPLITS for n in load_windows(record, split).document_N}
    assert used == set(range(len(rows)))


def test_the_split_is_the_hash_of_source_and_group(record):
    ids = {document.identity: document for source in read_builtin().train for document in source.documents}
    for row in documents_of(record):
        if row["split"] != "eval_wiki":
            document = ids[row["id"]]
            assert (group_permille(document.source, document.group) < 60) == (row["split"] == "heldout")


def test_no_text_is_written_beside_the_tokens(record):
    words = {"lantern", "harbour", "orchard", "telescope", "greenhouse"}
    for name in ("documents.jsonl", "corpus.json"):
        assert not words & set((record.path / name).read_text().lower().split())
    assert not (record.path / "spool").exists()


def test_the_mixture_follows_the_shares_and_a_prefix_of_train_is_mixed(record):
    windows = load_windows(record, "train")
    counts = np.bincount(windows.source_N, minlength=4)
    assert sorted(counts[:3].tolist()) == [21, 21, 22]
    assert counts[3] == 0
    assert len(set(windows.source_N[:16].tolist())) == 3


def test_the_account_adds_up(record):
    facts = facts_of(record)
    for split in SPLITS:
        windows = load_windows(record, split)
        assert facts["splits"][split]["windows"] == len(windows)
        assert facts["splits"][split]["tokens"] == int(windows.lengths_N.sum()) - len(windows)
        assert facts["splits"][split]["documents"] == len(set(windows.document_N.tolist()))
        assert sum(row["windows"][split] for row in facts["sources"]) == len(windows)
    assert [row["source"] for row in facts["sources"]] == ["stories", "guides", "code", "eval_wiki"]
    assert record.counts["splits"] == facts["splits"]
    assert facts["separator"] == {"token": load_study("smoke").backbone.separator_token, "id": 256}


def test_held_out_sets_spread_over_many_documents(record):
    for split in ("heldout", "eval_wiki"):
        assert max(np.bincount(load_windows(record, split).document_N)) <= 4


def test_the_cap_on_windows_per_document_holds(tmp_path):
    windows = load_windows(build(tmp_path, num_sequences=64, max_windows_per_document=2), "train")
    assert max(np.bincount(windows.document_N)) == 2


def test_too_many_windows_are_refused_with_the_number_there_is(tmp_path):
    with pytest.raises(ConfigError, match=r"corpus\.num_sequences is 100000, but .* gives \d+ training windows"):
        build(tmp_path, num_sequences=100_000)


def test_a_short_held_out_set_is_stated_and_kept(tmp_path):
    record = build(tmp_path, num_heldout=5000)
    got = facts_of(record)["splits"]["heldout"]["windows"]
    assert 0 < got < 5000
    assert f"heldout has {got} windows of the 5000 asked for; no more text fits" in facts_of(record)["missing"]


def test_without_evaluation_pages_the_split_is_empty(tmp_path):
    windows = load_windows(build(tmp_path, num_eval_wiki=0), "eval_wiki")
    assert windows.tokens_NT.shape == (0, 48)


def test_progress_never_goes_back_within_its_unit_and_ends_complete(tmp_path):
    seen = []
    build(tmp_path, progress=lambda done, total, unit: seen.append((done, total, unit)))
    done = [value for value, _, _ in seen]
    assert done == sorted(done)
    assert seen[-1] == (64, 64, "windows")


def test_an_unknown_split_and_a_torn_store_are_named(record, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'heldout'"):
        load_windows(record, "held-out")
    with pytest.raises(ArtifactError, match="recomputes stage 'corpus'"):
        load_windows(type(record)("corpus", "k", str(tmp_path), "d"), "train")


@pytest.mark.slow
def test_without_assets_the_offline_corpus_falls_back_to_this_installation_and_says_so(tmp_path):
    record = build(tmp_path, kind="offline", num_sequences=64, window_tokens=128, max_shared_13gram=0.02)
    facts = facts_of(record)
    assert [row["source"] for row in facts["sources"]] == ["code", "docs"]
    assert sum("was not fetched (run `dihal setup`)" in sentence for sentence in facts["missing"]) == 6
    assert facts["splits"]["eval_wiki"]["windows"] == 0
    files = {name for origin in facts["origins"] for name in origin["files"]}
    assert any(name.startswith("scipy/") for name in files)
    assert all(value <= 0.02 for value in facts["overlap"]["shared_13gram_fraction"].values())

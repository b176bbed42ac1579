"""The activations stage as the study runs it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import zarr

from dihal_core.activations.reader import load_pool, load_whole
from dihal_core.corpus.windows import load_windows
from dihal_core.errors import ConfigError, ResourceError
from dihal_core.profiles import load_study
from dihal_core.requests import make_request
from dihal_core.runner import ensure
from dihal_core.store import discard_store


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    home = tmp_path_factory.mktemp("stage")
    settings = load_study("smoke")
    return home, settings, ensure(make_request("corpus", settings, {"assets": {}}, home))


def dump(study, corpus_windows=48, **changes):
    home, settings, corpus = study
    asked = settings.corpus.model_copy(update={"num_sequences": corpus_windows})
    chosen = settings.model_copy(
        update={"corpus": asked, "activations": settings.activations.model_copy(update=changes)}
    )
    return ensure(make_request("activations", chosen, {"assets": {}, "corpus": corpus}, home))


def test_the_result_says_what_the_store_holds(study):
    _, settings, corpus = study
    record = dump(study)
    facts = json.loads((record.path / "activations.json").read_bytes())
    assert facts["layers"] == [0, 1, 2, 3, 4]
    assert facts["candidate_layers"] == [1, 2, 3]
    assert facts["sequences"] == settings.activations.num_sequences
    assert facts["tokens"] == int(load_windows(corpus, "train").lengths_N[: facts["sequences"]].sum())
    assert facts["pool_rows"] == len(load_pool(record, 2).rows_ND) == 2 * facts["sequences"]
    assert load_whole(record, 3).shape == (32, 48, 32)
    assert facts["verified_rows"] > 0
    assert record.counts["tokens_per_second"] > 0
    on_disk = sum(path.stat().st_size for path in (record.path / "states.zarr").rglob("c/**/*") if path.is_file())
    assert facts["bytes"] <= on_disk <= 1.5 * facts["bytes"] + 10_000


def test_changing_what_is_stored_does_not_change_the_rows_that_both_hold(study):
    some, more = dump(study), dump(study, num_sequences=40, whole_sequences=0)
    first, second = load_pool(some, 3), load_pool(more, 3)
    shared = first.sequence_N < 40
    assert np.array_equal(first.rows_ND[shared], second.rows_ND)
    assert np.array_equal(first.position_N[shared], second.position_N)


def test_more_windows_than_the_corpus_has_are_refused(study):
    with pytest.raises(ConfigError, match="exceeds the 48 training windows"):
        dump(study, corpus_windows=60, num_sequences=49)


def test_too_little_disk_is_said_before_anything_is_computed(study, monkeypatch):
    monkeypatch.setattr("dihal_core.files.shutil.disk_usage", lambda _path: SimpleNamespace(free=1000))
    with pytest.raises(ResourceError, match="the dump of hidden states needs"):
        dump(study, skip_positions=5)


def test_storing_everything_is_refused_unconfirmed_and_holds_every_state_when_confirmed(study):
    home, settings, corpus = study
    chosen = settings.model_copy(
        update={"activations": settings.activations.model_copy(update={"store_everything": True})}
    )
    with pytest.raises(ConfigError, match="set compute.confirm_gigabytes=1 to confirm"):
        ensure(make_request("activations", chosen, {"assets": {}, "corpus": corpus}, home))
    confirmed = chosen.model_copy(update={"compute": settings.compute.model_copy(update={"confirm_gigabytes": 1.0})})
    request = make_request("activations", confirmed, {"assets": {}, "corpus": corpus}, home)
    assert request.key == make_request("activations", chosen, {"assets": {}, "corpus": corpus}, home).key
    record = ensure(request)
    facts = json.loads((record.path / "activations.json").read_bytes())
    assert facts["whole_layers"] == facts["layers"] == [0, 1, 2, 3, 4]
    assert facts["bytes_by_section"]["full"] == 5 * 48 * 48 * 32 * 2
    for layer in (0, 4):
        assert load_whole(record, layer).shape == (48, 48, 32)
    some = dump(study)
    assert np.array_equal(load_whole(record, 2)[:32], load_whole(some, 2))


def test_a_second_worker_and_an_archive_change_no_number(study, tmp_path):
    home, settings, corpus = study
    expected = dump(study)
    compute = settings.compute.model_copy(update={"dump_workers": 2, "archive_url": str(tmp_path / "cold")})
    chosen = settings.model_copy(update={"compute": compute})
    request = make_request("activations", chosen, {"assets": {}, "corpus": corpus}, home)
    assert request.key == expected.key
    discard_store(home, "activations", request.key)
    again = ensure(request)
    assert again.digest == expected.digest
    assert zarr.open_group(tmp_path / "cold" / f"{request.key}.zarr", mode="r").attrs["archive"]["codec"] == "zstd"
    discard_store(home, "activations", request.key)
    assert ensure(request).digest == expected.digest  # the archive that is there already stops nothing

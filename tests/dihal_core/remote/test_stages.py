"""Stages made in a remote home: the same digests as in a local one, made once for all machines."""

import json
from pathlib import Path

import pytest

from dihal_core.errors import ArtifactError
from dihal_core.explain import explain
from dihal_core.profiles import load_study
from dihal_core.remote.home import remote_home
from dihal_core.requests import StageRequest, find
from dihal_core.runner import ensure
from dihal_core.store import discard_store, resolve_home
from dihal_core.study import pin_device, request_for


def corpus_request(home: Path) -> StageRequest:
    return request_for("corpus", pin_device(load_study("smoke")), home, {"assets": {}})


def test_a_stage_made_remotely_has_the_digest_of_a_local_one_and_is_made_once(address, machine, tmp_path):
    local = ensure(corpus_request(resolve_home(tmp_path / "local")))
    request = corpus_request(resolve_home(address))
    assert request.home == address
    assert request.key == local.key
    shared = ensure(request)
    assert (shared.digest, shared.uri) == (local.digest, f"{address}/corpus/{local.key}")

    machine("second")
    carried = StageRequest.from_json(json.loads(json.dumps(request.to_json())))  # as a task on another machine gets it
    status = find(carried)
    assert (status.state, explain(carried, status)[:6]) == ("intact", "cached")
    again = ensure(carried)
    assert again.digest == local.digest
    assert not list(resolve_home(address).glob("corpus/*"))  # neither made nor fetched
    assert again.counts["seconds"] == shared.counts["seconds"]


def test_a_stage_finished_but_not_published_is_only_uploaded(address, machine):
    request = corpus_request(resolve_home(address))
    made = ensure(request)
    remote_home(address).withdraw("corpus", request.key)
    assert explain(request, find(request)).startswith("will run: finished on this machine")
    again = ensure(request)
    assert again.counts["seconds"] == made.counts["seconds"]  # a second building would take other seconds
    assert find(request).state == "intact"


def test_a_store_damaged_remotely_is_made_again_by_the_next_run(address, machine, objects_under):
    request = corpus_request(resolve_home(address))
    made = ensure(request)
    files = objects_under(address)
    path = next(path for path in files if path.endswith("corpus.json"))
    files[path].pipe_file(path, files[path].cat_file(path) + b" ")
    machine("second")
    assert find(request).state == "damaged"
    assert ensure(request).digest == made.digest
    assert find(request).state == "intact"


def test_an_input_that_is_gone_is_named(address, machine):
    home = resolve_home(address)
    corpus = ensure(corpus_request(home))
    request = request_for("ridge", pin_device(load_study("smoke")), home, {"assets": {}, "corpus": corpus})
    discard_store(home, "corpus", corpus.key)
    with pytest.raises(ArtifactError, match=rf"ridge needs {address}/corpus/.*gone"):
        ensure(request)

"""The cost stage on a tiny study: the curve repeats what the evaluation finds, FLOPs add up, seconds stay outside."""

import dataclasses
import json

import numpy as np
import pytest

from dihal_core.bridges.arms import save_arms
from dihal_core.bridges.causality import random_arm
from dihal_core.corpus.windows import load_windows
from dihal_core.evaluation.cost import headline_windows, spread_windows
from dihal_core.profiles import load_study
from dihal_core.requests import make_request
from dihal_core.runner import ensure
from dihal_core.store import StageStore

LAYER = 2


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Settings, home, and records of corpus and of a replace store with random arms at layer 2."""
    home, settings = tmp_path_factory.mktemp("cost"), load_study("smoke")
    corpus = ensure(make_request("corpus", settings, {"assets": {}}, home))
    store = StageStore(home, "replace", "k")
    arms = {name: random_arm(settings.bridge, settings.backbone.hidden_size, 0, name) for name in ("bridge", "ridge")}
    save_arms(store.path / "arms", arms, settings.bridge, LAYER)
    store.write_json("replace.json", {"layer": LAYER})
    return settings, home, {"assets": {}, "corpus": corpus, "replace": store.finalize({}, {}, None)}


def cost(inputs, **changes):
    settings, home, records = inputs
    settings = settings.model_copy(update={"cost": settings.cost.model_copy(update=changes)})
    record = ensure(make_request("cost", settings, records, home))
    return record, json.loads((record.path / "cost.json").read_bytes())


def test_the_curve_on_all_windows_is_what_the_evaluation_finds(inputs):
    settings, home, records = inputs
    _, found = cost(inputs, windows=1000)
    evaluation = ensure(make_request("evaluate", settings, records, home, "eval_wiki"))
    wanted = json.loads((evaluation.path / "evaluation.json").read_bytes())
    assert (found["set"], found["layer"], found["tokens"]) == ("eval_wiki", LAYER, wanted["tokens"])
    assert found["documents"] == wanted["documents"]
    one, arm = found["curve"]["1"], wanted["arms"]["bridge@1"]
    for name in ("kl", "nll", "ppl", "top1"):
        assert one[name]["value"] == pytest.approx(arm[name]["value"], rel=1e-4)
        assert one[name]["low"] <= one[name]["value"] <= one[name]["high"]
    assert found["teacher"]["ppl"]["value"] == pytest.approx(wanted["arms"]["teacher"]["ppl"]["value"], rel=1e-5)
    assert one["kl_difference"] is None
    gap = found["curve"]["2"]["kl"]["value"] - one["kl"]["value"]
    assert found["curve"]["2"]["kl_difference"]["value"] == pytest.approx(gap, abs=1e-9)


def test_flops_of_the_parts_add_up_and_steps_cost_more(inputs):
    flops = cost(inputs)[1]["flops_per_token"]
    assert flops["replaced blocks"] + flops["kept blocks"] + flops["head"] == pytest.approx(flops["backbone"], rel=0.01)
    assert flops["hybrid@1"] == flops["bridge@1"] + flops["kept blocks"] + flops["head"]
    assert flops["bridge@2"] > flops["bridge@1"] > 0


def test_seconds_are_in_the_record_with_their_spread_and_change_no_digest(inputs):
    settings, home, _ = inputs
    first, result = cost(inputs)
    seconds = first.counts["seconds_per_token"]
    for part in (
        "backbone",
        "replaced blocks",
        "bridge@1",
        "hybrid@2",
        "hybrid@1 / backbone",
        "bridge@1 / replaced blocks",
    ):
        assert 0 < seconds[part]["low"] <= seconds[part]["median"] <= seconds[part]["high"]
    assert "second" not in json.dumps(result)
    again = make_request("cost", settings, inputs[2], home)
    elsewhere = ensure(dataclasses.replace(again, home=str(home / "elsewhere")))
    assert elsewhere.digest == first.digest


def test_windows_are_of_different_documents_while_there_are_any(inputs):
    name, windows = headline_windows(inputs[2]["corpus"])
    assert name == "eval_wiki"
    assert len(windows) == len(load_windows(inputs[2]["corpus"], "eval_wiki"))
    documents = len(np.unique(windows.document_N))
    few = spread_windows(windows, documents)
    assert len(np.unique(windows.document_N[few])) == documents
    assert len(spread_windows(windows, 10_000)) == len(windows)
    assert list(few) == sorted(few)

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dihal_core.errors import ArtifactError, ConfigError
from dihal_core.requests import find
from dihal_core.runner import ensure
from dihal_core.training.sweep import control_layers

LOSSES = {"fvu", "fvu_without_outliers", "relative_mse", "raw_mse", "paper_bridge_loss", "kl", "nll"}
COSTS = {"parameters", "steps", "tokens", "flops"}


@pytest.fixture(scope="module")
def result(study, smoke):
    """The sweep of layer 1 of the smoke study."""
    from dihal_core.study import request_for

    home, records = study
    record = ensure(request_for("sweep", smoke, home, records, 1))
    return record, json.loads((record.path / "sweep.json").read_bytes())


def test_control_layers_are_spread_evenly_with_both_ends():
    assert control_layers(1, 29, 5) == (1, 8, 15, 22, 29)
    assert control_layers(1, 3, 5) == (1, 2, 3)
    assert control_layers(1, 29, 0) == ()
    assert control_layers(1, 29, 29) == tuple(range(1, 30))


def test_the_result_has_every_arm_every_loss_and_every_cost(result, smoke):
    _, sweep = result
    assert sweep["layer"] == 1
    assert set(sweep["arms"]) == {"bridge", "regressor", "ridge", "skip", "table"}
    for name, row in sweep["arms"].items():
        assert set(row) == LOSSES | COSTS
        trained = name in ("bridge", "regressor")
        assert (row["paper_bridge_loss"] is not None) == trained
        assert (row["steps"] > 0) == trained
        assert all(math.isfinite(row[loss]) for loss in LOSSES - {"paper_bridge_loss"})
    assert sweep["arms"]["bridge"]["steps"] == sweep["arms"]["regressor"]["steps"] == 4
    assert sweep["arms"]["bridge"]["tokens"] == sweep["arms"]["regressor"]["tokens"]
    assert set(sweep["objective"]["bridge"]) == {"diffusion", "reconstruction", "next_token", "distillation"}
    assert sweep["curve"][-1]["step"] == 4
    assert "seeds" not in sweep
    documents = sweep["per_document"]["bridge"]
    assert len(documents["document"]) == sweep["validation"]["documents"]
    assert sum(documents["sse"]) / sum(documents["sst"]) == pytest.approx(sweep["arms"]["bridge"]["fvu"])


def test_a_finished_store_holds_weights_and_results_but_no_checkpoint_and_no_times(result):
    record, _ = result
    names = {path.relative_to(record.path).as_posix() for path in record.path.rglob("*") if path.is_file()}
    assert {"sweep.json", "training.json", "arms/arms.json", "arms/bridge.safetensors"} <= names
    assert not any("checkpoint" in name for name in names)
    text = (record.path / "sweep.json").read_text() + (record.path / "training.json").read_text()
    assert "seconds" not in text
    assert str(record.path.parent) not in text
    assert set(record.counts["parts"]) == {"fit", "train", "measure"}


def test_layers_side_by_side_give_the_bytes_of_one_after_the_other(request_in, smoke):
    apart = [ensure(request_in("sweep", smoke, layer, "apart")).digest for layer in (3, 2)]
    with ThreadPoolExecutor(2) as pool:
        requests = [request_in("sweep", smoke, layer, "together") for layer in (3, 2)]
        together = [record.digest for record in pool.map(ensure, requests)]
    assert apart == together


@pytest.mark.parametrize("call", [2, 4, 6, 7])
def test_a_killed_layer_resumes_to_the_same_bytes(result, request_in, smoke, stop_at, call):
    Stopped, listener = stop_at
    request = request_in("sweep", smoke, 1, f"stopped-{call}")
    with pytest.raises(Stopped):
        ensure(request, listener(call))
    assert find(request).state == "partial"
    assert ensure(request).digest == result[0].digest


def test_recomputed_targets_give_nearly_the_losses_of_stored_ones(result, request_in, smoke):
    """Layer states are stored in bfloat16, so the last digits differ."""
    recompute = smoke.model_copy(update={"activations": smoke.activations.model_copy(update={"whole_sequences": 0})})
    record = ensure(request_in("sweep", recompute, 1, "recompute"))
    fresh = json.loads((record.path / "sweep.json").read_bytes())["arms"]
    for name in ("bridge", "ridge"):
        assert fresh[name]["fvu"] == pytest.approx(result[1]["arms"][name]["fvu"], rel=0.02)


@pytest.mark.parametrize("layer", [0, 4, 99])
def test_a_layer_no_bridge_can_enter_is_refused(request_in, smoke, layer):
    with pytest.raises(ConfigError, match=f"layer {layer} is outside 1..3"):
        ensure(request_in("sweep", smoke, layer))


def test_states_of_another_backbone_are_refused(request_in, smoke, tmp_path):
    odd = smoke.model_copy(update={"backbone": smoke.backbone.model_copy(update={"identifier": "another"})})
    with pytest.raises(
        ArtifactError, match=r"made with another backbone.*identifier 'random-llama-tiny' \(here 'another'\)"
    ):
        ensure(request_in("sweep", odd, 1))


@pytest.fixture(scope="module")
def three_seeds(smoke):
    """The smoke study with three trainings per layer."""
    return smoke.model_copy(update={"sweep": smoke.sweep.model_copy(update={"seeds": 3})})


def test_further_seeds_add_rows_and_change_no_number_of_the_first(result, request_in, three_seeds):
    record = ensure(request_in("sweep", three_seeds, 1))
    sweep = json.loads((record.path / "sweep.json").read_bytes())
    seeds = sweep.pop("seeds")
    flags = [flag for flag in sweep.pop("flags") if ", seed " not in flag]
    alone = dict(result[1])
    assert flags == alone.pop("flags")
    assert sweep == alone
    assert [block["seed"] for block in seeds] == [0, 1, 2]
    assert seeds[0]["arms"] == {name: sweep["arms"][name] for name in ("bridge", "regressor")}
    assert len({block["arms"]["bridge"]["fvu"] for block in seeds}) == 3
    assert len({block["arms"]["bridge"]["tokens"] for block in seeds}) <= 3
    for block in seeds:
        assert set(block["arms"]["bridge"]) == LOSSES | COSTS
        assert block["improves_on_ridge"] == (block["arms"]["bridge"]["fvu"] < sweep["arms"]["ridge"]["fvu"])
        assert block["per_document"]["bridge"]["sst"] == sweep["per_document"]["ridge"]["sst"]
    names = {path.relative_to(record.path).as_posix() for path in record.path.rglob("*") if path.is_file()}
    assert {"seeds/1/arms/bridge.safetensors", "seeds/2/training.json", "commits/trained-2.json"} <= names
    assert not any("checkpoint" in name for name in names)


@pytest.mark.parametrize(("call", "trained"), [(4, 0), (9, 1), (13, 2)])
def test_a_kill_loses_no_more_than_one_seed(request_in, three_seeds, stop_at, call, trained):
    straight = ensure(request_in("sweep", three_seeds, 1, "straight")).digest
    Stopped, listener = stop_at
    request = request_in("sweep", three_seeds, 1, f"killed-{call}")
    with pytest.raises(Stopped):
        ensure(request, listener(call))
    partial = Path(request.home) / request.stage / f"{request.key}.partial"
    assert len(list((partial / "commits").glob("trained*.json"))) == trained
    assert ensure(request).digest == straight


def test_the_ridge_map_on_one_token_stands_beside_the_arms_and_moves_none(result, study, smoke):
    from dihal_core.study import request_for

    home, records = study
    settings = smoke.model_copy(update={"sweep": smoke.sweep.model_copy(update={"ridge_1": True})})
    record = ensure(request_for("sweep", settings, home, records, 1))
    sweep = json.loads((record.path / "sweep.json").read_bytes())
    narrow = sweep["arms"].pop("ridge-1")
    sweep["per_document"].pop("ridge-1")
    assert sweep == result[1]
    assert narrow["steps"] == 0
    assert sweep["arms"]["ridge"]["fvu"] != narrow["fvu"] < sweep["arms"]["skip"]["fvu"]

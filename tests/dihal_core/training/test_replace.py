import json

import numpy as np
import pytest
import torch

from dihal_core.bridges.arms import load_arms
from dihal_core.errors import ConfigError
from dihal_core.requests import find
from dihal_core.runner import ensure
from dihal_core.training.replace import looked_at


@pytest.fixture(scope="module")
def finished(study, smoke):
    """The full training of the smoke study at layer 2."""
    from dihal_core.requests import make_request
    from dihal_core.stages import STAGES

    home, records = study
    inputs = {name: records[name] for name in STAGES["replace"].inputs}
    record = ensure(make_request("replace", smoke, inputs, home, None, {"layer": 2}))
    return record, json.loads((record.path / "replace.json").read_bytes())


def test_the_result_has_arms_curves_and_validation(finished, smoke):
    _, result = finished
    assert result["layer"] == 2
    assert set(result["arms"]) == {"bridge", "regressor", "ridge", "skip"}
    for name in ("bridge", "regressor"):
        assert result["arms"][name]["steps"] == 6
        assert result["curve"][name][-1]["step"] == 6
        assert [point["step"] for point in result["validation_curve"][name]] == [2, 4, 6]
        assert result["validation_curve"][name][-1]["fvu"] == pytest.approx(result["arms"][name]["fvu"], rel=1e-12)
    assert result["arms"]["ridge"]["steps"] == 0
    assert result["validation"]["windows"] >= 1
    assert result["validation"]["windows"] + result["train"]["windows"] == smoke.replace.num_sequences


def test_looks_on_the_way_can_be_bounded_to_some_validation_windows(finished, request_in, smoke):
    assert "curve_windows" not in finished[1]["validation"]
    bounded = smoke.replace.model_copy(update={"validation_fraction": 0.4, "look_windows": 2})
    record = ensure(request_in("replace", smoke.model_copy(update={"replace": bounded}), values={"layer": 2}))
    found = json.loads((record.path / "replace.json").read_bytes())
    assert found["validation"]["curve_windows"] == 2 < found["validation"]["windows"]
    assert [point["step"] for point in found["validation_curve"]["bridge"]] == [2, 4, 6]
    assert found["validation_curve"]["bridge"][-1]["fvu"] != found["arms"]["bridge"]["fvu"]
    assert looked_at(np.arange(9), 3).tolist() == [0, 4, 8]
    assert looked_at(np.arange(9), None).tolist() == looked_at(np.arange(9), 20).tolist() == list(range(9))


def test_the_saved_arms_predict(finished, smoke, backbone):
    record, _ = finished
    arms = load_arms(record.path / "arms")
    embeddings = torch.randn(2, 12, smoke.backbone.hidden_size)
    for arm in arms.values():
        assert torch.isfinite(arm.predict(embeddings, steps=2)).all()


@pytest.mark.parametrize("call", [1, 4, 6, 8, 9])
def test_a_killed_training_resumes_to_the_same_bytes(finished, request_in, smoke, stop_at, call):
    Stopped, listener = stop_at
    request = request_in("replace", smoke, values={"layer": 2}, home=f"stopped-{call}")
    with pytest.raises(Stopped):
        ensure(request, listener(call))
    assert find(request).state == "partial"
    record = ensure(request)
    assert record.digest == finished[0].digest
    assert not list(record.path.rglob("*checkpoint*"))


def test_the_regressor_can_be_left_out(request_in, smoke):
    settings = smoke.model_copy(update={"replace": smoke.replace.model_copy(update={"regressor": False})})
    record = ensure(request_in("replace", settings, values={"layer": 2}))
    assert set(load_arms(record.path / "arms")) == {"bridge", "ridge", "skip"}


def test_the_ridge_map_of_all_windows_stands_beside_the_arms_and_moves_none(finished, request_in, smoke):
    """One that saw no more than the frozen base is the frozen base."""
    settings = smoke.model_copy(update={"replace": smoke.replace.model_copy(update={"ridge_all": True})})
    record = ensure(request_in("replace", settings, values={"layer": 2}))
    found = json.loads((record.path / "replace.json").read_bytes())
    wide = found["arms"].pop("ridge-all")
    assert found == finished[1]
    assert wide["steps"] == 0
    assert wide["fvu"] == pytest.approx(found["arms"]["ridge"]["fvu"], rel=1e-3)
    assert "ridge-all" in load_arms(record.path / "arms")


def test_the_ridge_map_on_one_token_stands_beside_the_arms_and_is_kept(finished, request_in, smoke):
    settings = smoke.model_copy(update={"replace": smoke.replace.model_copy(update={"ridge_1": True})})
    record = ensure(request_in("replace", settings, values={"layer": 2}))
    found = json.loads((record.path / "replace.json").read_bytes())
    narrow = found["arms"].pop("ridge-1")
    assert found == finished[1]
    assert narrow["fvu"] != found["arms"]["ridge"]["fvu"]
    assert load_arms(record.path / "arms")["ridge-1"].map.tokens == 1


def test_a_base_of_few_windows_is_weaker_than_the_ridge_map_of_all(request_in, smoke):
    settings = smoke.model_copy(
        update={
            "replace": smoke.replace.model_copy(update={"ridge_all": True}),
            "bridge": smoke.bridge.model_copy(update={"ridge_windows": 8}),
        }
    )
    record = ensure(request_in("replace", settings, values={"layer": 2}))
    found = json.loads((record.path / "replace.json").read_bytes())
    assert found["arms"]["ridge-all"]["fvu"] < 0.9 * found["arms"]["ridge"]["fvu"]


def test_the_per_token_table_stands_beside_the_arms_and_moves_none(finished, request_in, smoke):
    settings = smoke.model_copy(update={"replace": smoke.replace.model_copy(update={"table": True})})
    record = ensure(request_in("replace", settings, values={"layer": 2}))
    found = json.loads((record.path / "replace.json").read_bytes())
    table = found["arms"].pop("table")
    assert found == finished[1]
    assert 0 < table["fvu"] < found["arms"]["skip"]["fvu"]
    assert table["steps"] == 0
    loaded = load_arms(record.path / "arms")["table"]
    assert len(loaded.key_S) > 20


@pytest.mark.parametrize("layer", [0, 4, None, "2"])
def test_a_layer_no_bridge_can_enter_is_refused(request_in, smoke, layer):
    with pytest.raises(ConfigError, match=r"is outside 1\.\.3"):
        ensure(request_in("replace", smoke, values={"layer": layer}))

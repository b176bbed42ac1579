import json

import pytest

from dihal_core.bridges.ablation_arms import ABLATION_ARMS, ablation_units, row_name
from dihal_core.requests import find
from dihal_core.runner import ensure
from dihal_core.study import units_of

TRAINED = [name for name, spec in ABLATION_ARMS.items() if spec.trained]


@pytest.fixture(scope="module")
def made(study, smoke):
    """Every unit of the smoke comparison: `{unit: (record, result)}`."""
    from dihal_core.requests import make_request

    home, records = study
    inputs = {"assets": records["assets"], "corpus": records["corpus"]}
    found = {}
    for unit in units_of("ablate", smoke):
        record = ensure(make_request("ablate", smoke, inputs, home, unit))
        found[unit] = (record, json.loads((record.path / "ablate.json").read_bytes()))
    return found


def test_every_registered_arm_has_a_result_per_seed(made, smoke):
    assert tuple(made) == ablation_units(smoke.ablation)
    for unit, (record, result) in made.items():
        spec = ABLATION_ARMS[result["arm"]]
        assert unit == f"{result['arm']}-s{result['seed']}"
        steps = smoke.ablation.sampling_steps if spec.diffusion else (1,)
        rows = {row_name(result["arm"], count) for count in steps}
        assert set(result["per_document"]["arms"]) == rows | {"teacher"}
        assert list(result["forward_flops"]) == [str(count) for count in steps]
        assert result["leak"] == 0.0
        assert bool(record.counts["training"]) == spec.trained
        assert not list(record.path.rglob("*checkpoint*"))


def test_trained_arms_have_one_budget_and_the_same_evidence(made):
    budgets = {(result["steps"], result["tokens"]) for _, result in made.values() if result["steps"]}
    assert len(budgets) == len({result["seed"] for _, result in made.values()})  # another order, other padding
    by_seed = {}
    for _, result in made.values():
        if result["steps"]:
            by_seed.setdefault(result["seed"], set()).add((result["steps"], result["tokens"]))
    assert all(len(found) == 1 for found in by_seed.values())
    assert len({json.dumps(result["per_document"]["tokens"]) for _, result in made.values()}) == 1
    teachers = [result["per_document"]["arms"]["teacher"]["nll"] for _, result in made.values()]
    assert all(nll == teachers[0] for nll in teachers)


def test_a_seed_changes_the_training_and_not_the_validation_windows(made):
    first, second = made["mlp-s0"][1], made["mlp-s1"][1]
    assert first["fvu"] != second["fvu"]
    assert first["validation"] == second["validation"]
    assert first["train"] == second["train"]


def test_more_sampler_steps_cost_more_and_controls_cost_less_than_the_bridge(made):
    flops = {result["arm"]: result["forward_flops"] for _, result in made.values()}
    assert flops["mlp"]["2"] > flops["mlp"]["1"] > flops["ridge-3"]["1"] > flops["ridge-1"]["1"] > 0
    assert flops["skip"]["1"] == 0


def test_closed_form_arms_say_how_many_numbers_they_were_fitted_with(made, smoke):
    width = smoke.backbone.hidden_size
    assert made["ridge-3-s0"][1]["parameters"] == (3 * width + 1) * width
    assert made["ridge-1-s0"][1]["parameters"] == (width + 1) * width
    assert made["skip-s0"][1]["parameters"] == 0


def test_the_ridge_of_all_windows_has_seen_what_the_trained_arms_have(made, smoke):
    """Fewer training windows than the base may take: base and map of all windows are then one."""
    few, everything = (made[f"{name}-s0"][1] for name in ("ridge-3", "ridge-3-all"))
    assert everything["train"] == few["train"]
    assert everything["parameters"] == few["parameters"]
    assert everything["fvu"] == pytest.approx(few["fvu"], rel=1e-3)


def test_a_base_of_few_windows_is_told_from_the_ridge_of_all(request_in, smoke):
    bridge = smoke.bridge.model_copy(update={"ridge_windows": 8})
    settings = smoke.model_copy(update={"bridge": bridge})
    found = {}
    for name in ("ridge-3", "ridge-3-all"):
        record = ensure(request_in("ablate", settings, unit=f"{name}-s0"))
        found[name] = json.loads((record.path / "ablate.json").read_bytes())
    assert found["ridge-3-all"]["train"]["fitted_states"] > 2 * found["ridge-3"]["train"]["fitted_states"]
    assert found["ridge-3-all"]["fvu"] < found["ridge-3"]["fvu"]
    assert found["ridge-3-all"]["leak"] == 0.0


@pytest.mark.parametrize("call", [4, 9])
def test_a_killed_unit_resumes_to_the_same_bytes(made, request_in, smoke, stop_at, call):
    Stopped, listener = stop_at
    request = request_in("ablate", smoke, unit="mlp-s1", home=f"stopped-{call}")
    with pytest.raises(Stopped):
        ensure(request, listener(call))
    assert find(request).state == "partial"
    record = ensure(request)
    assert record.digest == made["mlp-s1"][0].digest
    assert record.counts["training"]["wall_seconds"] > 0


def test_the_number_of_seeds_and_the_choice_of_arms_redo_no_unit(request_in, smoke):
    wider = smoke.model_copy(update={"ablation": smoke.ablation.model_copy(update={"seeds": 9, "arms": ("mlp",)})})
    assert request_in("ablate", smoke, unit="mlp-s0").key == request_in("ablate", wider, unit="mlp-s0").key

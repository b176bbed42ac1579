"""Does the score predict the loss: known answers, gaps, and a selection that losses cannot move."""

import copy
import json

import numpy as np
import pytest

from dihal_core.contract import SettingsView, StageContext
from dihal_core.geometry.agreement import LOSSES, build_agreement, compare, depth_rule
from dihal_core.geometry.words import _beyond
from dihal_core.progress import silent
from dihal_core.stages import STAGES
from dihal_core.store import StageStore

NUM_LAYERS = 13
CANDIDATES = list(range(1, 13))


def make_score(values, **variants):
    """A score record with the given S per candidate layer."""
    scores = dict(zip(CANDIDATES, map(float, values), strict=True))
    depth = {layer: -float(layer) for layer in CANDIDATES}
    norm = {layer: -np.log(10.0 + layer + 5 * (layer % 3)) for layer in CANDIDATES}
    columns = {"raw": scores, "depth": depth, "minus_log_norm": norm, **variants}
    return {
        "candidate_layers": CANDIDATES,
        "selected_layer": max(CANDIDATES, key=lambda layer: (scores[layer], -layer)),
        "layers": [{"layer": 0, "candidate": False, "score": None}]
        + [
            {"layer": k, "candidate": True, "score": {"value": v, "low": None, "high": None}} for k, v in scores.items()
        ],
        "variants": {
            name: {"scores": {str(k): v for k, v in column.items()}, "selected": 1} for name, column in columns.items()
        },
    }


def make_sweep(losses, ridge=None):
    ridge = ridge if ridge is not None else np.random.default_rng(5).uniform(0.2, 0.9, len(losses))
    return {
        layer: {
            "arms": {
                "bridge": {name: float(loss) for name in LOSSES} | {"kl": None if layer % 2 else float(loss)},
                "ridge": {"fvu": float(fvu)},
            }
        }
        for layer, loss, fvu in zip(CANDIDATES, losses, ridge, strict=True)
    }


def run(score, sweep, replicates=None, **changes):
    replicate_BL = np.zeros((0, 12)) if replicates is None else replicates
    arguments = {"num_layers": NUM_LAYERS, "replicates": 300, "permutations": 300, "confidence": 0.95, "seed": 0}
    return compare(score, replicate_BL, sweep, **{**arguments, **changes})


NOISE = np.random.default_rng(3).standard_normal(12)


def test_a_score_that_orders_layers_as_minus_the_loss_is_perfect():
    found = run(make_score(-NOISE), make_sweep(np.exp(NOISE)))["losses"]["fvu"]
    assert found["spearman"]["value"] == pytest.approx(1.0)
    assert found["kendall"]["value"] == pytest.approx(1.0)
    assert found["spearman"]["low"] == pytest.approx(1.0)
    assert found["spearman"]["p"] == pytest.approx(1 / 301, abs=4e-3)
    assert found["best_predicted"] == found["best_observed"] == 1 + int(np.argmin(NOISE))
    assert found["rank_gap"] == 0
    assert found["regret"] == {"1": 0.0, "3": 0.0, "5": 0.0}
    assert found["predictors"]["raw"]["spearman"] == pytest.approx(1.0)


def test_a_reversed_score_is_minus_one_with_the_largest_gap_and_regret():
    losses = np.exp(NOISE)
    found = run(make_score(NOISE), make_sweep(losses))["losses"]["fvu"]
    assert found["spearman"]["value"] == pytest.approx(-1.0)
    assert found["rank_gap"] == 11
    ordered = np.sort(losses)
    assert found["regret"]["1"] == pytest.approx(ordered[-1] - ordered[0])
    assert found["regret"]["3"] == pytest.approx(ordered[-3] - ordered[0])


def test_an_unrelated_score_has_an_interval_around_zero_and_no_small_p():
    rng = np.random.default_rng(8)
    found = run(make_score(rng.standard_normal(12)), make_sweep(rng.lognormal(size=12)))["losses"]["fvu"]["spearman"]
    assert found["low"] < 0 < found["high"]
    assert found["low"] < found["value"] < found["high"]
    assert found["p"] > 0.05


def test_a_score_that_is_only_depth_adds_nothing_beyond_depth():
    layers = np.arange(1.0, 13.0)
    wobble = np.random.default_rng(4).standard_normal(12)
    result = run(make_score(-layers + 0.9 * wobble), make_sweep(layers + 0.9 * np.roll(wobble, 5)))
    found = result["losses"]["fvu"]
    assert found["spearman"]["value"] > 0.8
    assert found["partial"]["given_depth"]["low"] < 0 < found["partial"]["given_depth"]["high"]
    assert any(
        text.startswith("The score adds nothing beyond depth: the interval of the partial correlation covers 0")
        for text in result["sentences"]
    )
    assert any("depth alone" in text and "predictors" in text for text in result["sentences"])


def test_a_score_that_knows_more_than_depth_is_credited():
    layers = np.arange(1.0, 13.0)
    bump = 6 * np.random.default_rng(9).standard_normal(12)
    result = run(make_score(-layers + bump), make_sweep(50 + layers - bump))
    given_depth = result["losses"]["fvu"]["partial"]["given_depth"]
    assert given_depth["value"] == pytest.approx(1.0)
    assert given_depth["low"] > 0
    assert given_depth["p"] < 0.02
    assert any(text.startswith("The score adds to depth") for text in result["sentences"])


def test_a_score_that_equals_depth_leaves_nothing_to_say_and_says_so():
    result = run(make_score(-np.arange(1.0, 13.0)), make_sweep(np.exp(NOISE)))
    assert result["losses"]["fvu"]["partial"]["given_depth"] == {"value": None, "low": None, "high": None, "p": None}
    assert any("beyond depth cannot be said" in text for text in result["sentences"])


def test_uncertain_documents_widen_the_interval():
    score, sweep = make_score(-NOISE), make_sweep(np.exp(NOISE))
    sure = run(score, sweep, replicates=np.tile(-NOISE, (50, 1)))["losses"]["fvu"]["spearman"]
    shaken = -NOISE + np.random.default_rng(1).standard_normal((50, 12))
    unsure = run(score, sweep, replicates=shaken)["losses"]["fvu"]["spearman"]
    assert sure["low"] == pytest.approx(1.0)
    assert unsure["low"] < 0.8
    assert unsure["value"] == sure["value"]


def test_a_regret_over_all_trained_layers_is_absent_and_said_to_be():
    """Only the three layers with the highest score were trained: regret@3 and regret@5 would be 0 whatever the score."""
    score, sweep = make_score(-NOISE), make_sweep(np.exp(NOISE))
    best = sorted(CANDIDATES, key=lambda layer: NOISE[layer - 1])[:3]
    result = run(score, {layer: sweep[layer] for layer in best})
    found = result["losses"]["fvu"]
    assert found["regret"] == {"1": 0.0, "3": None, "5": None}
    assert found["regret_layers"]["1"] == {"with_loss": 1, "without_loss": 0, "all_with_loss": False}
    assert found["regret_layers"]["5"] == {"with_loss": 3, "without_loss": 2, "all_with_loss": True}
    assert any(
        text.startswith("Regret is not given for the top 3 and 5 by score: they hold all 3 layers that have a loss")
        for text in result["sentences"]
    )


def test_layers_without_a_loss_among_the_top_are_counted():
    score, sweep = make_score(-NOISE), make_sweep(np.exp(NOISE))
    second = sorted(CANDIDATES, key=lambda layer: NOISE[layer - 1])[1]
    del sweep[second]
    result = run(score, sweep)
    assert result["losses"]["fvu"]["regret"] == {"1": 0.0, "3": 0.0, "5": 0.0}
    assert result["losses"]["fvu"]["regret_layers"]["3"] == {"with_loss": 2, "without_loss": 1, "all_with_loss": False}
    told = [text for text in result["sentences"] if text.startswith("Regret@")]
    assert told == [f"Regret@{k} leaves out 1 of its {k} layers: they have no loss." for k in (3, 5)]
    assert not any(text.startswith("Regret@") for text in run(score, make_sweep(np.exp(NOISE)))["sentences"])


def test_the_interval_of_a_correlation_contains_it_also_where_noise_lowers_every_resample():
    shaken = -NOISE + 3.0 * np.random.default_rng(1).standard_normal((50, 12))
    found = run(make_score(-NOISE), make_sweep(np.exp(NOISE)), replicates=shaken)["losses"]["fvu"]
    for block in (found["spearman"], found["kendall"], *found["partial"].values()):
        assert block["low"] <= block["value"] <= block["high"]
    assert found["spearman"]["high"] == found["spearman"]["value"] == pytest.approx(1.0)
    assert found["spearman"]["low"] < 0.3


def test_losses_cannot_move_the_selected_layer():
    """The selection is sealed: whatever the losses, the score's record alone says which layer it is."""
    score = make_score(-NOISE)
    sealed = copy.deepcopy(score)
    picks = set()
    for seed in range(5):
        result = run(score, make_sweep(np.random.default_rng(seed).lognormal(size=12)))
        picks |= {block["best_predicted"] for block in result["losses"].values()}
        picks.add(result["rules"]["score"]["layer"])
    picks |= {run(score, {k: v for k, v in make_sweep(NOISE**2).items() if k > 6})["losses"]["fvu"]["best_predicted"]}
    assert picks == {score["selected_layer"]}
    assert score == sealed


def test_missing_layers_are_named_and_the_others_compared():
    sweep = make_sweep(np.exp(NOISE))
    del sweep[4], sweep[5], sweep[9]
    result = run(make_score(-NOISE), sweep)
    assert result["missing_layers"] == [4, 5, 9]
    assert result["losses"]["fvu"]["layers"] == 9
    assert result["losses"]["fvu"]["spearman"]["value"] == pytest.approx(1.0)
    assert [point["layer"] for point in result["points"]] == [1, 2, 3, 6, 7, 8, 10, 11, 12]
    assert result["sentences"][0].startswith("No bridge was trained at layers 4 to 5, 9")
    assert any(
        sentence.endswith("has the lowest loss of the 9 layers that were trained.") for sentence in result["sentences"]
    )


def test_a_missing_selected_layer_has_no_rank():
    score, sweep = make_score(-NOISE), make_sweep(np.exp(NOISE))
    del sweep[score["selected_layer"]]
    result = run(score, sweep)
    found = result["losses"]["fvu"]
    assert found["rank_gap"] is None
    assert found["regret"]["1"] is None
    assert found["regret"]["3"] is not None
    assert result["rules"]["score"] == {"layer": score["selected_layer"], "loss": None, "rank": None}


@pytest.mark.parametrize("left", [0, 1, 2])
def test_fewer_than_three_layers_give_nulls_and_a_sentence(left):
    sweep = dict(list(make_sweep(np.exp(NOISE)).items())[:left])
    result = run(make_score(-NOISE), sweep)
    assert result["losses"]["fvu"]["spearman"] == {"value": None, "low": None, "high": None, "p": None}
    assert result["losses"]["fvu"]["predictors"]["depth"]["spearman"] is None
    assert any("cannot be said: fewer than three layers" in text for text in result["sentences"])
    json.dumps(result, allow_nan=False)


def test_a_loss_known_at_some_layers_is_compared_there():
    found = run(make_score(-NOISE), make_sweep(np.exp(NOISE)))["losses"]["kl"]
    assert found["layers"] == 6
    assert found["spearman"]["value"] == pytest.approx(1.0)
    assert found["best_observed"] % 2 == 0


def test_constant_losses_have_no_correlation_and_no_nan():
    result = run(make_score(-NOISE), make_sweep(np.ones(12)))
    found = result["losses"]["fvu"]
    assert found["spearman"]["value"] is None
    assert found["best_observed"] == 1
    assert found["rank_gap"] == 0
    json.dumps(result, allow_nan=False)


def test_ridge_is_a_predictor_and_a_control():
    losses = np.exp(NOISE)
    result = run(make_score(np.random.default_rng(2).standard_normal(12)), make_sweep(losses, ridge=losses))
    found = result["losses"]["fvu"]
    assert found["predictors"]["ridge_r2"]["spearman"] == pytest.approx(1.0)
    assert found["predictors"]["ridge_r2"]["rank_gap"] == 0
    assert found["partial"]["given_ridge"]["value"] is None  # nothing of the loss is left
    assert any("R^2 of a ridge map" in text and "Better predictors" in text for text in result["sentences"])


def test_depth_rules_are_those_of_the_design():
    assert [depth_rule(30, share) for share in (1 / 6, 1 / 2, 5 / 6)] == [5, 15, 24]
    assert [depth_rule(32, share) for share in (1 / 6, 1 / 2, 5 / 6)] == [5, 16, 26]
    assert depth_rule(2, 1 / 6) == 1
    rules = run(make_score(-NOISE), make_sweep(np.arange(1.0, 13.0)))["rules"]
    assert rules["early"] == {"layer": 2, "loss": 2.0, "rank": 2}
    assert rules["late"] == {"layer": 10, "loss": 10.0, "rank": 10}


def test_variants_without_scores_are_nulls():
    score = make_score(-NOISE)
    score["variants"]["unit_trace_without_outliers"] = {"scores": None, "selected": None}
    found = run(score, make_sweep(np.exp(NOISE)))["losses"]["fvu"]["predictors"]["unit_trace_without_outliers"]
    assert found == {"spearman": None, "kendall": None, "selected": None, "rank_gap": None}


def test_the_stage_reads_records_and_writes_the_comparison(script, score_record, tmp_path):
    study = script.settings()
    sweep = {}
    for layer in (1, 2, 4):
        store = StageStore(tmp_path, "sweep", f"L{layer:02d}")
        arm = dict.fromkeys(LOSSES, 0.1 * layer)
        store.write_json("sweep.json", {"layer": layer, "arms": {"bridge": arm, "ridge": {"fvu": 0.2}, "skip": None}})
        sweep[layer] = store.finalize({}, {}, layer)
    digests = []
    for name in ("a", "b"):
        store = StageStore(tmp_path / name, "agreement", "k")
        view = SettingsView(study, "agreement", STAGES["agreement"].reads)
        context = StageContext(view, None, {"score": score_record, "sweep": sweep}, {}, store, silent)
        counts = build_agreement(context)
        assert counts == {"layers": 3, "missing": 1}
        digests.append(store.finalize(counts, {}, None))
    result = json.loads((digests[0].path / "agreement.json").read_bytes())
    selected = json.loads((score_record.path / "score.json").read_bytes())["selected_layer"]
    assert result["losses"]["fvu"]["best_predicted"] == selected
    assert result["missing_layers"] == [3]
    assert set(result["losses"]) == set(LOSSES)
    assert set(result["losses"]["fvu"]["predictors"]) >= {"raw", "depth", "minus_log_norm", "ridge_r2", "unit_trace"}
    assert digests[0].digest == digests[1].digest


def test_a_partial_correlation_without_a_small_p_settles_nothing():
    block = {
        "partial": {
            "given_depth": {"value": -0.36, "low": -0.56, "high": -0.002, "p": 0.077},
            "given_log_norm": {"value": 0.6, "low": 0.2, "high": 0.8, "p": 0.001},
            "given_ridge": {"value": 0.1, "low": -0.2, "high": 0.3, "p": 0.6},
        },
        "predictors": {},
    }
    depth, norm, ridge = _beyond(block)
    assert depth.startswith("Whether the score tells anything beyond depth is not settled")
    assert norm.startswith("The score adds to the norm")
    assert ridge.startswith("The score adds nothing beyond a ridge map")


def test_several_seeds_get_a_block_of_their_own_and_move_no_other():
    score, sweep = make_score(-NOISE), make_sweep(np.exp(NOISE))
    alone = run(score, sweep)
    assert "seeds" not in alone
    for layer, block in sweep.items():
        fvu = block["arms"]["bridge"]["fvu"]
        part = {"document": [4, 7], "sse": [fvu, 2 * fvu], "sst": [1.0, 2.0]}
        block["seeds"] = [
            {
                "seed": index,
                "arms": {"bridge": {**block["arms"]["bridge"], "fvu": fvu * (1 + 0.001 * index)}},
                "per_document": {"bridge": part},
                "improves_on_ridge": layer != 4,
            }
            for index in range(2)
        ]
    together = run(score, sweep)
    seeds = together.pop("seeds")
    assert together == alone
    assert seeds["losses"]["fvu"]["score"]["value"] == pytest.approx(1.0)
    assert seeds["losses"]["fvu"]["between_seeds"]["lowest"] == pytest.approx(1.0)
    assert [item["layer"] for item in seeds["ridges_own"]] == [4, 4]

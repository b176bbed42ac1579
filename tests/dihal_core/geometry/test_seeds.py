"""Several seeds: agreement between them and with the score, with known answers."""

import numpy as np
import pytest

from dihal_core.geometry.seeds import seed_agreement

LAYERS = list(range(1, 11))
DEPTH = np.arange(10) / 10 + 0.2


def block(layer, losses, ridge=9.0, documents=12, kl=True):
    """A layer whose trainings have the given FVU in every document."""
    rng = np.random.default_rng(layer)
    sst = rng.uniform(5, 10, documents)

    def seed(index, fvu):
        return {
            "seed": index,
            "arms": {"bridge": {"fvu": float(fvu), "kl": float(2 * fvu) if kl else None}},
            "per_document": {
                "bridge": {"document": list(range(documents)), "sse": (fvu * sst).tolist(), "sst": sst.tolist()}
            },
            "improves_on_ridge": bool(fvu < ridge),
        }

    return {"seeds": [seed(index, fvu) for index, fvu in enumerate(losses)]}


def sweep_of(losses_SP, **more):
    return {layer: block(layer, column, **more) for layer, column in zip(LAYERS, np.transpose(losses_SP), strict=True)}


def run(sweep, scores=-DEPTH, replicates=200, documents=None):
    replicate_BL = np.zeros((0, 10)) if documents is None else documents
    scores = dict(zip(LAYERS, scores, strict=True))
    return seed_agreement(sweep, scores, replicate_BL, LAYERS, ("fvu", "kl"), replicates, 0.9, seed=0)


def test_one_seed_says_nothing():
    assert run({layer: {"arms": {}} for layer in LAYERS}) is None
    assert run(sweep_of([DEPTH])) is None
    assert run({}) is None


def test_seeds_that_rank_alike_agree_perfectly_whatever_their_level():
    found = run(sweep_of([DEPTH, 1.5 * DEPTH, DEPTH + 0.3]))
    assert found["count"] == 3
    between = found["losses"]["fvu"]["between_seeds"]
    assert between["value"] == between["lowest"] == between["low"] == between["high"] == pytest.approx(1.0)
    assert [pair["seeds"] for pair in between["pairs"]] == [[0, 1], [0, 2], [1, 2]]
    assert found["losses"]["fvu"]["best_observed"] == [1, 1, 1]
    score = found["losses"]["fvu"]["score"]
    assert score["per_seed"] == pytest.approx([1.0, 1.0, 1.0])
    assert (score["value"], score["low"], score["high"]) == pytest.approx((1.0, 1.0, 1.0))
    assert "rank 10 layers alike" in found["sentences"][0]


def test_a_seed_that_reverses_the_ranking_is_seen_in_every_figure():
    found = run(sweep_of([DEPTH, DEPTH, DEPTH[::-1]]))
    between = found["losses"]["fvu"]["between_seeds"]
    assert between["lowest"] == pytest.approx(-1.0)
    assert between["value"] == pytest.approx(-1 / 3)
    score = found["losses"]["fvu"]["score"]
    assert score["per_seed"] == pytest.approx([1.0, 1.0, -1.0])
    assert score["low"] == pytest.approx(-1.0)
    assert score["high"] == pytest.approx(1.0)
    assert "does not settle the ranking" in found["sentences"][0]


def test_spread_per_layer_is_that_of_the_seeds():
    found = run(sweep_of([DEPTH, DEPTH + 0.1, DEPTH + 0.2]))["losses"]["kl"]["layers"]["4"]
    values = 2 * (DEPTH[3] + np.array([0.0, 0.1, 0.2]))
    assert found["values"] == pytest.approx(values)
    assert found["mean"] == pytest.approx(values.mean())
    assert found["sd"] == pytest.approx(values.std(ddof=1))
    assert (found["low"], found["high"]) == pytest.approx((values.min(), values.max()))


def test_the_interval_grows_with_the_noise_between_documents_of_the_score():
    noisy = -DEPTH + np.random.default_rng(0).normal(0, 0.2, (300, 10))
    sweep = sweep_of([DEPTH, 1.1 * DEPTH])
    still = run(sweep)["losses"]["fvu"]["score"]
    moved = run(sweep, documents=noisy)["losses"]["fvu"]["score"]
    assert still["low"] == pytest.approx(1.0)
    assert moved["low"] < 0.95
    assert moved["value"] == still["value"]
    assert run(sweep, documents=noisy) == run(sweep, documents=noisy)


def test_the_interval_contains_its_value_also_where_noise_lowers_every_resample():
    noisy = -DEPTH + np.random.default_rng(0).normal(0, 3.0, (300, 10))
    found = run(sweep_of([DEPTH, 1.1 * DEPTH]), documents=noisy)["losses"]["fvu"]
    for figure in (found["score"], found["between_seeds"]):
        assert figure["low"] <= figure["value"] <= figure["high"]
    assert found["score"]["high"] == found["score"]["value"] == pytest.approx(1.0)


def test_layers_where_the_ridge_is_not_beaten_are_named_with_their_seeds():
    found = run(sweep_of([DEPTH, DEPTH + 0.05], ridge=1.02))
    assert found["ridges_own"] == [{"layer": 9, "seed": 1}, {"layer": 10, "seed": 0}, {"layer": 10, "seed": 1}]
    assert "In 3 of 20 trainings" in found["sentences"][-1]
    assert "(layers 9 to 10)" in found["sentences"][-1]


def test_losses_that_some_layer_lacks_and_layers_that_lack_a_seed_are_left_out():
    sweep = sweep_of([DEPTH, DEPTH])
    sweep[3] = block(3, [0.5, 0.5], kl=False)
    sweep[5] = block(5, [0.5])
    del sweep[6]
    found = run(sweep)
    assert found["missing_layers"] == [5, 6]
    assert sorted(map(int, found["losses"]["fvu"]["layers"])) == [1, 2, 3, 4, 7, 8, 9, 10]
    assert "3" not in found["losses"]["kl"]["layers"]


def test_two_layers_are_too_few_for_a_ranking():
    sweep = {layer: block(layer, [0.1 * layer, 0.2 * layer]) for layer in (1, 2)}
    found = run(sweep)
    assert found["losses"]["fvu"]["between_seeds"]["value"] is None
    assert "cannot be said" in found["sentences"][0]

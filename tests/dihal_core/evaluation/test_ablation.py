"""The comparison of architectures on invented sums per document: what is paired, averaged and refused."""

import math

import pytest

from dihal_core.errors import ArtifactError
from dihal_core.evaluation.ablation import compare_arms

TOKENS = [100, 300, 50, 250]


def result(arm: str, kl: list[float], seed: int = 0, steps: tuple[int, ...] = (1,), diffusion: bool = False) -> dict:
    """A result whose KL per token is `kl[d]` in document d, and whose NLL is 3 + that."""
    rows = {(f"{arm}@{count}" if diffusion else arm): count for count in steps}
    return {
        "arm": arm, "seed": seed, "layer": 1, "set": "eval_wiki", "conventions": {"kl": "nats"},
        "bridge": {"kind": "mlp"}, "parameters": 10, "steps": 4, "tokens": 1000, "flops": 5, "train": {"fitted_states": 700}, "fvu": 0.2 + 0.01 * seed,
        "forward_flops": {str(count): 100.0 * count for count in steps},
        "per_document": {
            "document": [3, 5, 8, 9], "tokens": TOKENS,
            "arms": {
                "teacher": {"nll": [3.0 * n for n in TOKENS]},
                **{
                    row: {
                        "nll": [(3.0 + k) * n for k, n in zip(kl, TOKENS, strict=True)],
                        "kl": [k * n for k, n in zip(kl, TOKENS, strict=True)],
                        "top1": [0.5 * n for n in TOKENS],
                    }
                    for row in rows
                },
            },
        },
    }  # fmt: skip


LOW, HIGH = [0.2, 0.25, 0.15, 0.2], [0.4, 0.5, 0.3, 0.4]


def rows_of(*results: dict) -> dict:
    found = compare_arms(results, 200, 0.95, seed=0)
    return {row["row"]: row for row in found["rows"]} | {"all": found}


def test_ratios_are_paired_over_documents():
    rows = rows_of(result("mlp", LOW, diffusion=True), result("ridge-3", HIGH))
    ratio = rows["mlp@1"]["kl_to_ridge"]
    assert ratio["value"] == pytest.approx(0.5)  # in every document, so in every resample too
    assert ratio["low"] == pytest.approx(0.5)
    assert ratio["high"] == pytest.approx(0.5)
    assert rows["ridge-3"]["kl_to_ridge"]["value"] == pytest.approx(1.0)
    assert rows["mlp@1"]["kl"]["low"] < rows["mlp@1"]["kl"]["value"] < rows["mlp@1"]["kl"]["high"]
    kl = rows["mlp@1"]["kl"]["value"]
    assert rows["mlp@1"]["ppl_to_teacher"]["value"] == pytest.approx(math.exp(kl))
    assert rows["mlp@1"]["ppl"]["value"] == pytest.approx(math.exp(3 + kl))
    assert rows["mlp@1"]["kl_difference"] is None
    assert rows["ridge-3"]["kl_difference"]["value"] == pytest.approx(kl)
    assert rows["ridge-3"]["kl_difference"]["low"] > 0
    assert rows["all"]["tokens"] == sum(TOKENS)
    assert rows["all"]["reference"] == "mlp@1"


def test_a_row_is_the_mean_over_its_seeds_and_their_spread_stands_beside_it():
    high = [2 * k for k in LOW]
    rows = rows_of(
        result("mlp", LOW, 0, (1, 4), True), result("mlp", high, 1, (1, 4), True), result("regressor", LOW, 1),
    )  # fmt: skip
    one = rows["mlp@1"]
    assert one["seeds"] == 2
    assert one["kl_seeds"]["values"][1] == pytest.approx(2 * one["kl_seeds"]["values"][0])
    assert one["kl"]["value"] == pytest.approx(sum(one["kl_seeds"]["values"]) / 2)
    assert (one["fvu"]["low"], one["fvu"]["high"]) == pytest.approx((0.2, 0.21))
    assert rows["mlp@4"]["fvu"] is None
    assert rows["regressor"]["seeds"] == 1
    assert (rows["regressor"]["seeds_below"], rows["regressor"]["seeds_compared"]) == (1, 1)  # seed 1 against seed 1


def test_an_arm_without_seeds_stands_against_every_seed():
    rows = rows_of(
        result("mlp", LOW, 0, diffusion=True), result("mlp", HIGH, 1, diffusion=True), result("ridge-3", [0.3] * 4)
    )
    assert (rows["ridge-3"]["seeds_below"], rows["ridge-3"]["seeds_compared"]) == (1, 2)


def test_without_the_fast_bridge_or_the_ridge_the_rest_is_still_compared():
    rows = rows_of(result("unet", LOW, diffusion=True), result("regressor", HIGH))
    assert rows["all"]["reference"] == "unet@1"
    assert rows["unet@1"]["kl_to_ridge"] is rows["unet@1"]["kl_to_ridge_all"] is None
    assert rows_of(result("skip", HIGH))["all"]["reference"] == "skip"


def test_results_on_other_documents_are_refused_and_so_is_nothing():
    other = result("ridge-3", HIGH)
    other["per_document"] = {**other["per_document"], "tokens": [100, 300, 50, 251]}
    with pytest.raises(ArtifactError, match="scored on other documents"):
        compare_arms([result("mlp", LOW, diffusion=True), other], 10, 0.95, 0)
    with pytest.raises(ArtifactError, match="no arm of the comparison"):
        compare_arms([], 10, 0.95, 0)


def test_a_row_tells_how_many_states_its_ridge_has_seen():
    rows = rows_of(
        result("mlp", LOW, diffusion=True), result("ridge-3", HIGH), result("table", HIGH), result("skip", HIGH)
    )
    assert {name: rows[name]["ridge_states"] for name in ("mlp@1", "ridge-3", "table", "skip")} == {
        "mlp@1": 700, "ridge-3": 700, "table": None, "skip": None,
    }  # fmt: skip


def test_the_ratio_to_the_ridge_of_all_windows_stands_beside_the_other():
    wide = {**result("ridge-3-all", [0.3] * 4), "train": {"fitted_states": 9000}}
    rows = rows_of(result("mlp", [0.15] * 4, diffusion=True), result("ridge-3", HIGH), wide)
    assert rows["mlp@1"]["kl_to_ridge_all"]["value"] == pytest.approx(0.5)
    assert rows["mlp@1"]["kl_to_ridge"]["value"] < 0.5
    assert rows["ridge-3-all"]["ridge_states"] == 9000

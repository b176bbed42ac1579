"""Scores and the selected layer from real geometry records."""

import json

import numpy as np
import pytest

from dihal_core.errors import ArtifactError
from dihal_core.geometry.flags import _bias, _scale_only
from dihal_core.geometry.proxies import PROXIES, measure
from dihal_core.geometry.scoring import score_proxies
from dihal_core.geometry.table import read_table


@pytest.fixture(scope="module")
def score(score_record):
    return json.loads((score_record.path / "score.json").read_bytes())


def rows(score):
    return {row["layer"]: row for row in score["layers"]}


def test_the_recorded_score_is_that_of_the_tables(score, geometry_records):
    tables = {layer: read_table(record)["large"] for layer, record in geometry_records.items()}
    expected = score_proxies({name: np.array([tables[layer][name] for layer in (1, 2, 3, 4)]) for name in PROXIES})
    assert score["candidate_layers"] == [1, 2, 3, 4]
    assert [rows(score)[layer]["score"]["value"] for layer in (1, 2, 3, 4)] == pytest.approx(expected.score_L)
    assert score["selected_layer"] == 1 + int(np.argmax(expected.score_L))
    assert rows(score)[score["selected_layer"]]["rank"] == 1
    assert sorted(rows(score)[layer]["rank"] for layer in (1, 2, 3, 4)) == [1, 2, 3, 4]
    assert rows(score)[2]["curvature"]["value"] == pytest.approx(tables[2]["curvature"].mean())


def test_layer_zero_and_the_last_block_are_shown_but_never_scored(score, script, geometry_records, tmp_path):
    for layer in (0, 5):
        assert not rows(score)[layer]["candidate"]
        assert rows(score)[layer]["score"] is None
        assert rows(score)[layer]["curvature"]["value"] > 0
    without = {layer: record for layer, record in geometry_records.items() if layer in (1, 2, 3, 4)}
    alone = json.loads((script.build_scores(tmp_path, without).path / "score.json").read_bytes())
    assert [rows(alone)[k]["score"] for k in (1, 2, 3, 4)] == [rows(score)[k]["score"] for k in (1, 2, 3, 4)]


def test_intervals_enclose_the_value_and_probabilities_sum_to_one(score):
    for row in score["layers"]:
        for name in ("curvature", "monotonicity", "effective_rank", *(["score"] if row["candidate"] else [])):
            assert row[name]["low"] < row[name]["value"] < row[name]["high"]
        if row["candidate"]:
            assert np.isfinite(row["score"]["bias"])
    assert sum(score["selection_probability"].values()) == pytest.approx(1.0)
    assert set(score["selection_probability"]) == {"1", "2", "3", "4"}
    assert score["documents"] == 40
    assert score["rows"] == 240


def test_all_variants_are_there_and_the_outlier_layer_changes_without_its_outliers(score):
    assert set(score["variants"]) == {
        "raw", "eps_relative", "unit_trace", "unit_trace_without_outliers", "curvature", "monotonicity",
        "minus_effective_rank", "depth", "minus_log_norm",
    }  # fmt: skip
    for variant in score["variants"].values():
        assert list(variant["scores"]) == ["1", "2", "3", "4"]
        best = max(variant["scores"].values())
        assert variant["scores"][str(variant["selected"])] == best
    assert score["variants"]["depth"]["selected"] == 1
    assert score["variants"]["unit_trace"]["selected"] == 3
    clean = score["variants"]["unit_trace_without_outliers"]["scores"]
    assert score["variants"]["unit_trace"]["scores"]["3"] > 2 * abs(clean["3"])


def test_the_unit_trace_variant_does_not_see_the_scale_of_layers(script, geometry_records, tmp_path):
    """Layers 1, 2 and 4 hold states of one shape at growing scales: raw prefers small norms, unit trace does not care."""
    x_ND = script.states(2)
    record = script.write_activations(tmp_path, {k: c * x_ND for k, c in ((1, 1.0), (2, 4.0), (3, 16.0), (4, 64.0))})
    study = script.settings(eps=1e-12)
    geometry = {layer: script.build(tmp_path, record, layer, study) for layer in (1, 2, 3, 4)}
    found = json.loads((script.build_scores(tmp_path, geometry, study).path / "score.json").read_bytes())
    assert found["selected_layer"] == 1
    assert [rows(found)[k]["rank"] for k in (1, 2, 3, 4)] == [1, 2, 3, 4]
    assert list(found["variants"]["unit_trace"]["scores"].values()) == pytest.approx([0.0] * 4, abs=1e-9)
    assert any("effective_rank does not vary" in flag for flag in found["flags"])
    assert any("Spearman of S with the log mean norm is -1.00" in flag for flag in found["flags"])


def test_flags_name_what_a_reader_should_doubt(score):
    text = " ".join(score["flags"])
    assert "Layer 3: up to 5 outlier rows carry up to" in text
    assert "Layer 0: up to" in text
    assert "identical twin" in text
    assert "Layer 3: one dimension (7)" in text


def test_stability_compares_subsamples_and_sizes(score):
    for name in ("large", "small", "large_vs_small"):
        assert -1 <= score["stability"][name]["kendall"] <= score["stability"][name]["spearman"] <= 1
    assert sum(score["stability"]["large"]["selected"].values()) == pytest.approx(1.0)


def test_a_missing_candidate_is_an_error_that_names_it(script, geometry_records, tmp_path):
    partial = {layer: record for layer, record in geometry_records.items() if layer != 2}
    with pytest.raises(ArtifactError, match=r"candidate layers \[2\] is missing"):
        script.build_scores(tmp_path, partial)


def test_few_documents_give_null_bounds_and_a_flag(script, tmp_path):
    home = tmp_path / "few"
    x = {layer: script.states(layer)[:42] for layer in (1, 2, 3, 4)}
    record = script.write_activations(home, x)
    study = script.settings(large_size=36, small_size=20)
    geometry = {layer: script.build(home, record, layer, study) for layer in x}
    found = json.loads((script.build_scores(home, geometry, study).path / "score.json").read_bytes())
    assert found["documents"] == 7
    assert rows(found)[1]["score"]["low"] is None
    assert found["selection_probability"]["1"] is None
    assert any("The 7 documents were not resampled" in flag for flag in found["flags"])


def test_two_builds_have_equal_bytes(script, geometry_records, score_record, tmp_path):
    assert script.build_scores(tmp_path, geometry_records).digest == score_record.digest


def test_a_layer_measured_alone_and_scored_equals_measure_and_score(script, geometry_records):
    """The two public entries fit together: arrays of several layers in, scores out."""
    pairs = np.stack([np.arange(100), np.arange(100) + 100], axis=1)
    study = script.settings()
    found = [measure(script.states(layer), pairs, study.geometry, f"layer {layer}") for layer in (1, 2, 3, 4)]
    scores = score_proxies({name: np.array([[p.headline[name]] for p in found]) for name in PROXIES})
    assert scores.selected == 0


def row_of(monotonicity, ratio):
    return {
        "candidate": True, "identity_ratio": ratio, "log_mean_norm": 1.0, "score": {"value": monotonicity},
        "monotonicity": {"value": monotonicity},
    }  # fmt: skip


def test_a_stiffness_that_only_follows_distances_is_flagged_also_with_more_rows_than_dimensions():
    scale = [5.0, 3.0, 2.0, 1.0]
    assert any("it tells scale, not direction" in flag for flag in _scale_only([row_of(v, 0.19) for v in scale]))
    ratios = [0.1, 0.9, 0.1, 0.9]  # the stiffness orders layers otherwise than 1 / distance does
    assert _scale_only([row_of(v, ratio) for v, ratio in zip(scale, ratios, strict=True)]) == []


def test_replicates_for_the_agreement_spread_about_the_score(score, score_record):
    replicate_BL = np.load(score_record.path / "replicates.npy")
    assert replicate_BL.shape == (score["replicates"], 4)
    assert replicate_BL.mean(axis=0) == pytest.approx([rows(score)[layer]["score"]["value"] for layer in (1, 2, 3, 4)])
    picked_B = 1 + replicate_BL.argmax(axis=1)
    for layer in (1, 2, 3, 4):
        assert score["selection_probability"][str(layer)] == pytest.approx((picked_B == layer).mean())


def test_the_worth_of_the_rows_is_told_for_the_selected_layer(score, script):
    found = rows(score)[score["selected_layer"]]
    assert score["effective_rows"] == found["effective_rows"]
    assert 40 < found["effective_rows"] < 240
    assert 0 < found["intra_document_correlation"] < 1
    worth = (
        f"Averaged over single dimensions, the 240 rows tell as much as {found['effective_rows']:.0f} independent ones at "
        f"layer {score['selected_layer']}"
    )
    assert any(flag.startswith(worth) for flag in score["flags"])


def test_a_bias_of_more_than_half_an_error_is_told_with_its_layer():
    found = [
        {"layer": k, "score": {"value": 1.0, "se": 0.5, "bias": bias}} for k, bias in ((1, 0.1), (2, -0.9), (3, 0.3))
    ]
    (sentence,) = _bias(found)
    assert sentence.startswith("At layers 2 to 3 the mean of S over resampled documents differs from S")
    assert "at layer 2 by 1.8" in sentence
    assert _bias(found[:1]) == []
    assert _bias([{"layer": 1, "score": {"value": 1.0, "se": None, "bias": None}}]) == []

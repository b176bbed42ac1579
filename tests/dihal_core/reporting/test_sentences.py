from dihal_core.reporting.questions import hybrid_answer, predicted_answer, where_answer
from dihal_core.reporting.sentences import (
    control_sentences,
    gap_sentence,
    lead_sentences,
    quality_sentences,
    sweep_sentence,
    where_sentence,
)


def texts(sentences, kind):
    return [item["text"] for item in sentences if item["kind"] == kind]


def set_controls(data, value):
    block = data["agreement"]["losses"]["fvu"]
    for name in ("depth", "minus_log_norm", "ridge_r2"):
        block["predictors"][name]["spearman"] = value
    for found in block["partial"].values():
        found.update(value=0.5, low=0.2, high=0.7)


def test_winning_controls_are_named_with_their_numbers(data):
    first, second = texts(control_sentences(predicted_answer(data["agreement"])), "control")
    assert first == (
        "Depth alone, norm alone and the ridge fit order the layers better than the geometry score "
        "(Spearman 0.96, 0.95 and 0.99 against 0.81)."
    )
    assert second.startswith("The score adds nothing beyond depth or norm")


def test_a_score_that_beats_all_controls_is_said_to(data):
    set_controls(data, 0.2)
    sentences = control_sentences(predicted_answer(data["agreement"]))
    assert [item["kind"] for item in sentences] == ["support"]
    assert "better than depth alone (0.20)" in sentences[0]["text"]


def test_a_tie_is_called_as_well(data):
    set_controls(data, 0.812)
    (sentence,) = texts(control_sentences(predicted_answer(data["agreement"])), "control")
    assert "as well as the geometry score" in sentence


def test_a_ridge_map_that_beats_the_bridge_is_said_with_set_and_tokens(data):
    sentences = quality_sentences(hybrid_answer(data["evaluate"]))
    wins = texts(sentences, "control")
    assert wins[0] == (
        "On wiki-like pages, the ridge map beats the diffusion bridge: KL of the bridge is higher by "
        "0.0380 [0.0270, 0.0490] nats per token (19,337 tokens)."
    )
    assert "held-out windows" in wins[1]


def test_a_bridge_that_wins_has_its_advantage_as_a_positive_number(data):
    block = data["evaluate"]["heldout"]
    block["differences"] = {"bridge@1 - ridge": {"kl": {"value": -0.2, "low": -0.3, "high": -0.1}, "nll": None}}
    (sentence,) = quality_sentences(hybrid_answer({"heldout": block}))
    assert sentence["kind"] == "support"
    assert "lower by 0.200 [0.100, 0.300]" in sentence["text"]


def test_the_sweep_counts_layers_where_ridge_is_at_least_as_good(data):
    for block in data["sweep"].values():
        if block["arms"].get("regressor"):
            block["arms"]["regressor"]["fvu"] = 2.0
    sentence = sweep_sentence(data["sweep"])
    assert "10 of 28 layers" in sentence["text"]
    assert "without diffusion" not in sentence["text"]
    assert sentence["kind"] == "support"
    for block in data["sweep"].values():
        block["arms"]["ridge"]["fvu"] = 0.0
    assert sweep_sentence(data["sweep"])["kind"] == "control"
    assert sweep_sentence({3: {"arms": {"bridge": None, "ridge": None}}}) is None


def test_a_regressor_that_wins_the_sweep_is_named_and_is_a_control(data):
    trained = [block["arms"] for block in data["sweep"].values() if block["arms"].get("regressor")]
    for arms in trained:
        arms["regressor"]["fvu"] = arms["bridge"]["fvu"]
    sentence = sweep_sentence(data["sweep"])
    assert f"the same network without diffusion at {len(trained)} of {len(trained)} (" in sentence["text"]
    assert sentence["kind"] == "control"


def test_a_tie_with_a_control_stands_in_the_lead_beside_what_wins(data):
    tie = {"kind": "caution", "about": "hybrid", "text": "the bridge and the regressor are not distinguishable"}
    wins = {"kind": "support", "about": "hybrid", "text": "the bridge beats the ridge map"}
    assert lead_sentences([wins, tie]) == [wins, tie]
    assert lead_sentences([tie]) == [tie]


def test_the_lead_is_about_controls_if_one_wins(data):
    sentences = [
        *control_sentences(predicted_answer(data["agreement"])),
        *quality_sentences(hybrid_answer(data["evaluate"])),
        gap_sentence([7]),
    ]
    lead = lead_sentences(sentences)
    assert [item["kind"] for item in lead] == ["control", "control", "control", "caution"]
    assert [item["about"] for item in lead] == ["predicted", "predicted", "hybrid", "hybrid"]
    assert "not distinguishable" in lead[-1]["text"]
    assert lead_sentences([]) == []


def test_an_unsettled_selection_leads_also_where_a_control_wins(data):
    unsettled = {"kind": "caution", "about": "where", "text": "the selection is not settled"}
    lead = lead_sentences([*control_sentences(predicted_answer(data["agreement"])), unsettled])
    assert lead[0] is unsettled
    assert lead[1]["kind"] == "control"
    assert lead_sentences([unsettled]) == [unsettled]


def test_a_score_that_points_the_wrong_way_given_a_control_is_a_control_that_wins(data):
    for block in data["agreement"]["losses"].values():
        block["partial"]["given_depth"] = {"value": -0.4, "low": -0.59, "high": -0.01, "p": 0.048}
    found = texts(control_sentences(predicted_answer(data["agreement"])), "control")
    assert any(
        "points the wrong way: partial correlation \u22120.40 [\u22120.59, \u22120.01]" in text for text in found
    )


def test_gaps_are_named():
    assert "Layer 7 of the sweep" in gap_sentence([7])["text"]
    assert "Layers 3\u20135, 9 of the sweep" in gap_sentence([3, 4, 5, 9])["text"]


def test_only_the_bridge_fixed_beforehand_is_compared_and_only_with_ridge_and_regressor(data):
    sentences = quality_sentences(hybrid_answer({"heldout": data["evaluate"]["heldout"]}))
    assert len(sentences) == 2
    assert {word in item["text"] for item in sentences for word in ("skip", "4 steps", "bridge and the diffusion")} == {
        False
    }


def test_an_unsettled_selection_is_a_caution(data):
    assert where_sentence(where_answer(data["score"], 30)) == []
    data["score"]["selection_probability"].update({"1": 0.3, "4": 0.7})
    (sentence,) = where_sentence(where_answer(data["score"], 30))
    assert sentence["kind"] == "caution"
    assert "layer 4 wins more often when documents are resampled (0.70 against 0.30)" in sentence["text"]


def test_a_score_that_resampling_moves_on_average_is_a_caution(data):
    row = next(row for row in data["score"]["layers"] if row["layer"] == data["score"]["selected_layer"])
    row["score"] = {"value": 1.75, "low": 0.07, "high": 3.12, "se": 0.9, "bias": -1.71}
    (sentence,) = where_sentence(where_answer(data["score"], 30))
    assert sentence["kind"] == "caution"
    assert "Resampling documents lowers S of layer 1 by 1.7 on average, 1.9 of its standard errors" in sentence["text"]
    for harmless in ({"bias": -0.4}, {"bias": None}, {"se": 0.0}, {"se": None}):
        row["score"] = {"value": 1.75, "low": 0.07, "high": 3.12, "se": 0.9, "bias": 1.0, **harmless}
        assert where_sentence(where_answer(data["score"], 30)) == []

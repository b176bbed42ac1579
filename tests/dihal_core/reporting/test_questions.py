import pytest

from dihal_core.reporting.questions import hybrid_answer, predicted_answer, where_answer


def test_the_likely_layers_are_the_smallest_set_with_95_percent(data):
    where = where_answer(data["score"], 30)
    assert where["selected_layer"] == 1
    assert where["selection_probability"] == 0.91
    assert where["likely_layers"] == [1, 2]
    assert where["score"] == data["score"]["layers"][1]["score"]


def test_the_runner_up_has_the_second_largest_score(data):
    where = where_answer(data["score"], 30)
    values = {row["layer"]: row["score"]["value"] for row in data["score"]["layers"] if row["candidate"]}
    assert where["runner_up"]["layer"] == sorted(values, key=values.get)[-2]


def test_without_resampling_there_is_no_probability_rather_than_zero(data):
    data["score"]["selection_probability"] = {}
    where = where_answer(data["score"], 30)
    assert where["selection_probability"] is None
    assert where["likely_layers"] == []


def test_another_layer_that_wins_more_resamples_is_named(data):
    assert where_answer(data["score"], 30)["most_probable"] == 1
    data["score"]["selection_probability"].update({"1": 0.3, "4": 0.7})
    where = where_answer(data["score"], 30)
    assert (where["selected_layer"], where["most_probable"], where["most_probable_share"]) == (1, 4, 0.7)


def test_controls_are_judged_against_the_score(data):
    block = data["agreement"]["losses"]["fvu"]
    block["predictors"]["depth"]["spearman"] = 0.5
    block["predictors"]["minus_log_norm"]["spearman"] = 0.812
    verdicts = {item["name"]: item["verdict"] for item in predicted_answer(data["agreement"])["controls"]}
    assert verdicts == {"depth": "worse", "minus_log_norm": "as good", "ridge_r2": "better"}


def test_a_partial_correlation_without_interval_gives_no_reading(data):
    partial = predicted_answer(data["agreement"])["partial"]
    assert {item["name"]: item["covers_zero"] for item in partial} == {"given_depth": True, "given_log_norm": True}


def test_an_agreement_that_could_not_be_computed_is_none(data):
    data["agreement"]["losses"]["fvu"]["spearman"] = {"value": None, "low": None, "high": None, "p": None}
    assert predicted_answer(data["agreement"]) is None


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.01, 0.05, "worse"), (-0.05, -0.01, "better"), (-0.01, 0.05, "not distinguishable")]
)
def test_a_comparison_follows_its_interval(data, low, high, verdict):
    data["evaluate"]["eval_wiki"]["differences"] = {
        "bridge@1 - ridge": {"kl": {"value": 0.02, "low": low, "high": high}, "nll": None}
    }
    (comparison,) = hybrid_answer({"eval_wiki": data["evaluate"]["eval_wiki"]})[0]["comparisons"]
    assert (comparison["verdict"], comparison["metric"]) == (verdict, "kl")


def test_arms_come_in_reading_order_whatever_their_order_on_disk(data):
    arms = data["evaluate"]["heldout"]["arms"]
    arms["bridge@16"] = arms["bridge@4"]
    data["evaluate"]["heldout"]["arms"] = dict(sorted(arms.items()))
    (answer,) = hybrid_answer({"heldout": data["evaluate"]["heldout"]})
    assert [arm["arm"] for arm in answer["arms"]] == [
        "teacher", "bridge@1", "bridge@4", "bridge@16", "regressor", "ridge", "skip",
    ]  # fmt: skip

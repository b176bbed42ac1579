import pytest

from dihal_core.errors import ConfigError
from dihal_core.profiles import load_study
from dihal_core.sensitivity import CHOICES, choice_row, resolve_choices


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_changes_the_quickstart_and_is_valid(name):
    found, left_out = resolve_choices(load_study("quickstart"), [name])
    assert not left_out
    assert found[0].settings != load_study("quickstart")
    assert "->" in found[0].changes
    assert found[0].reuses_dump == (not name.startswith("tokens-"))


def test_without_names_only_choices_on_the_same_hidden_states_are_measured():
    found, left_out = resolve_choices(load_study("quickstart"))
    assert {choice.name for choice in found} == {name for name in CHOICES if not name.startswith("tokens-")}
    assert set(left_out) == {"tokens-last", "tokens-mean"}
    assert all(choice.settings.activations == load_study("quickstart").activations for choice in found)
    everything, _ = resolve_choices(load_study("quickstart"), ["all"])
    assert len(everything) == len(CHOICES)


def test_a_choice_that_is_the_default_or_impossible_is_left_out_with_the_reason():
    settings = load_study("smoke", overrides={"geometry.scaling": "token_rms", "geometry.k": 20})
    found, left_out = resolve_choices(settings, ["token-rms", "k-double", "k-half"])
    assert [choice.name for choice in found] == ["k-half"]
    assert left_out["token-rms"] == "the default already is this choice"
    assert "too small for k = 40" in left_out["k-double"]


def test_an_unknown_choice_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'cosine'"):
        resolve_choices(load_study("smoke"), ["cosin"])


def test_a_row_holds_pick_correlation_and_the_rank_given_to_the_defaults_layer():
    def score(values, selected):
        order = sorted(values, key=lambda layer: -values[layer])
        rows = [
            {"layer": layer, "candidate": True, "score": {"value": value}, "rank": order.index(layer) + 1}
            for layer, value in values.items()
        ]
        return {"layers": rows, "selected_layer": selected, "selection_probability": {str(selected): 0.6}}

    default, other = score({1: 3.0, 2: 2.0, 3: 1.0}, 1), score({1: 1.0, 2: 2.0, 3: 3.0}, 3)
    row = choice_row("log-proxies", "", True, other, default)
    assert (row["selected"], row["same"], row["rank_of_default"], row["probability"]) == (3, False, 3, 0.6)
    assert row["spearman"] == pytest.approx(-1.0)

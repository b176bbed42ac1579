import pytest

from dihal_core.profiles import load_study
from dihal_core.reporting.protocol import OTHER, OURS, SAME, SMALLER, protocol_table, settings_table


def statuses(profile):
    table = protocol_table(load_study(profile).model_dump(mode="json"))
    return {row["item"]: row["status"] for row in table.rows}


def test_quickstart_keeps_the_geometry_protocol_and_says_what_is_smaller():
    found = statuses("quickstart")
    assert found["proxies from"] == found["stability from additional draws"] == found["score"] == SAME
    assert found["sweep split"] == SAME
    assert found["final training on"] == found["sweep trained on"] == found["final training"] == SMALLER
    assert found["backbone"] == found["text"] == OTHER
    assert found["window"] == found["candidate layers"] == OURS


@pytest.mark.parametrize("profile", ["paper-llama-3.1-8b", "paper-qwen3-8b"])
def test_a_paper_profile_keeps_every_number_the_paper_states(profile):
    found = statuses(profile)
    names = ("backbone", "text", "hidden states collected from", "proxies from", "stability from additional draws",
             "sweep trained on", "sweep split", "sweep training", "final training on", "final training")  # fmt: skip
    assert {name: found[name] for name in names} == dict.fromkeys(names, SAME)


def test_a_capped_epoch_is_smaller_than_an_epoch():
    settings = load_study("paper-qwen3-8b", overrides={"sweep.training.max_steps": 10}).model_dump(mode="json")
    row = next(row for row in protocol_table(settings).rows if row["item"] == "sweep training")
    assert row["status"] == SMALLER
    assert "at most 10 steps" in row["study"]


def test_the_open_choices_of_the_geometry_are_said_as_they_were_made():
    chosen = {"activations.token_policy": "mean", "geometry.ridge": "relative"}
    settings = load_study("paper-qwen3-8b", overrides=chosen).model_dump(mode="json")
    rows = {row["item"]: row["study"] for row in protocol_table(settings).rows}
    assert rows["an example is"] == "the mean state of a window, first 4 positions left out"
    assert rows["neighbours k, ridge eps"] == "k = 10, eps = 0.01 x total variance / dimensions"


def test_every_setting_is_listed_with_value_and_origin():
    settings = load_study("quickstart")
    rows = {row["setting"]: row for row in settings_table(settings.model_dump(mode="json")).rows}
    assert rows["geometry.k"] == {
        "setting": "geometry.k",
        "value": "10",
        "origin": "ours",
        "meaning": "Neighbours of each point (ours).",
    }
    assert rows["sweep.validation_fraction"]["origin"] == "paper"
    assert rows["sweep.training.learning_rate"]["origin"] == "ours"
    assert rows["bridge.width"]["value"] == str(settings.bridge.width)
    assert rows["replace.layer"]["value"] is None
    assert rows["backbone.config_overrides"]["value"] is None
    assert rows["evaluation.sampling_steps"]["value"] == "[1, 4]"


def test_it_says_which_windows_the_ridge_maps_saw():
    def told(profile):
        rows = {row["item"]: row["study"] for row in protocol_table(load_study(profile).model_dump(mode="json")).rows}
        return rows["ridge maps fitted on"]

    assert (
        told("quickstart") == "all of the sweep's 576, the first 1,024 of the final training's 5,940 training windows"
    )
    assert told("thorough").endswith("`all windows`: on these and every window the final training visits")

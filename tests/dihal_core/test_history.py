import json
import os

import pytest

from dihal_core.history import changes, difference, read_result, with_history


def result(selected=2, probability=0.77, study="smoke-m-s0", scores=(1.0, 3.0, 2.0), revision=None, **settings) -> dict:
    layers = [
        {"layer": i, "candidate": True, "score": {"value": value}, "rank": 1} for i, value in enumerate(scores, start=1)
    ]
    return {
        "study": study,
        "settings": {
            "profile": "smoke",
            "seed": 0,
            "backbone": {"name": "m", "revision": revision},
            "geometry": {"k": 10},
            "compute": {"sweep_workers": 2},
            **settings,
        },
        "backbone_identity": {"source": "hub", "revision": revision},
        "versions": {"torch": "2.13.0"},
        "code": {"score": "a"},
        "missing_layers": [],
        "results": {
            "score": {
                "selected_layer": selected,
                "selection_probability": {str(selected): probability},
                "layers": layers,
            },
            "agreement": {"headline": "fvu", "losses": {"fvu": {"spearman": {"value": 0.5}}}},
            "evaluate": {"heldout": {"arms": {"bridge@1": {"kl": {"value": 0.25}}, "bridge@10": {"kl": None}}}},
        },
    }


def publish(home, study, data):
    folder = home / "studies" / study
    folder.mkdir(parents=True, exist_ok=True)
    text = with_history(home, folder, "study.json", json.dumps(data).encode())
    (folder / "study.json").write_bytes(text)
    return json.loads(text)


def test_a_first_study_has_no_difference_and_is_published_as_it_is(tmp_path):
    assert publish(tmp_path, "smoke-m-s0", result()) == result()


def test_a_rerun_ends_with_what_moved_and_keeps_the_result_before_it(tmp_path):
    publish(tmp_path, "smoke-m-s0", result(2, 0.77, revision="a" * 40))
    found = publish(tmp_path, "smoke-m-s0", result(3, 0.81, scores=(1.0, 2.0, 3.0), revision="b" * 40))["difference"]
    assert found["line"].startswith("Change     selected layer 2 -> 3, probability 0.81 (was 0.77)")
    assert f"backbone.revision {'a' * 12} -> {'b' * 12}" in found["line"]
    assert found["score_spearman"] == pytest.approx(0.5)
    assert found["kl"] == {"heldout": [0.25, 0.25]}
    kept = list((tmp_path / "studies" / "smoke-m-s0" / "history").glob("study-*.json"))
    assert [read_result(path) for path in kept] == [result(2, 0.77, revision="a" * 40)]


def test_the_same_result_again_keeps_its_difference_and_makes_no_history(tmp_path):
    publish(tmp_path, "smoke-m-s0", result(2))
    first = publish(tmp_path, "smoke-m-s0", result(3))
    assert publish(tmp_path, "smoke-m-s0", result(3)) == first
    assert len(list((tmp_path / "studies" / "smoke-m-s0" / "history").glob("*"))) == 1


def test_the_previous_study_is_the_last_one_of_the_same_profile_and_backbone(tmp_path):
    publish(tmp_path, "smoke-m-s0-old", result(1, study="smoke-m-s0-old"))
    os.utime(tmp_path / "studies" / "smoke-m-s0-old" / "study.json", (1, 1))
    publish(tmp_path, "smoke-m-s0-k20", result(2, study="smoke-m-s0-k20", geometry={"k": 20}))
    publish(tmp_path, "other", result(5, study="other", profile="thorough"))
    found = publish(tmp_path, "smoke-m-s0", result(2))["difference"]
    assert found["study_before"] == "smoke-m-s0-k20"
    assert "selected layer 2 as before" in found["line"]
    assert "geometry.k 20 -> 10" in found["line"]


def test_a_result_of_another_version_of_the_code_gives_no_difference_and_no_crash(tmp_path):
    publish(tmp_path, "smoke-m-s0", {"study": "smoke-m-s0", "settings": {}})
    assert "difference" not in publish(tmp_path, "smoke-m-s0", result())


def test_workers_and_figures_are_no_change_but_versions_code_and_gaps_are():
    after = {**result(compute={"sweep_workers": 9}), "versions": {"torch": "2.14.0"}, "code": {"score": "b"}}
    after["missing_layers"] = [2]
    assert changes(result(), after) == [
        "torch 2.13.0 -> 2.14.0",
        "code of score",
        "layers missing from the sweep none -> [2]",
    ]


def test_scores_over_fewer_than_three_shared_layers_are_not_correlated():
    assert difference(result(scores=(1.0, 2.0)), result())["score_spearman"] is None

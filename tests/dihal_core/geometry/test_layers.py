"""Arrays of several layers in, scores out: the public entry points."""

import doctest
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dihal_core.geometry
from dihal_core.errors import ConfigError, NumericsError, ResourceError
from dihal_core.geometry import ProxySettings, measure, score_layers
from dihal_core.geometry.layers import draw_pairs, require_memory
from dihal_core.geometry.proxies import PROXIES
from dihal_core.geometry.scoring import zscore


def layers(count=4, n=80, d=12, seed=0):
    rng = np.random.default_rng(seed)
    return (
        (np.arange(1, count + 1) ** 1.5)[:, None, None] * rng.standard_normal((count, n, d)) * np.exp(-np.arange(d) / 6)
    )


def test_scores_are_those_of_layers_measured_one_by_one():
    x_LND = layers()
    pairs_M2 = draw_pairs(80, 500)
    found = score_layers(x_LND, pairs_M2)
    alone = [measure(x_ND, pairs_M2) for x_ND in x_LND]
    expected_L = sum(
        proxy.sign * zscore(np.array([[one.headline[name]] for one in alone]))[:, 0] for name, proxy in PROXIES.items()
    )
    assert list(found.scores.values()) == pytest.approx(expected_L, abs=1e-12)
    assert found.selected == int(np.argmax(expected_L))
    assert found.proxies[2] == alone[2]


def test_a_mapping_keeps_its_indices_and_candidates_are_scored_among_themselves():
    x_LND = layers()
    found = score_layers({7: x_LND[3], 2: x_LND[0], 5: x_LND[1]})
    assert list(found.proxies) == [2, 5, 7]
    assert found.selected == 2
    some = score_layers({7: x_LND[3], 2: x_LND[0], 5: x_LND[1]}, candidates=(5, 7))
    assert set(some.scores) == {5, 7}
    assert set(some.proxies) == {2, 5, 7}
    assert some.selected == 5
    assert some.to_json()["layers"][0]["score"] is None


def test_the_result_as_json_has_the_promised_fields():
    found = score_layers(layers(), settings=ProxySettings(k=5)).to_json()
    assert list(found) == ["settings", "layers", "selected"]
    assert [row["index"] for row in found["layers"]] == [0, 1, 2, 3]
    assert list(found["layers"][0]) == ["index", "local_curvature", "monotonicity", "effective_rank", "score"]
    assert found["settings"]["k"] == 5
    assert found["settings"]["pairs"] == "drawn with seed 0"
    assert found["settings"]["num_pairs"] == 80 * 79 // 2


def test_one_layer_has_a_score_of_zero_never_nan():
    found = score_layers(layers()[0])
    assert dict(found.scores) == {0: 0.0}
    assert found.selected == 0


def test_equal_layers_have_equal_scores_and_the_first_is_selected():
    found = score_layers(np.repeat(layers(1), 3, axis=0))
    assert list(found.scores.values()) == [0.0, 0.0, 0.0]
    assert found.selected == 0
    assert set(found.constant) == set(PROXIES)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: {}, {}, "got no layer"),
        (lambda: np.zeros(5), {}, "got an array of shape .5,."),
        (lambda: {0: np.zeros((20, 3)), 1: np.zeros((21, 3))}, {}, "different numbers of rows"),
        (lambda: {3: np.zeros(20)}, {}, "layer 3 has shape .20,."),
        (lambda: layers(n=11), {}, "layer 0: got 11 rows for k = 10"),
        (lambda: layers(n=1), {}, "layer 0: got 1 rows"),
        (lambda: layers(), {"candidates": (9,)}, "candidate layers .9. of the supplied"),
        (lambda: layers(), {"candidates": ()}, "candidate layers none"),
        (lambda: layers(), {"pairs_M2": np.zeros((3, 2), int)}, "joins row 0 with itself"),
        (lambda: layers(), {"pairs_M2": np.tile([[0, 1]], (3161, 1))}, "only 3160 exist"),
    ],
)
def test_impossible_requests_are_refused_in_a_sentence(make, options, message):
    with pytest.raises(ConfigError, match=message):
        score_layers(make(), **options)


def test_a_layer_without_variance_or_with_a_bad_value_is_named():
    x_LND = layers()
    x_LND[2] = 1.5
    with pytest.raises(NumericsError, match="layer 2: all 80 rows are equal"):
        score_layers(x_LND)
    x_LND = layers()
    x_LND[3, 17, 5] = np.nan
    with pytest.raises(NumericsError, match="layer 3: row 17 holds nan in column 5"):
        score_layers(x_LND)


def test_more_rows_than_memory_holds_are_refused_before_anything_is_made():
    with pytest.raises(ResourceError, match="10000000 rows need about 2400000 GB"):
        require_memory(10_000_000, ProxySettings())


def test_the_example_of_the_package_runs():
    assert doctest.testmod(dihal_core.geometry).failed == 0


def test_the_package_imports_no_torch():
    code = "import sys, dihal_core.geometry; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


def test_notes_say_when_a_number_is_no_finding():
    x = np.random.default_rng(0).standard_normal((2, 60, 8))
    x[1, :45] = x[1, 0]
    notes = score_layers(x).notes()
    assert any(
        note.startswith("layer 1: in most neighbourhoods nothing varies by more than eps (identical rows")
        for note in notes
    )
    assert not any(note.startswith("layer 0") for note in notes)

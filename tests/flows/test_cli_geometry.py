"""`dihal geometry`: anybody's activations in, proxies and score out."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dihal_core.geometry import ProxySettings, measure
from flows.cli import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def x_LND():
    rng = np.random.default_rng(0)
    return (np.arange(1, 4)[:, None, None] * rng.standard_normal((3, 60, 9))).astype(np.float32)


@pytest.fixture
def pairs_M2():
    return np.stack([np.arange(30), np.arange(30) + 30], axis=1)


def run(capsys, *words):
    code = main(["geometry", *map(str, words)])
    return code, capsys.readouterr()


def test_json_has_the_settings_a_row_per_layer_and_the_selected_layer(tmp_path, capsys, x_LND, pairs_M2):
    path = tmp_path / "acts.npz"
    np.savez(path, X=x_LND, pairs=pairs_M2, labels=np.array(["a", "b"]))
    code, printed = run(capsys, path, "--k", 7, "--json")
    assert code == 0
    found = json.loads(printed.out)
    assert list(found) == ["settings", "layers", "selected"]
    assert found["settings"] | {"k": 7, "eps": 1e-6, "ridge": "absolute", "pairs": "given"} == found["settings"]
    assert [row["index"] for row in found["layers"]] == [0, 1, 2]
    for row, x_ND in zip(found["layers"], x_LND, strict=True):
        expected = measure(x_ND, pairs_M2, ProxySettings(k=7))
        assert list(row) == ["index", "local_curvature", "monotonicity", "effective_rank", "score"]
        assert row["local_curvature"] == expected.curvature
        assert row["monotonicity"] == expected.monotonicity
        assert row["effective_rank"] == expected.effective_rank
    assert found["selected"] == int(np.argmax([row["score"] for row in found["layers"]]))


def test_a_relative_ridge_is_used_when_asked_for(tmp_path, capsys, x_LND, pairs_M2):
    path = tmp_path / "acts.npz"
    np.savez(path, X=x_LND, pairs=pairs_M2)
    _, printed = run(capsys, path, "--eps-relative", "0.1", "--json")
    found = json.loads(printed.out)
    assert found["settings"]["ridge"] == "relative"
    assert found["settings"]["eps_relative"] == 0.1
    expected = measure(x_LND[1], pairs_M2, ProxySettings(ridge="relative", eps_relative=0.1))
    assert found["layers"][1]["monotonicity"] == expected.monotonicity


def test_a_plain_npy_of_one_layer_prints_a_table_with_a_defined_score(tmp_path, capsys, x_LND):
    np.save(tmp_path / "acts.npy", x_LND[0])
    code, printed = run(capsys, tmp_path / "acts.npy")
    assert code == 0
    assert "60 rows, 1770 pairs drawn with seed 0, k 10, eps 1e-06" in printed.out
    assert "<- selected" in printed.out
    assert "its score is 0 by definition" in printed.out
    assert "nan" not in printed.out.lower()
    _, again = run(capsys, tmp_path / "acts.npy", "--json")
    assert json.loads(again.out)["layers"][0]["score"] == 0.0


def save(path, **arrays):
    np.savez(path, **arrays)


def bad_files(tmp_path, x_LND):
    """name -> (file maker, further words, what the sentence says)."""
    nan = x_LND.copy()
    nan[1, 4, 2] = np.nan
    equal = x_LND.copy()
    equal[2] = 3.0
    wide = np.random.default_rng(0).standard_normal((30, 4))
    return {
        "missing": (lambda p: None, [], "no file"),
        "text": (lambda p: p.write_text("hello"), [], "is no readable .npz or .npy"),
        "pickle": (lambda p: p.write_bytes(pickle.dumps([1, 2])), [], "is no readable .npz or .npy"),
        "truncated": (lambda p: (save(p, X=x_LND), p.write_bytes(p.read_bytes()[:900])), [], "is no readable"),
        "flipped": (lambda p: (save(p, X=x_LND), _flip(p)), [], "is no readable"),
        "no X": (lambda p: save(p, Y=x_LND), [], "holds Y; it needs an array X"),
        "objects": (lambda p: save(p, X=np.array([{}, []], dtype=object)), [], "is no readable"),
        "words": (lambda p: save(p, X=np.array([["a"] * 3] * 30)), [], "type <U1; pass real numbers"),
        "one number": (lambda p: save(p, X=np.float64(3.0)), [], "holds X of shape ()"),
        "four axes": (lambda p: save(p, X=np.zeros((2, 2, 20, 3))), [], "holds X of shape (2, 2, 20, 3)"),
        "no rows": (lambda p: save(p, X=np.zeros((2, 0, 3))), [], "holds X of shape (2, 0, 3)"),
        "one row": (lambda p: save(p, X=wide[:1]), [], "layer 0: got 1 rows for k = 10"),
        "few rows": (lambda p: save(p, X=wide), ["--k", "29"], "at least k + 2 = 31"),
        "nan": (lambda p: save(p, X=nan), [], "layer 1: row 4 holds nan in column 2"),
        "equal rows": (lambda p: save(p, X=equal), [], "layer 2: all 60 rows are equal"),
        "float pairs": (lambda p: save(p, X=wide, pairs=np.ones((2, 2))), [], "pass integers of shape (M, 2)"),
        "pairs shape": (lambda p: save(p, X=wide, pairs=np.zeros((2, 3), int)), [], "pass integers of shape (M, 2)"),
        "far pairs": (lambda p: save(p, X=wide, pairs=np.array([[0, 30]])), [], "pairs name rows 0..30 of 30"),
        "many pairs": (lambda p: save(p, X=wide, pairs=np.tile([[0, 1]], (436, 1))), [], "only 435 exist"),
        "k": (lambda p: save(p, X=wide), ["--k", "0"], "k = 0: Input should be greater than or equal to 1"),
        "eps": (lambda p: save(p, X=wide), ["--eps", "-1"], "eps = -1.0: Input should be greater than 0"),
        "nan eps": (lambda p: save(p, X=wide), ["--eps", "nan"], "eps = nan"),
        "both": (lambda p: save(p, X=wide), ["--eps", "1", "--eps-relative", "1"], "not allowed with argument"),
        "form": (lambda p: save(p, X=wide), ["--curvature-form", "top"], "curvature_form = 'top'"),
        "pairs count": (lambda p: save(p, X=wide), ["--num-pairs", "0"], "num_pairs 0 is below 1"),
    }


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


NAMES = sorted(bad_files(None, np.zeros((3, 60, 9), np.float32)))


@pytest.mark.parametrize("name", NAMES)
def test_bad_input_is_one_sentence_and_exit_code_2(name, tmp_path, capsys, x_LND):
    make, words, message = bad_files(tmp_path, x_LND)[name]
    path = tmp_path / "acts.npz"
    make(path)
    code, printed = run(capsys, path, *words)
    assert code == 2
    assert message in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert printed.out == ""


def test_the_command_loads_neither_torch_nor_prefect(tmp_path, x_LND):
    np.savez(tmp_path / "acts.npz", X=x_LND)
    code = (
        "import sys; from flows.cli import main; assert main(['geometry', sys.argv[1], '--json']) == 0; "
        "sys.exit(', '.join(name for name in ('torch', 'prefect') if name in sys.modules) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "acts.npz")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["selected"] == 0

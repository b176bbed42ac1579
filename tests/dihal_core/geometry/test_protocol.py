"""The geometry stage of one layer: complete, the same after a kill, and loud about bad states."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dihal_core.errors import ConfigError, NumericsError
from dihal_core.geometry.draws import draw_pairs, draw_rows, protocol_draws
from dihal_core.geometry.protocol import build_geometry
from dihal_core.geometry.proxies import PROXIES, measure
from dihal_core.geometry.table import read_table

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def activations(script, tmp_path_factory):
    return script.write_activations(tmp_path_factory.mktemp("activations"))


def diagnostics(record):
    return json.loads((record.path / "diagnostics.json").read_bytes())


def test_every_subsample_has_a_row_that_equals_a_measurement_of_its_own(script, activations, tmp_path):
    study = script.settings()
    record = script.build(tmp_path, activations, 2, study)
    table = read_table(record)
    assert [len(table[group]["trace"]) for group in ("large", "small")] == [23, 12]
    x_ND = script.states(2)
    x_ND = (script._bits(x_ND).astype(np.uint32) << 16).view(np.float32)
    for draw in protocol_draws(study.geometry)[::7]:
        rows_n = draw_rows(study.seed, draw, len(x_ND))
        found = measure(x_ND[rows_n], draw_pairs(study.seed, draw, 150), study.geometry).row()
        for name, value in found.items():
            assert table[draw.group][name][draw.index] == pytest.approx(value, rel=1e-9), (draw, name)


CHOICES = {
    "curvature_form": "k_over_trace", "metric": "cosine", "include_self": False, "scaling": "token_rms",
    "ridge": "relative",
}  # fmt: skip


@pytest.mark.parametrize("choices", [CHOICES, {"scaling": "unit_trace", "eps": 1e-3}])
def test_the_stage_measures_and_resamples_with_the_choices_of_the_settings(script, activations, tmp_path, choices):
    study = script.settings(**choices)
    record = script.build(tmp_path, activations, 2, study)
    table = read_table(record)
    x_ND = (script._bits(script.states(2)).astype(np.uint32) << 16).view(np.float32)
    for draw in protocol_draws(study.geometry)[::11]:
        rows_n = draw_rows(study.seed, draw, len(x_ND))
        found = measure(x_ND[rows_n], draw_pairs(study.seed, draw, 150), study.geometry).row()
        for name, value in found.items():
            assert table[draw.group][name][draw.index] == pytest.approx(value, rel=1e-9), (draw, name)
    replicate_B3 = np.load(record.path / "bootstrap.npy")
    assert np.isfinite(replicate_B3).all()
    assert (replicate_B3.std(axis=0) > 1e-4 * replicate_B3.mean(axis=0)).all()
    default = np.load(script.build(tmp_path / "default", activations, 2).path / "bootstrap.npy")
    relative = [array / array.mean(axis=0) for array in (replicate_B3, default)]
    assert np.abs(relative[0] - relative[1]).max() > 1e-4


def test_pools_too_large_for_one_gram_matrix_give_the_same_numbers(script, activations, tmp_path):
    shared = script.build(tmp_path / "a", activations, 3)
    alone = script.build(tmp_path / "b", activations, 3, script.settings(max_pool_rows=60))
    left, right = read_table(shared), read_table(alone)
    for group in ("large", "small"):
        for name, values in left[group].items():
            assert right[group][name] == pytest.approx(values, rel=1e-9), name
    assert diagnostics(shared)["shared_gram"]
    assert not diagnostics(alone)["shared_gram"]
    spread = [np.load(record.path / "bootstrap.npy").std(axis=0) for record in (shared, alone)]
    assert spread[1].shape == (3,)
    assert (spread[1] > 0.2 * spread[0]).all()
    assert (spread[1] < 5 * spread[0]).all()


def test_diagnostics_name_outliers_duplicates_and_documents(script, activations, tmp_path):
    found = {layer: diagnostics(script.build(tmp_path, activations, layer)) for layer in (0, 3)}
    assert found[0]["duplicate_rows"] > 100
    assert found[0]["outlier_rows"] == 0
    assert found[3]["duplicate_rows"] == 0
    assert found[3]["outlier_rows"] == 5
    assert found[3]["outlier_trace_share"] > 0.5
    assert found[3]["top_dimension"] == 7
    assert found[3]["max_norm_ratio"] > 5
    assert found[3]["massive_at_position_0"] == 4
    assert found[3]["sink_windows"] == 4
    assert found[3]["documents"] == 40
    assert found[3]["effective_documents"] == pytest.approx(40.0)
    assert found[0]["intra_document_correlation"] < 0.1 < found[3]["intra_document_correlation"]
    for rho, worth in ((found[k]["intra_document_correlation"], found[k]["effective_rows"]) for k in (0, 3)):
        assert worth == pytest.approx(240 / (1 + 5 * rho))  # 40 documents of 6 rows
    x_ND = script.states(3)
    assert found[3]["trace"] == pytest.approx(np.cov(x_ND.T).trace(), rel=0.02)
    assert found[3]["log_mean_norm"] == pytest.approx(np.log(np.linalg.norm(x_ND, axis=1).mean()), rel=0.01)
    clean = found[3]["without_outliers"]
    assert len(clean) == 10
    assert (
        clean[0]["effective_rank"]
        > 2 * read_table(script.build(tmp_path / "c", activations, 3))["large"]["effective_rank"].mean()
    )


def test_replicates_surround_the_mean_over_large_subsamples(script, activations, tmp_path):
    record = script.build(tmp_path, activations, 4)
    replicate_B3 = np.load(record.path / "bootstrap.npy")
    assert replicate_B3.shape == (30, 3)
    mean_3 = [read_table(record)["large"][name].mean() for name in PROXIES]
    assert np.exp(np.log(replicate_B3).mean(axis=0)) == pytest.approx(mean_3, rel=1e-9)
    assert (replicate_B3.std(axis=0) > 0.003 * np.array(mean_3)).all()


def test_all_layers_share_rows_pairs_and_halves(script, tmp_path):
    """Layers that hold the same states get the same numbers."""
    x_ND = script.states(2)
    record = script.write_activations(tmp_path, {1: x_ND, 2: x_ND})
    digests = {}
    for layer in (1, 2):
        built = script.build(tmp_path, record, layer)
        digests[layer] = [(built.path / name).read_bytes() for name in ("proxies.csv", "bootstrap.npy")]
    assert digests[1] == digests[2]


def test_two_builds_of_one_layer_have_equal_bytes(script, activations, tmp_path):
    digests = {script.build(tmp_path / name, activations, 1).digest for name in ("a", "b")}
    assert len(digests) == 1


def test_layers_built_side_by_side_as_threads_have_the_bytes_of_layers_built_in_turn(script, activations, tmp_path):
    alone = {layer: script.build(tmp_path / "alone", activations, layer).digest for layer in (1, 2, 3)}
    with ThreadPoolExecutor(3) as threads:
        futures = {layer: threads.submit(script.build, tmp_path / "together", activations, layer) for layer in alone}
        assert {layer: future.result().digest for layer, future in futures.items()} == alone


@pytest.mark.parametrize("max_pool_rows", [8192, 100])
def test_subsamples_measured_side_by_side_give_the_bytes_of_those_measured_in_turn(
    script, activations, tmp_path, max_pool_rows
):
    study = script.settings(max_pool_rows=max_pool_rows)
    beside = study.model_copy(update={"compute": study.compute.model_copy(update={"subsample_workers": 3})})
    turn = script.build(tmp_path / "turn", activations, 2, study)
    together = script.build(tmp_path / "beside", activations, 2, beside)
    assert together.digest == turn.digest
    assert read_table(together)["large"]["trace"].tolist() == read_table(turn)["large"]["trace"].tolist()


@pytest.mark.parametrize("stop", [3, 12, 31, 34.5])
def test_a_killed_layer_goes_on_and_ends_in_the_same_bytes(script, tmp_path, stop):
    record = script.write_activations(tmp_path)
    undisturbed = script.build(tmp_path / "undisturbed", record, 3)
    command = [sys.executable, str(Path(__file__).with_name("geometry_script.py")), str(tmp_path), "3"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    killed = subprocess.run([*command, str(stop)], env=environment, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    commits = (tmp_path / "geometry" / "L03.partial" / "commits").glob("*-0*.json")
    assert sum(len(json.loads(path.read_bytes())["rows"]) for path in commits) == (stop if stop == int(stop) else 35)
    seen = []
    resumed = script.build(tmp_path, record, 3, progress=lambda done, total, unit: seen.append(done))
    assert resumed.digest == undisturbed.digest
    assert min(done for done in seen if done > 0) >= int(stop)  # committed subsamples are not measured again


def test_progress_is_reported_for_every_subsample(script, activations, tmp_path):
    seen = []
    script.build(tmp_path, activations, 1, progress=lambda done, total, unit: seen.append((done, total)))
    assert {done for done, _ in seen} >= set(range(36))
    assert {total for _, total in seen} == {35}


def test_states_that_are_not_finite_fail_with_layer_and_row(script, tmp_path):
    x_ND = script.states(2)
    x_ND[41, 3] = np.inf
    record = script.write_activations(tmp_path, {5: x_ND})
    with pytest.raises(NumericsError, match="layer 5: row 41 holds inf in column 3"):
        build_geometry(script.context(tmp_path, record, 5, script.settings()))


def test_a_layer_without_variance_fails_by_name(script, tmp_path):
    record = script.write_activations(tmp_path, {5: np.full((240, 24), 0.5)})
    with pytest.raises(NumericsError, match="layer 5: all 240 rows are equal"):
        build_geometry(script.context(tmp_path, record, 5, script.settings()))


def test_a_pool_smaller_than_a_subsample_is_refused(script, tmp_path):
    record = script.write_activations(tmp_path, {1: script.states(1)[:90]})
    with pytest.raises(ConfigError, match="large_size 96 exceeds the pool of 90 rows"):
        build_geometry(script.context(tmp_path, record, 1, script.settings(large_size=96)))

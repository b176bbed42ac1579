import subprocess
import sys

import numpy as np
import pytest

from dihal_core.errors import AssetError, ResourceError
from dihal_core.planning import (
    check_local_weights,
    describe_settings,
    format_plan,
    plan_study,
    preflight,
)
from dihal_core.profiles import load_study, profile_names
from dihal_core.stages import FLOWS, STAGES


@pytest.mark.parametrize("profile", profile_names())
def test_a_plan_has_one_row_per_stage_and_runs_nothing(profile, tmp_path):
    settings = load_study(profile)
    assert {name for stages in FLOWS.values() for name in stages} == set(STAGES)
    for flow, stages in FLOWS.items():
        assert [row["stage"] for row in plan_study(settings, tmp_path / "runs", flow)] == list(stages)
    rows = plan_study(settings, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    text = format_plan(settings, rows)
    assert all(name in text for name in FLOWS["full-study"])


def test_the_paper_plan_counts_bytes_hours_and_task_runs(tmp_path):
    rows = {row["stage"]: row for row in plan_study(load_study("paper-qwen3-8b"), tmp_path)}
    assert rows["activations"]["bytes"] == 300_000 * 4096 * 2 * 37
    assert rows["geometry"]["task_runs"] == 37
    assert rows["sweep"]["task_runs"] == 35
    assert rows["sweep"]["hours"] > rows["activations"]["hours"] > 0.1
    assert rows["gates"]["download_bytes"] > 2 * 8e9 + 3.4e9
    assert "GPU-hours" in format_plan(load_study("paper-qwen3-8b"), list(rows.values()))


def test_a_study_that_cannot_fit_is_refused_before_it_starts(tmp_path):
    huge = {"corpus.num_sequences": 10**9, "activations.num_sequences": 10**9}
    with pytest.raises(ResourceError, match="GB free"):
        preflight(load_study("paper-qwen3-8b", overrides=huge), tmp_path)


@pytest.mark.parametrize(("content", "message"), [(None, "holds no model files"), (b"GGXX" * 10, "GGUF magic")])
def test_a_missing_or_corrupt_gguf_is_refused_before_it_starts(tmp_path, content, message):
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    overrides = {"backbone.source": "gguf", "backbone.identifier": str(path)}
    with pytest.raises(AssetError, match=message):
        preflight(load_study("quickstart", overrides=overrides), tmp_path)


def test_settings_are_listed_with_their_meaning():
    text = describe_settings(load_study("smoke"))
    assert "geometry.k = 5  # Neighbours of each point (ours)." in text
    assert "sweep.training.max_steps = 4" in text


def test_plan_and_doctor_import_no_torch(tmp_path):
    code = (
        "import sys\nfrom flows.cli import main\n"
        f"main(['plan', '--profile', 'smoke', '--home', {str(tmp_path)!r}])\n"
        f"main(['doctor', '--profile', 'smoke', '--home', {str(tmp_path)!r}])\n"
        "sys.exit(', '.join(m for m in ('torch', 'prefect') if m in sys.modules) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_truncated_gguf_is_refused_before_it_starts(tmp_path):
    from gguf import GGUFWriter

    path = tmp_path / "model.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_tensor("token_embd.weight", np.ones((64, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    overrides = {"backbone.source": "gguf", "backbone.identifier": str(path)}
    settings = load_study("quickstart", overrides=overrides)
    check_local_weights(settings.backbone, tmp_path)
    path.write_bytes(path.read_bytes()[:-4096])
    with pytest.raises(AssetError, match="truncated or corrupt"):
        check_local_weights(settings.backbone, tmp_path)


def test_a_plan_says_that_storing_everything_is_not_confirmed_yet(tmp_path):
    settings = load_study("smoke", overrides={"activations.store_everything": True, "activations.whole_sequences": 0})
    text = format_plan(settings, plan_study(settings, tmp_path))
    assert "refused until compute.confirm_gigabytes=1 confirms it (now 0)" in text
    confirmed = settings.model_copy(update={"compute": settings.compute.model_copy(update={"confirm_gigabytes": 1.0})})
    assert "confirmed by compute.confirm_gigabytes=1" in format_plan(confirmed, plan_study(confirmed, tmp_path))

"""The comparison of architectures against a real Prefect server: one command, cached afterwards, published."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dihal_core.bridges.ablation_arms import ABLATION_ARMS, ablation_units
from dihal_core.design import for_design
from dihal_core.planning import plan_study
from dihal_core.profiles import load_study
from dihal_core.study import pin_device
from flows.ablate import ablate
from flows.cli import build_parser, main
from flows.cli_ablate import with_choices

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(scope="module")
def ablated(tmp_path_factory, prefect_server):
    folder = tmp_path_factory.mktemp("ablated") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIHAL_HOME", str(folder))
        result = ablate(profile="smoke")
    return folder, result


def test_the_comparison_ends_with_a_verdict_a_table_and_data(ablated):
    _, result = ablated
    assert result["answer"][0].startswith("Controls   ")
    page = Path(result["report"])
    assert page.name == "ablation.md"
    assert all(spec.label in page.read_text(encoding="utf-8") for spec in ABLATION_ARMS.values())
    data = json.loads(page.with_name("ablation.json").read_bytes())
    assert data["answer"] == result["answer"]
    with open(page.with_name("ablation.csv"), newline="") as handle:
        rows = list(csv.DictReader(handle))
    settings = load_study("smoke").ablation
    diffusion = sum(spec.diffusion for spec in ABLATION_ARMS.values())
    assert len(rows) == len(ABLATION_ARMS) + diffusion * (len(settings.sampling_steps) - 1)
    for row, (name, seconds) in zip(
        data["comparison"]["rows"], [(r["label"], r["wall_seconds"]) for r in rows], strict=True
    ):
        assert row["label"] in name
        assert bool(seconds) == ABLATION_ARMS[row["arm"]].trained
        assert row["seeds"] == (settings.seeds if ABLATION_ARMS[row["arm"]].trained else 1)


def test_every_arm_and_seed_is_a_unit_and_nothing_runs_twice(ablated):
    home, _ = ablated
    settings = pin_device(load_study("smoke", overrides=for_design(None)))
    rows = {row["stage"]: row for row in plan_study(settings, home, "ablate")}
    assert rows["ablate"]["units"] == len(ablation_units(settings.ablation))
    assert {row["status"] for row in rows.values()} == {"cached"}
    fewer = pin_device(load_study("smoke", overrides=for_design({"ablation.arms": ["mlp", "ridge-3"]})))
    rows = {row["stage"]: row for row in plan_study(fewer, home, "ablate")}
    assert (rows["ablate"]["status"], rows["ablation"]["status"]) == ("cached", "will run")


@pytest.mark.slow
def test_the_command_prints_verdict_and_place_from_finished_stores(ablated, prefect_server):
    home, result = ablated
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "ablate", "--profile", "smoke", "--home", str(home)],
        env={**os.environ, "PREFECT_API_URL": prefect_server},
        cwd=home.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert result["answer"][0] in done.stdout
    assert f"report: {result['report']}" in done.stdout


def test_short_options_of_the_command_are_settings():
    words = ["ablate", "--profile", "smoke", "--layer", "3", "--arms", "mlp", "unet", "--seeds", "1", "--steps", "2"]
    assert with_choices(build_parser().parse_args(words)).assignments == [
        "ablation.layer=3",
        "ablation.seeds=1",
        "ablation.training.max_steps=2",
        'ablation.arms=["mlp", "unet"]',
    ]
    assert with_choices(build_parser().parse_args(["ablate"])).assignments == []


def test_the_comparison_scores_development_documents_and_the_planned_one_too(ablated, capsys, monkeypatch):
    home, result = ablated
    data = json.loads(Path(result["report"]).with_name("ablation.json").read_bytes())
    assert data["settings"]["corpus"] == {"evaluation_part": "development"}
    assert "development half" in result["answer"][-1]
    monkeypatch.setenv("DIHAL_HOME", str(home))
    plan = ["plan", "--flow", "ablate", "--profile", "smoke", "--home", str(home), "--json"]
    assert main(plan) == 0
    assert {row["status"] for row in json.loads(capsys.readouterr().out)} == {"cached"}
    assert main([*plan, "--set", "corpus.evaluation_part=test"]) == 0
    assert "will run" in {row["status"] for row in json.loads(capsys.readouterr().out)}


def test_a_half_that_is_named_is_kept():
    assert for_design({"corpus.evaluation_part": "test", "seed": 1})["corpus.evaluation_part"] == "test"

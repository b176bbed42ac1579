"""The flows for parts of a study against a real Prefect server, in one home: what one made the next one finds."""

import json
import re
from inspect import getsource
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.sorting import ArtifactSort

from dihal_core.errors import ConfigError
from dihal_core.stages import FLOWS
from dihal_core.status import home_status
from flows.cli import main
from flows.compare import compare
from flows.evaluation import evaluate
from flows.locate import locate
from flows.options import MAX_TASKS
from flows.replace import replace
from flows.sensitivity import sensitivity
from flows.study import full_study
from flows.sweep import sweep

STUDIES = {
    "full-study": full_study,
    "locate": locate,
    "sweep": sweep,
    "replace": replace,
    "evaluate": evaluate,
    "sensitivity": sensitivity,
}


@pytest.mark.parametrize("name", STUDIES)
def test_a_flow_runs_the_stages_of_its_row_in_order(name):
    assert tuple(re.findall(r'\.run\(\s*"(\w+)"', getsource(STUDIES[name].fn))) == FLOWS[name]


@pytest.mark.parametrize("name", STUDIES)
def test_no_flow_starts_an_unbounded_number_of_threads(name):
    assert STUDIES[name].task_runner.max_workers == MAX_TASKS


@pytest.fixture(scope="module")
def home(tmp_path_factory, prefect_server):
    folder = tmp_path_factory.mktemp("parts") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIHAL_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def swept(home):
    return sweep(profile="smoke")


@pytest.fixture(scope="module")
def replaced(home, swept):
    return replace(profile="smoke", layer=1)


def content(result: dict) -> dict:
    return json.loads(Path(result["report"]).read_bytes())


def test_a_sweep_ends_with_the_agreement_and_trains_no_replacement(home, swept):
    assert [line.split()[0] for line in swept["answer"][:2]] == ["Where", "Predicted"]
    assert set(content(swept)["results"]["sweep"]) == {"1", "2", "3"}
    assert not (home / "replace").exists()
    assert (Path(swept["folder"]) / "sealed.json").is_file()


def test_a_sweep_without_layers_is_refused_in_a_sentence(home):
    with pytest.raises(ConfigError, match="leaves a sweep nothing to train"):
        sweep(profile="smoke", overrides={"sweep_layers": "none"})


def test_a_replacement_at_a_given_layer_needs_no_score_and_leaves_a_model(home, replaced):
    data = content(replaced)
    assert data["results"]["replace"]["layer"] == 1
    assert "score" not in {row["stage"] for row in data["records"]}
    model = Path(replaced["folder"]) / "hybrid"
    assert (model / "config.json").is_file()
    assert replaced["answer"][-1].endswith(f"--model {model}")


def test_an_evaluation_measures_the_stored_hybrid_with_other_steps_and_trains_nothing(home, replaced):
    before = {path.parent.name for path in home.glob("replace/*/manifest.json")}
    result = evaluate(study=replaced["study"], overrides={"evaluation.sampling_steps": [3]})
    assert Path(result["folder"]).name == replaced["study"]
    assert "bridge@3" in content(result)["results"]["evaluate"]["heldout"]["arms"]
    assert {path.parent.name for path in home.glob("replace/*/manifest.json")} == before
    assert json.loads((Path(replaced["folder"]) / "replace.json").read_bytes()) == content(replaced)
    journal = json.loads((Path(result["folder"]) / "runs" / "evaluate.json").read_bytes())
    chosen = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[journal["process"]["flow_run"]]))
    with get_client(sync_client=True) as client:
        first = client.read_artifacts(artifact_filter=chosen, sort=ArtifactSort.CREATED_DESC, limit=200)[-1]
    assert "| evaluate | 2 | 2 | will run:" in first.data


def test_an_evaluation_may_not_ask_for_another_hybrid(home, replaced, capsys):
    assert main(["evaluate", replaced["study"], "--set", "bridge.width=8", "--home", str(home)]) == 2
    assert "cannot change 'bridge.width'" in capsys.readouterr().err
    assert main(["evaluate", "smoke-x", "--home", str(home)]) == 2
    assert "no finished study 'smoke-x'" in capsys.readouterr().err


def test_choices_are_scored_on_one_dump_and_stand_beside_the_default(home, swept):
    dumps = {path.parent.name for path in home.glob("activations/*/manifest.json")}
    result = sensitivity(profile="smoke", choices=["k-half", "log-proxies"])
    rows = {row["choice"]: row for row in content(result)["results"]["choices"]}
    assert set(rows) == {"default", "k-half", "log-proxies"}
    assert rows["default"]["spearman"] == pytest.approx(1.0)
    assert rows["default"]["rank_of_default"] == 1
    assert -1 <= rows["log-proxies"]["spearman"] <= 1
    assert "geometry.k 5 -> 2" in rows["k-half"]["changes"]
    assert {path.parent.name for path in home.glob("activations/*/manifest.json")} == dumps
    assert len(result["answer"]) == 3


def test_studies_side_by_side_say_what_moved_between_two_of_one_backbone(home, swept, replaced):
    result = compare(studies=[swept["study"], replaced["study"]])
    rows = {row["study"]: row for row in content(result)["rows"]}
    assert rows[swept["study"]]["spearman"]["value"] is not None
    assert rows[replaced["study"]]["selected"] == 1
    assert rows[replaced["study"]]["sets"][0]["kl"]["value"] >= 0
    assert Path(result["report"]).with_suffix(".csv").read_text().count("\n") == 1 + 1 + 2
    with pytest.raises(ConfigError, match="needs two of this home"):
        compare(studies=[swept["study"]])


def test_artifacts_lead_to_stores_and_settings_and_progress_moves(home, swept):
    journal = json.loads((Path(swept["folder"]) / "runs" / "sweep.json").read_bytes())
    chosen = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[journal["process"]["flow_run"]]))
    with get_client(sync_client=True) as client:
        found = {artifact.key: artifact for artifact in client.read_artifacts(artifact_filter=chosen, limit=200)}
    for key in ("plan", "sealed-selection", "sweep-answer"):
        text = found[f"smoke-random-llama-4-layers-d-32-s0-{key}"].data
        assert (Path(swept["folder"]) / "runs" / "sweep.json").as_uri() in text
    plan = found["smoke-random-llama-4-layers-d-32-s0-plan"].data
    assert "Sweep targets are stored, as targets.source says." in plan
    progress = found["smoke-random-llama-4-layers-d-32-s0-sweep-progress"]
    assert progress.type == "progress"
    assert progress.data == 100.0
    assert (Path(swept["folder"]) / "runs" / "sweep.json").as_uri() in progress.description
    training = found["smoke-random-llama-4-layers-d-32-sweep-l01-progress"]
    (store,) = (home / "sweep").glob("L01-*")
    assert f"Store, once made: `{store}`" in training.description
    assert "3/3 layers" in progress.description
    for key in ("activations", "geometry-l02", "sweep-l01", "agreement"):
        assert found[f"smoke-random-llama-4-layers-d-32-{key}-progress"].data == 100.0


def test_the_status_of_the_home_lists_every_run_as_done(home, swept, replaced):
    states = {(item["study"], item["flow"]): item for item in home_status(home)["studies"]}
    run = states[(swept["study"], "sweep")]
    assert run["state"] == "finished"
    assert {row["stage"]: row["state"] for row in run["stages"]} == dict.fromkeys(FLOWS["sweep"], "done")
    assert run["process"]["flow_run_name"] == "sweep · smoke · random Llama (4 layers, d = 32) · seed 0"
    assert (replaced["study"], "replace") in states


def test_figures_of_every_run_are_there_for_prometheus(home, swept):
    lines = (home / "prometheus" / f"{swept['study']}-sweep.prom").read_text().splitlines()
    samples = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}
    labels = f'study="{swept["study"]}",flow="sweep"'
    assert samples[f'dihal_stage_units{{{labels},stage="geometry"}}'] == 5
    assert samples[f"dihal_run_missing_units{{{labels}}}"] == 0
    assert samples[f"dihal_run_store_bytes{{{labels}}}"] > 1e5

"""The flow against a real Prefect server: end to end, cached, partial, sealed. Smoke profile, seconds."""

import html
import json
import re
import shutil
import time
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.states import State

from dihal_core.planning import plan_study
from dihal_core.profiles import load_study
from dihal_core.requests import find
from dihal_core.runner import ensure
from dihal_core.stages import FLOWS
from dihal_core.status import format_status, home_status
from dihal_core.store import StageStore
from dihal_core.study import pin_device, request_for, study_name, units_of
from flows.cli import main
from flows.study import full_study

pytestmark = pytest.mark.usefixtures("prefect_server")


def run(**parameters) -> tuple[dict, State]:
    state = full_study(profile="smoke", return_state=True, **parameters)
    return state.result(), state


def task_states(state: State) -> dict[str, str]:
    """State of every task run by name. Clients report states as events, which the server stores a moment later."""
    chosen = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
    deadline = time.monotonic() + 30
    while True:
        with get_client(sync_client=True) as client:
            found = client.read_task_runs(flow_run_filter=chosen, limit=200)
        if all(item.state.is_final() for item in found) or time.monotonic() > deadline:
            return {item.name: item.state_name for item in found}
        time.sleep(0.2)


def digests(home: Path) -> set[tuple[str, str]]:
    """(stage/unit, digest) of every store except the report, whose ledger holds seconds."""
    found = set()
    for manifest in home.glob("*/*/manifest.json"):
        data = json.loads(manifest.read_bytes())
        if data["stage"] != "report":
            found.add((f"{data['stage']}/{data['unit']}", data["digest"]))
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory, prefect_server):
    """One finished smoke study; tests that change its home copy it first."""
    folder = tmp_path_factory.mktemp("finished") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIHAL_HOME", str(folder))
        result, state = run()
    return folder, result, state


@pytest.fixture
def copied(finished, tmp_path, monkeypatch):
    """A private copy of the finished home."""
    folder = tmp_path / "runs"
    shutil.copytree(finished[0], folder)
    monkeypatch.setenv("DIHAL_HOME", str(folder))
    return folder


def test_a_study_ends_with_five_answer_lines_a_report_and_a_result(finished):
    home, result, state = finished
    assert state.is_completed()
    assert len(result["answer"]) == 5
    folder = Path(result["folder"])
    assert folder == home / "studies" / study_name(load_study("smoke"))
    assert (folder / "report.html").stat().st_size > 10_000
    study = json.loads((folder / "study.json").read_bytes())
    assert study["settings"]["profile"] == "smoke"
    assert set(study["results"]["cost"]["curve"]) == {"1", "2"}
    assert "Quality against sampler steps" in (folder / "report.html").read_text(encoding="utf-8")


def test_every_stage_and_every_layer_has_a_readable_task_run(finished):
    names = set(task_states(finished[2]))
    assert {"corpus", "gates", "activations", "score", "ridge", "agreement", "replace", "report"} <= names
    assert {f"geometry-L{layer:02d}" for layer in range(5)} <= names
    assert {f"sweep-L{layer:02d}" for layer in range(1, 4)} <= names


def test_a_second_run_finds_every_stage_cached(finished, monkeypatch):
    home, first, _ = finished
    monkeypatch.setenv("DIHAL_HOME", str(home))
    before = digests(home)
    second, state = run()
    assert set(task_states(state).values()) == {"Cached"}
    assert second["answer"] == first["answer"]
    assert digests(home) == before


def test_two_studies_from_nothing_give_the_same_stores(finished, home):
    run()
    assert digests(home) == digests(finished[0])


def test_a_finished_study_generates_from_its_hybrid_and_from_any_bridge_of_its_sweep(finished, capsys, tmp_path):
    home, result, _ = finished
    assert (Path(result["folder"]) / "hybrid" / "model.safetensors").is_file()
    for words in ([], ["--layer", "1"], ["--study", result["study"], "--sampling-steps", "2", "--temperature", "0.8"]):
        assert main(["generate", "Where", "A longer one", "--max-new-tokens", "3", "--home", str(home), *words]) == 0
        first, second = capsys.readouterr().out.split("\n---\n")
        assert first.startswith("Where")
        assert second.startswith("A longer one")
    assert main(["generate", "x", "--layer", "9", "--home", str(home)]) == 2
    assert "its sweep trained layers 1, 2, 3" in capsys.readouterr().err
    assert main(["export", "--merged", "--to", str(tmp_path / "copy"), "--home", str(home)]) == 0
    assert main(["generate", "Where", "--max-new-tokens", "3", "--model", str(tmp_path / "copy")]) == 0


def test_a_changed_figure_setting_reruns_the_report_alone(copied):
    settings = load_study("smoke", overrides={"report.figure_dpi": 60})
    assert [row["stage"] for row in plan_study(pin_device(settings), copied) if row["to_run"]] == ["report"]


def test_a_changed_bridge_budget_reruns_the_sweep_and_what_follows_but_not_the_dump(copied):
    settings = load_study("smoke", overrides={"sweep.training.max_steps": 3})
    rows = {row["stage"]: row for row in plan_study(pin_device(settings), copied)}
    assert [name for name, row in rows.items() if row["to_run"]] == ["sweep", "agreement", "report"]
    assert "sweep.training.max_steps 4 -> 3" in rows["sweep"]["why"]


@pytest.mark.parametrize("harm", ["delete", "flip"])
def test_a_damaged_store_is_recomputed_to_the_same_digest(copied, harm):
    before = digests(copied)
    store = next((copied / "geometry").glob("L02-*"))
    victim = store / "proxies.csv"
    if harm == "delete":
        victim.unlink()
    else:
        data = bytearray(victim.read_bytes())
        data[-3] ^= 1
        victim.write_bytes(data)
    _, state = run()
    states = task_states(state)
    assert states["geometry-L02"] == "Completed"
    assert digests(copied) == before


def test_one_failed_layer_leaves_a_gap_and_a_rerun_fills_it(copied):
    before = digests(copied)
    store = next((copied / "sweep").glob("L02-*"))
    shutil.rmtree(store)
    obstacle = store.with_name(f"{store.name}.partial")
    obstacle.write_text("a file where the store's folder should be")

    result, state = run()
    assert state.name == "Partial"
    assert set(result["failed_layers"]) == {"L02"}
    study = json.loads((Path(result["folder"]) / "study.json").read_bytes())
    assert study["results"]["agreement"]["missing_layers"] == [2]
    report = (Path(result["folder"]) / "report.html").read_text(encoding="utf-8")
    assert "layer 2" in report.lower()

    obstacle.unlink()
    result, state = run()
    assert state.name == "Completed"
    assert result["failed_layers"] == {}
    assert before <= digests(copied)


def test_altered_sweep_losses_move_the_observed_best_layer_and_not_the_selection(copied):
    settings = pin_device(load_study("smoke"))
    name = study_name(settings)
    sealed = json.loads((copied / "studies" / name / "sealed.json").read_bytes())["seals"]
    assert len(sealed) == 1
    assert sealed[0]["earlier_sweep_stores"] == 0
    records: dict = {}
    for stage in FLOWS["full-study"]:
        units = units_of(stage, settings)
        if stage in ("agreement", "report"):
            continue
        found = {
            unit: find(request_for(stage, settings, copied, records, unit)).record
            for unit in ([None] if units is None else units)
        }
        records[stage] = found if units is not None else found[None]
    before = ensure(request_for("agreement", settings, copied, records))

    altered = {}
    for layer, record in records["sweep"].items():
        store = StageStore(copied, "sweep", f"L{layer:02d}-altered")
        data = json.loads((record.path / "sweep.json").read_bytes())
        for arm in data["arms"].values():
            arm["fvu"] = 0.9 - 0.2 * layer  # the deepest layer looks best
        store.write_json("sweep.json", data)
        altered[layer] = store.finalize({}, {}, layer)
    records = {**records, "sweep": altered}
    after = ensure(request_for("agreement", settings, copied, records))

    def fvu(record):
        return json.loads((record.path / "agreement.json").read_bytes())["losses"]["fvu"]

    assert fvu(after)["best_observed"] == 3 != fvu(before)["best_observed"]
    assert fvu(after)["best_predicted"] == fvu(before)["best_predicted"] == sealed[0]["selected_layer"]
    assert request_for("score", settings, copied, records).key == sealed[0]["score_key"]
    replace = request_for("replace", settings, copied, records)
    assert replace.values["layer"] == sealed[0]["selected_layer"]
    assert find(replace).state == "intact"


def test_a_score_made_after_losses_were_known_is_sealed_as_such(copied):
    result, _ = run(overrides={"geometry.k": 4})
    seals = json.loads((Path(result["folder"]) / "sealed.json").read_bytes())["seals"]
    assert seals[-1]["earlier_sweep_stores"] == 3
    change = json.loads((Path(result["folder"]) / "study.json").read_bytes())["difference"]
    assert result["answer"][-1] == change["line"]  # the study of k = 5 came before
    assert "against study smoke-random-llama-4-layers-d-32-s0; changed: geometry.k 5 -> 4" in change["line"]
    told = change["line"].removeprefix("Change").strip()
    page = (Path(result["folder"]) / "report.html").read_text(encoding="utf-8")
    assert "after 3 bridges had been trained" in page
    assert f"<b>Since the previous study:</b> {html.escape(told)} (" in page
    assert told in (Path(result["folder"]) / "difference.md").read_text(encoding="utf-8")
    assert f"since the previous study: {told}" in format_status({**home_status(copied), "server": None})
    bare = re.sub('<p class="facts" id="change">.*?</p>\n', "", page)
    assert bare != page
    assert bare in {path.read_text(encoding="utf-8") for path in copied.glob("report/*/report.html")}


def test_a_sweep_of_the_top_layers_trains_those_alone_and_finds_them_cached_later(copied):
    result, state = run(overrides={"sweep_layers": "top:2"})
    swept = {name for name in task_states(state) if name.startswith("sweep-")}
    score = next(json.loads(path.read_bytes()) for path in (copied / "score").glob("*/score.json"))
    ranked = sorted((row for row in score["layers"] if row["candidate"]), key=lambda row: row["rank"])
    assert swept == {f"sweep-L{row['layer']:02d}" for row in ranked[:2]}
    assert {task_states(state)[name] for name in swept} == {"Cached"}  # made by the study of all layers
    assert result["failed_layers"] == {}
    agreement = json.loads((Path(result["folder"]) / "study.json").read_bytes())["results"]["agreement"]
    assert agreement["missing_layers"] == [ranked[2]["layer"]]
    assert agreement["compute_saved"]["1"] == pytest.approx(2 / 3)


def test_a_study_without_a_sweep_trains_the_selected_layer_and_says_what_is_not_known(copied):
    result, state = run(overrides={"sweep_layers": "none"})
    names = set(task_states(state))
    assert not {name for name in names if name.startswith(("sweep-", "ridge", "agreement"))}
    assert {"score", "replace", "report"} <= names
    assert len(result["answer"]) >= 4
    assert "sweep_layers" in (Path(result["folder"]) / "report.html").read_text(encoding="utf-8")


def test_the_parameters_of_the_flow_are_what_schedules_rely_on():
    schema = full_study.parameters.model_dump()
    assert set(schema["properties"]) == {"backbone", "profile", "seed", "overrides", "force"}
    assert full_study.name == "dihal"

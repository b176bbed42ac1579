from dihal_core.explain import explain
from dihal_core.profiles import load_study
from dihal_core.requests import find, make_request
from dihal_core.stages import STAGES
from dihal_core.store import StageRecord, StageStore


def record(stage: str, digest: str, unit=None) -> StageRecord:
    return StageRecord(stage, f"key-{digest}", f"/nowhere/{stage}", digest, {}, unit)


def sweep_request(tmp_path, layer=3, activations="a1", **overrides):
    settings = load_study("smoke", overrides=overrides)
    inputs = {
        "assets": {},
        "corpus": record("corpus", "c1"),
        "activations": record("activations", activations),
        "ridge": record("ridge", "r1"),
    }
    return make_request("sweep", settings, inputs, tmp_path, layer)


def test_the_same_request_has_the_same_key_and_every_read_changes_it(tmp_path):
    plain = sweep_request(tmp_path).key
    assert sweep_request(tmp_path).key == plain
    assert sweep_request(tmp_path, layer=2).key != plain
    assert sweep_request(tmp_path, activations="a2").key != plain
    assert sweep_request(tmp_path, **{"sweep.training.max_steps": 3}).key != plain


def test_what_a_stage_does_not_read_does_not_change_its_key(tmp_path):
    plain = sweep_request(tmp_path).key
    for name, value in (
        ("report.figure_dpi", 50),
        ("geometry.k", 4),
        ("replace.training.max_steps", 2),
        ("compute.sweep_workers", 1),
        ("evaluation.bootstrap_replicates", 10),
    ):
        assert sweep_request(tmp_path, **{name: value}).key == plain, name


def test_a_changed_figure_setting_changes_the_pages_alone(tmp_path):
    one, two = load_study("smoke"), load_study("smoke", overrides={"report.figure_dpi": 50})
    changed = [
        name
        for name in STAGES
        if make_request(name, one, {}, tmp_path).key != make_request(name, two, {}, tmp_path).key
    ]
    assert changed == ["report", "locate"]


def test_a_changed_bridge_budget_changes_the_sweep_and_neither_dump_nor_geometry(tmp_path):
    one, two = load_study("smoke"), load_study("smoke", overrides={"sweep.training.max_steps": 3})
    changed = {
        name
        for name in STAGES
        if make_request(name, one, {}, tmp_path).key != make_request(name, two, {}, tmp_path).key
    }
    assert "sweep" in changed
    assert changed <= {"sweep", "report", "locate"}  # pages show every setting


def test_why_names_the_setting_the_input_and_the_code_that_changed(tmp_path):
    first = sweep_request(tmp_path)
    assert explain(first, find(first)) == "will run: never made before"
    store = StageStore(tmp_path, "sweep", first.key)
    assert explain(first, find(first)).startswith("will resume")
    store.write_json("sweep.json", {})
    store.finalize({}, {"request": first.document}, first.unit)
    assert explain(first, find(first)).startswith("cached")
    budget = sweep_request(tmp_path, **{"sweep.training.max_steps": 3})
    assert "sweep.training.max_steps 4 -> 3" in explain(budget, find(budget))
    other = sweep_request(tmp_path, activations="a2")
    assert "input activations changed" in explain(other, find(other))
    edited = sweep_request(tmp_path)
    edited.document["code"]["dihal_core.training.sweep"] = "edited"
    moved = type(edited)(**{**edited.to_json(), "key": "L03-other"})
    assert "code of dihal_core.training.sweep changed" in explain(moved, find(moved))

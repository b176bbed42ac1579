"""What other parts of the project ask of a home, answered alike for a remote home seen from another machine."""

from pathlib import Path

from dihal_core.activations.audit import find_store
from dihal_core.explain import explain
from dihal_core.files import dump_json
from dihal_core.hybrid.sources import asset_records
from dihal_core.profiles import load_study
from dihal_core.remote.link import finished_manifests, is_present, share, store_folder
from dihal_core.requests import find, stage_code
from dihal_core.stages import STAGES
from dihal_core.store import StageStore, resolve_home
from dihal_core.study import pin_device, request_for, seal_selection


def publish(address: str, stage: str, key: str, unit: str | int | None, **files: bytes):
    home = resolve_home(address)
    store = StageStore(home, stage, key)
    for name, data in (files or {"data.bin": b"x"}).items():
        store.write_bytes(name.replace("_", "."), data)
    return share(home, store.finalize({}, {"request": {"settings": {}}}, unit))


def test_every_finished_store_is_listed_once_whichever_machine_made_it(address, machine):
    publish(address, "sweep", "L01-a", 1)
    machine("second")
    publish(address, "sweep", "L02-b", 2)
    listed = [manifest["key"] for manifest in finished_manifests(resolve_home(address), "sweep")]
    assert sorted(listed) == ["L01-a", "L02-b"]


def test_the_reason_to_run_again_knows_what_another_machine_made(address, machine):
    settings = pin_device(load_study("smoke"))
    home = resolve_home(address)
    request = request_for("corpus", settings, home, {"assets": {}})
    store = StageStore(home, "corpus", "other")
    store.write_bytes("data.bin", b"x")
    document = {**request.document, "settings": {**request.document["settings"], "seed": 7}}
    share(home, store.finalize({}, {"request": document}, None))
    machine("second")
    assert explain(request, find(request)) == "will run: seed 7 -> 0"


def test_a_selection_made_after_another_machine_trained_bridges_is_sealed_as_such(address, machine):
    publish(address, "sweep", "L01-a", 1)
    machine("second")
    settings = pin_device(load_study("smoke"))
    score = publish(address, "score", "s", None, score_json=dump_json({"selected_layer": 2}))
    assert seal_selection(resolve_home(address), settings, score)["earlier_sweep_stores"] == 1
    machine("third")
    publish(address, "sweep", "L02-b", 2)
    sealed = seal_selection(resolve_home(address), settings, score)  # the seal of the second machine stands
    assert sealed["earlier_sweep_stores"] == 1


def test_the_backbone_of_a_hybrid_is_found_in_the_assets_of_a_remote_home(address, machine):
    backbone = load_study("quickstart").backbone
    publish(address, "assets", "a-old", backbone.identifier)
    newest = publish(address, "assets", "a-new", backbone.identifier)
    machine("second")
    record = asset_records(backbone, (resolve_home(address),))[backbone.identifier]
    assert (record.key, record.digest) == ("a-new", newest.digest)
    assert (record.path / "data.bin").read_bytes() == b"x"


def test_a_store_is_fetched_to_be_verified_by_a_part_of_its_name(address, machine):
    publish(address, "score", "abc123", None)
    publish(address, "score", "abd456", None)
    machine("second")
    home = resolve_home(address)
    assert find_store(home, "abc") == home / "score" / "abc123"
    assert not (home / "score" / "abd456").exists()


def test_the_latest_hidden_states_are_fetched_to_be_verified(address, machine):
    publish(address, "activations", "older", None)
    publish(address, "activations", "newer", None)
    machine("second")
    home = resolve_home(address)
    assert find_store(home, None) == home / "activations" / "newer"


def test_no_key_depends_on_where_stores_are_kept():
    for stage in STAGES:
        assert not [module for module in stage_code(stage) if module.startswith("dihal_core.remote")]


def test_a_folder_that_is_nowhere_is_not_fetched(address, machine, tmp_path: Path):
    home = resolve_home(address)
    assert not store_folder(home, "score", "none").exists()
    assert store_folder(tmp_path, "score", "none") == tmp_path / "score" / "none"


def test_a_record_is_present_here_or_there(address, machine, tmp_path: Path):
    record = publish(address, "score", "abc123", None)
    machine("second")
    assert is_present(record)
    store = StageStore(tmp_path, "score", "x")
    store.write_bytes("data.bin", b"x")
    local = store.finalize({}, {}, None)
    assert is_present(local)

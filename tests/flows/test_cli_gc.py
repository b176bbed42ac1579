import json

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from dihal_core.profiles import load_study
from dihal_core.runner import ensure
from dihal_core.store import StageStore
from dihal_core.study import pin_settings, request_for
from flows import retention, server
from flows.cli import main


@pytest.fixture
def unused(tmp_path):
    store = StageStore(tmp_path, "corpus", "c1")
    store.write_bytes("data.bin", b"x" * 1000)
    return store.finalize({}, {"request": {"inputs": {}}}, None)


def test_gc_lists_and_removes_only_when_told(unused, tmp_path, capsys):
    assert main(["gc", "--home", str(tmp_path), "--older-than", "0"]) == 0
    said = capsys.readouterr().out
    assert "corpus/c1" in said
    assert "nothing was removed" in said
    assert unused.path.is_dir()
    assert main(["gc", "--home", str(tmp_path)]) == 0
    assert "every store older than 7 days is needed" in capsys.readouterr().out
    assert main(["gc", "--home", str(tmp_path), "--older-than", "0", "--delete", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["stores"]
    assert row["removed"]
    assert row["kind"] == "store"
    assert not unused.path.exists()


def test_real_stores_are_followed_through_their_manifests(tmp_path, capsys):
    settings = pin_settings(load_study("smoke"), ask_hub=False)
    records: dict = {"assets": {}}
    for stage in ("corpus", "activations"):
        records[stage] = ensure(request_for(stage, settings, tmp_path, records))
    result = tmp_path / "studies" / "smoke" / "study.json"
    result.parent.mkdir(parents=True)
    dump = records["activations"]
    result.write_text(json.dumps({"records": [{"stage": dump.stage, "key": dump.key}]}))
    assert main(["gc", "--home", str(tmp_path), "--older-than", "0", "--delete"]) == 0
    assert "is needed by a study" in capsys.readouterr().out
    result.unlink()
    assert main(["gc", "--home", str(tmp_path), "--older-than", "0", "--delete"]) == 0
    assert "removed 2 of 2" in capsys.readouterr().out
    assert not dump.path.exists()


@pytest.mark.parametrize(
    ("words", "message"), [(["--older-than", "-1"], "no age"), (["--prefect-days", "nan"], "no age")]
)
def test_a_wrong_age_is_a_sentence(words, message, tmp_path, capsys):
    assert main(["gc", "--home", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err


def test_without_a_server_old_runs_cannot_be_listed(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert main(["gc", "--home", str(tmp_path), "--prefect-days", "30"]) == 2
    assert "start it with `dihal up`" in capsys.readouterr().err


@flow(name="dihal-watch")
def soon_forgotten():
    return 1


def test_old_flow_runs_are_listed_and_removed_on_demand(tmp_path, prefect_server):
    state = soon_forgotten(return_state=True)
    run = state.state_details.flow_run_id
    assert retention.old_runs(tmp_path, prefect_server, 1, delete=True)["found"] == 0
    listed = retention.old_runs(tmp_path, prefect_server, 0, delete=False)
    assert listed["found"] >= 1
    assert listed["deleted"] == 0
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(run).id == run
        removed = retention.old_runs(tmp_path, prefect_server, 0, delete=True)
        assert removed["deleted"] == removed["found"] >= 1
        with pytest.raises(ObjectNotFound):
            client.read_flow_run(run)


def test_our_server_forgets_runs_after_ninety_days_unless_told_otherwise(tmp_path, monkeypatch):
    made = server.prefect_environment(tmp_path)
    assert made["PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED"] == "events,flow_runs"
    assert int(made["PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD"]) == 90 * 86400
    monkeypatch.setenv("PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED", "events")
    assert "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED" not in server.prefect_environment(tmp_path)

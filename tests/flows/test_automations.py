from datetime import timedelta
from pathlib import Path

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import get_client
from prefect.events.schemas.automations import AutomationCore, Posture

from dihal_core.errors import ConfigError, ResourceError
from flows.automations import AUTOMATIONS_FILE, apply_automations, read_automations
from flows.hooks import NOTIFY_ENVIRONMENT
from flows.server import prefect_environment

ROOT = Path(__file__).resolve().parents[2]


def test_the_shipped_automation_crashes_runs_whose_heartbeats_stop_and_knows_all_our_final_states():
    (data,) = read_automations(ROOT / AUTOMATIONS_FILE)
    automation = AutomationCore.model_validate(data)
    trigger = automation.trigger
    assert trigger.posture == Posture.Proactive
    heartbeat = int(prefect_environment(ROOT)["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    assert timedelta(seconds=2 * heartbeat) < trigger.within < timedelta(seconds=120 - 15)
    ends = {"Completed", "Partial", "Failed", "TimedOut", "Cancelled", "Crashed"}
    assert {f"prefect.flow-run.{name}" for name in ends} <= trigger.expect
    assert automation.actions[0].state == "CRASHED"


def test_applying_twice_leaves_one_and_takes_over_changes(prefect_server, tmp_path):
    said = []
    apply_automations(prefect_server, ROOT, said.append)
    (tmp_path / "deployments").mkdir()
    text = (ROOT / AUTOMATIONS_FILE).read_text(encoding="utf-8").replace("within: 80", "within: 70")
    (tmp_path / AUTOMATIONS_FILE).write_text(text, encoding="utf-8")
    apply_automations(prefect_server, tmp_path, said.append)
    with get_client(sync_client=True) as client:
        (found,) = client.read_automations_by_name("dihal-dead-runs")
    assert found.trigger.within == timedelta(seconds=70)
    assert said == ["automations applied: dihal-dead-runs"] * 2


def test_the_server_tells_of_runs_that_are_gone_where_a_block_is_named(prefect_server, monkeypatch):
    CustomWebhookNotificationBlock(name="ops", url="http://127.0.0.1:9/hook").save("dihal-gone", overwrite=True)
    for named, actions in [("custom-webhook/dihal-gone", 2), ("custom-webhook/nobody", 1), ("", 1)]:
        monkeypatch.setenv(NOTIFY_ENVIRONMENT, named)
        said = []
        apply_automations(prefect_server, ROOT, said.append)
        with get_client(sync_client=True) as client:
            (found,) = client.read_automations_by_name("dihal-dead-runs")
            block = client.read_block_document_by_name("dihal-gone", "custom-webhook")
        assert len(found.actions) == actions
        assert [action.block_document_id for action in found.actions[1:]] == [block.id] * (actions - 1)
        assert ("no notification block 'custom-webhook/nobody'" in said[0]) == named.endswith("nobody")


def test_a_study_in_a_shell_that_names_no_block_leaves_the_servers_in_place(prefect_server, monkeypatch):
    CustomWebhookNotificationBlock(name="ops", url="http://127.0.0.1:9/hook").save("dihal-kept", overwrite=True)
    for named, keep, actions in [("custom-webhook/dihal-kept", False, 2), ("", True, 2), ("", False, 1), ("", True, 1)]:
        monkeypatch.setenv(NOTIFY_ENVIRONMENT, named)
        apply_automations(prefect_server, ROOT, print, keep_told=keep)
        with get_client(sync_client=True) as client:
            (found,) = client.read_automations_by_name("dihal-dead-runs")
        assert len(found.actions) == actions


@pytest.mark.parametrize("text", ["", "automations", "other: []", "{"])
def test_an_unusable_file_is_a_sentence(text, tmp_path):
    path = tmp_path / "automations.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="holds no list under `automations`"):
        read_automations(path)


def test_an_automation_the_server_cannot_take_is_named(prefect_server, tmp_path):
    (tmp_path / "deployments").mkdir()
    (tmp_path / AUTOMATIONS_FILE).write_text("automations: [{name: broken}]", encoding="utf-8")
    with pytest.raises(ResourceError, match="'broken'"):
        apply_automations(prefect_server, tmp_path, print)

"""The daily look at a hub that is a small HTTP server on loopback."""

import contextlib
import http.server
import json
import threading
import urllib.parse
from typing import ClassVar

import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from dihal_core.errors import ConfigError, NetworkError
from dihal_core.profiles import load_study
from dihal_core.study import study_name
from dihal_core.watching import Watched, hub_revision, memory_name, remember, remembered, study_parameters, watched
from flows.study import full_study
from flows.watch import watch

OLD, NEW = "a" * 40, "b" * 40


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers `/api/models/<id>/revision/main` like the hub does."""

    revisions: ClassVar[dict[str, str]] = {}

    def do_GET(self):
        parts = urllib.parse.unquote(self.path.partition("?")[0]).removeprefix("/api/models/").split("/revision/")
        commit = self.revisions.get(parts[0])
        body = json.dumps({"id": parts[0], "sha": commit} if commit else {"error": "Repository not found"}).encode()
        self.send_response(200 if commit else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Keep the test's output clean."""


@pytest.fixture
def hub(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield Hub.revisions
    server.shutdown()
    server.server_close()
    Hub.revisions.clear()


def test_hub_backbones_are_watched_with_their_profile_and_pinned_ones_refused():
    assert watched(["qwen3-8b"]) == [Watched("qwen3-8b", "Qwen/Qwen3-8B", "main", "paper-qwen3-8b", True)]
    assert watched(["qwen3-8b"])[0].deployment == "dihal/full-study-gpu"
    assert {item.backbone for item in watched()} >= {"qwen3-8b", "llama-3.1-8b-instruct"}
    with pytest.raises(ConfigError, match="whose weights do not move"):
        watched(["gemma-3-270m"])


def test_the_hub_gives_a_commit_or_a_sentence(hub):
    hub["Qwen/Qwen3-8B"] = NEW
    assert hub_revision("Qwen/Qwen3-8B") == NEW
    with pytest.raises(NetworkError, match="gave no revision of some/other"):
        hub_revision("some/other")


def test_a_watched_revision_is_a_study_of_the_same_name_with_that_commit():
    given = study_parameters(watched(["qwen3-8b"])[0], NEW)
    settings = load_study(given["profile"], given["backbone"], 0, given["overrides"])
    assert settings.backbone.revision == NEW
    assert study_name(settings) == study_name(load_study("paper-qwen3-8b", "qwen3-8b", 0))


def test_an_unreadable_memory_is_refused_for_guessing_could_start_a_study_twice(tmp_path):
    target = watched(["qwen3-8b"])[0]
    remember(tmp_path, target, OLD)
    assert remembered(tmp_path, "qwen3-8b")["revision"] == OLD
    (tmp_path / memory_name("qwen3-8b")).write_text("{")
    with pytest.raises(ConfigError, match="remove it"):
        remembered(tmp_path, "qwen3-8b")


@pytest.fixture
def deployed(prefect_server):
    """The deployment the watch starts, without a worker: its runs stay scheduled."""
    with get_client(sync_client=True) as client:
        client.create_deployment(flow_id=client.create_flow(full_study), name="full-study-gpu")


def started_runs() -> list:
    with get_client(sync_client=True) as client:
        return [run for run in client.read_flow_runs(limit=200) if "watch" in run.tags]


def looks(home) -> list[dict]:
    return watch(backbones=["qwen3-8b"])["looks"]


def test_a_change_starts_one_study_and_looking_again_starts_no_other(hub, home, deployed):
    hub["Qwen/Qwen3-8B"] = OLD
    assert looks(home)[0]["status"] == "first look"
    assert looks(home)[0]["status"] == "unchanged"
    assert started_runs() == []
    hub["Qwen/Qwen3-8B"] = NEW
    assert looks(home)[0]["status"] == "changed"
    (run,) = started_runs()
    assert run.parameters["overrides"] == {"backbone.revision": NEW}
    assert (run.parameters["backbone"], run.parameters["profile"]) == ("qwen3-8b", "paper-qwen3-8b")
    assert remembered(home, "qwen3-8b")["started"] == {NEW: str(run.id)}
    assert looks(home)[0]["status"] == "unchanged"
    remember(home, watched(["qwen3-8b"])[0], OLD)  # as if killed after the start, before it was remembered
    assert looks(home)[0]["status"] == "changed"
    assert len(started_runs()) == 1


def test_a_change_without_a_deployment_fails_and_is_seen_again_the_next_day(hub, home, prefect_server):
    target = watched(["llama-3.1-8b-instruct"])[0]
    with get_client(sync_client=True) as client, contextlib.suppress(ObjectNotFound):
        client.delete_deployment(client.read_deployment_by_name(target.deployment).id)
    remember(home, target, OLD)
    hub[target.identifier] = NEW
    with pytest.raises(ConfigError, match="no deployment dihal/full-study-gpu to start"):
        watch(backbones=[target.backbone])
    assert remembered(home, target.backbone)["revision"] == OLD


def test_offline_is_completed_and_says_unknown(home, prefect_server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    state = watch(backbones=["qwen3-8b"], return_state=True)
    assert state.is_completed()
    assert "qwen3-8b: unknown, http://127.0.0.1:9 gave no revision of Qwen/Qwen3-8B" in state.message
    assert remembered(home, "qwen3-8b") == {}

import socket
import time

from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks import progress
from tasks.progress import TaskProgress


def artifact(key: str):
    chosen = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
    with get_client(sync_client=True) as client:
        return client.read_artifacts(artifact_filter=chosen)[0]


def test_a_progress_artifact_moves_and_tells_rate_and_eta(prefect_server, monkeypatch):
    monkeypatch.setattr(progress, "ARTIFACT_EVERY_S", 0.0)
    seen = []

    @task
    def dump():
        report = TaskProgress("activations", "moving-progress", every_s=0.0)
        report(0, 100, "windows")
        for done in (25, 50, 100):
            report(done, 100, "windows")
            found = artifact("moving-progress")
            seen.append((found.data, found.description))

    @flow
    def run():
        dump()

    run()
    assert [percent for percent, _ in seen] == [25.0, 50.0, 100.0]
    assert "25/100 windows" in seen[0][1]
    assert "windows/s, ETA" in seen[0][1]
    assert "ETA" not in seen[-1][1]


def test_a_finished_stage_stands_at_100_although_its_last_report_did_not(prefect_server):
    @task
    def train():
        report = TaskProgress("sweep-L01", "ended-progress")
        report(0, 100, "%")
        report(97, 100, "%")  # too soon after the first to be shown
        report.end()

    @flow
    def run():
        train()

    run()
    found = artifact("ended-progress")
    assert found.data == 100.0
    assert found.description.startswith("sweep-L01: done in ")


def test_a_server_that_is_away_does_not_stop_the_work(caplog):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{taken.getsockname()[1]}/api"}):
            TaskProgress("sweep-L01", "away", every_s=0.0)(1, 2, "steps")
    assert "progress away not shown in the UI (ConnectError: " in caplog.text


def test_a_server_that_says_nothing_holds_the_work_up_for_seconds_only(prefect_server, monkeypatch, caplog):
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(progress, "ARTIFACT_EVERY_S", 0.0)
    seconds = []

    @task
    def train(url):
        report = TaskProgress("sweep-L01", "silent-progress", every_s=0.0)
        report(1, 3, "steps")  # while the server answers
        began = time.monotonic()
        with temporary_settings({PREFECT_API_URL: url}):
            report(2, 3, "steps")
        seconds.append(time.monotonic() - began)

    @flow
    def run(url):
        train(url)

    with socket.socket() as silent:  # takes connections and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        run(f"http://127.0.0.1:{silent.getsockname()[1]}/api")
    assert seconds[0] < 8
    assert "silent-progress not shown in the UI" in caplog.text
    assert artifact("silent-progress").type == "progress"

"""The deployment as an operator uses it: server, worker and deployment up, one run by name, all down again."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def dihal(project: Path, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *words, "--home", str(home)],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def deployed(tmp_path):
    project, home = tmp_path / "project", tmp_path / "runs"
    shutil.copytree(ROOT / "deployments", project / "deployments")
    port = server.free_port(4700)
    try:
        up = dihal(project, home, "up", "--port", str(port))
        assert up.returncode == 0, up.stdout + up.stderr
        yield project, home, server.running_url(home)
    finally:
        down = dihal(project, home, "down")
        assert "server: stopped" in down.stdout


def test_the_deployment_runs_by_name_and_leaves_artifacts_and_a_report(deployed):
    project, home, url = deployed
    assert (project / "prefect.toml").is_file()
    words = ["--no-prompt", "deployment", "run", "dihal/full-study", "-p", "profile=smoke", "--watch"]
    done = server.prefect(home, url, *words, cwd=project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (home / "studies" / "smoke-random-llama-4-layers-d-32-s0" / "report.html").is_file()
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        runs = client.read_flow_runs()
        assert [run.state_name for run in runs] == ["Completed"]
        assert runs[0].name == "smoke · random Llama (4 layers, d = 32) · seed 0"
        keys = {artifact.key for artifact in client.read_artifacts()}
    slug = "smoke-random-llama-4-layers-d-32"
    for name in ("corpus", "gates", "score", "agreement", "replace", "evaluate-heldout", "report", "sweep-l02"):
        assert f"{slug}-{name}" in keys
    assert {f"{slug}-s0-plan", f"{slug}-s0-sealed-selection", f"{slug}-s0-answer"} <= keys


def test_a_wrong_parameter_is_refused_or_fails_with_a_sentence(deployed):
    project, home, url = deployed
    refused = server.prefect(home, url, "--no-prompt", "deployment", "run", "dihal/full-study", "-p", "profil=x")
    assert refused.returncode != 0
    words = ["--no-prompt", "deployment", "run", "dihal/full-study", "-p", "profile=smokee", "--watch"]
    failed = server.prefect(home, url, *words, cwd=project)
    assert failed.returncode != 0
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        states = [run.state for run in client.read_flow_runs()]
    assert any("did you mean 'smoke'" in str(state.message) for state in states if state is not None)


def test_two_first_runs_at_once_share_one_server(tmp_path):
    said: list[str] = []
    port = server.free_port(4800)
    try:
        with ThreadPoolExecutor(2) as pool:
            urls = list(pool.map(lambda _: server.ensure_server(tmp_path, said.append, port), range(2)))
        assert urls[0] == urls[1] == server.running_url(tmp_path)
        assert len(said) == 1
    finally:
        server.stop_all(tmp_path, said.append)
    assert server.running_url(tmp_path) is None

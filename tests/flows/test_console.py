"""What a command sets up before Prefect is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from flows.server import prefect_environment, prefect_toml_leads_elsewhere

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from pathlib import Path
from flows import console
url = console.connect(Path(sys.argv[1]), None)
from prefect.settings import get_current_settings
found = get_current_settings()
print(url, found.api.url, found.flows.heartbeat_frequency, found.results.default_serializer,
      ",".join(sorted(found.logging.extra_loggers)), sep="\\n")
"""


@pytest.mark.parametrize("given", ["a server of its own", "PREFECT_API_URL"])
def test_a_study_in_the_project_folder_runs_under_the_settings_of_the_home(given, prefect_server, tmp_path):
    home = tmp_path / "runs"
    (home / ".prefect").mkdir(parents=True)
    facts = {"pid": os.getpid(), "created": psutil.Process().create_time(), "url": prefect_server}
    (home / ".prefect" / "server.json").write_text(json.dumps(facts))
    (tmp_path / "deployments").symlink_to(ROOT / "deployments")  # its automations are applied by an import of Prefect
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    if given == "PREFECT_API_URL":
        environment["PREFECT_API_URL"] = prefect_server
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(home)],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    wanted = prefect_environment(home, prefect_server)
    assert done.stdout.splitlines() == [
        prefect_server,
        prefect_server,
        wanted["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"],
        wanted["PREFECT_RESULTS_DEFAULT_SERIALIZER"],
        ",".join(sorted(wanted["PREFECT_LOGGING_EXTRA_LOGGERS"].split(","))),
    ]


def test_a_study_in_another_home_leaves_the_project_to_the_server_that_was_put_up(prefect_server, tmp_path):
    text = f'home = "/operators/.prefect"\n\n[api]\nurl = "{prefect_server}"\n'
    (tmp_path / "prefect.toml").write_text(text, encoding="utf-8")
    assert prefect_toml_leads_elsewhere(tmp_path / "runs", tmp_path)
    assert not prefect_toml_leads_elsewhere(Path("/operators"), tmp_path)  # its own
    for gone in (text.replace(prefect_server, "http://127.0.0.1:9/api"), "[api", "api = 3", "api = {url = 4}", ""):
        (tmp_path / "prefect.toml").write_text(gone, encoding="utf-8")
        assert not prefect_toml_leads_elsewhere(tmp_path / "runs", tmp_path)

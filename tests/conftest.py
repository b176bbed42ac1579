import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tiny tensors, and two spinning teams on two cores crawl

import pytest
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory):
    """One real Prefect server with a database of its own, for all flow tests."""
    os.environ["PREFECT_RESULTS_LOCAL_STORAGE_PATH"] = str(tmp_path_factory.mktemp("results"))
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    with prefect_test_harness(server_startup_timeout=180):
        yield PREFECT_API_URL.value()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty DIHAL_HOME."""
    folder = tmp_path / "runs"
    monkeypatch.setenv("DIHAL_HOME", str(folder))
    return folder

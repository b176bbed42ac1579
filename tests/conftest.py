import contextlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

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


class Receiver:
    """A web hook on loopback that keeps what it gets."""

    def __init__(self):
        self.messages = received = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                return None

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/hook"


@pytest.fixture(scope="session")
def receiving():
    """A context in which messages to people arrive somewhere."""

    @contextlib.contextmanager
    def receiver():
        made = Receiver()
        try:
            yield made
        finally:
            made.server.shutdown()
            made.server.server_close()

    return receiver

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import psutil
import pytest

from dihal_core.errors import ConfigError
from flows import server
from flows.limits import RUNS_AT_ONCE, runs_at_once


@pytest.fixture
def proxy(monkeypatch):
    """A proxy on loopback that answers for every server; yields the addresses it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            return None

    made = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{made.server_port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield asked
    made.shutdown()
    made.server_close()


def test_a_server_elsewhere_is_asked_through_the_proxy_of_the_environment(proxy):
    assert server.healthy("http://prefect.example:4200/api")
    assert proxy == ["http://prefect.example:4200/api/health"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.8.9.1"])
def test_a_server_on_loopback_is_asked_directly(host, proxy):
    assert not server.healthy(f"http://{host}:1/api", timeout_s=1)
    assert proxy == []


@pytest.mark.parametrize("url", ["", "nonsense", "http://[::1/api", "ftp://x"])
def test_what_is_no_address_is_not_healthy(url):
    assert not server.healthy(url, timeout_s=1)


def test_one_cpu_run_starts_at_a_time_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.delenv(RUNS_AT_ONCE, raising=False)
    assert runs_at_once() == 1
    monkeypatch.setenv(RUNS_AT_ONCE, " 3 ")
    assert runs_at_once() == 3


@pytest.mark.parametrize("given", ["0", "-1", "two", "1.5", "none", "1 2", "9" * 5000])
def test_a_bad_number_of_runs_starts_no_worker_and_is_told(given, monkeypatch, tmp_path):
    monkeypatch.setenv(RUNS_AT_ONCE, given)
    with pytest.raises(ConfigError, match="is not a whole number from 1 to 9999; .* leave it out for 1"):
        server.ensure_worker(tmp_path, "http://127.0.0.1:1/api", print)
    assert list(tmp_path.iterdir()) == []


def test_workers_are_started_with_their_limits_and_keep_them_until_they_are_stopped(
    prefect_server, monkeypatch, tmp_path
):
    said: list[str] = []
    try:
        monkeypatch.setenv(RUNS_AT_ONCE, "2")
        server.ensure_worker(tmp_path, prefect_server, said.append, ["1"])
        found = {}
        for name in ("worker", "worker-gpu-1"):
            process = psutil.Process(json.loads((tmp_path / ".prefect" / f"{name}.json").read_bytes())["pid"])
            found[name] = (process.cmdline()[-4:], process.environ().get("CUDA_VISIBLE_DEVICES"))
        assert found["worker"][0] == ["--work-queue", "default", "--limit", "2"]
        assert found["worker-gpu-1"] == (["--work-queue", "gpu", "--limit", "1"], "1")
        monkeypatch.setenv(RUNS_AT_ONCE, "4")
        server.ensure_worker(tmp_path, prefect_server, said.append, ["1"])
        assert said[-1] == "worker runs on as it was started; 4 at once holds after `dihal down` and `dihal up`"
    finally:
        server.stop_all(tmp_path, said.append)

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from flows import server


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

"""A server that says nothing costs seconds, and a slow one that moves is waited for."""

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dihal_core.errors import NetworkError
from dihal_core.remote import failures
from dihal_core.remote.failures import is_lost
from dihal_core.remote.objects import Objects

ANSWER_SECONDS = 0.5
BODY = bytes(range(256)) * (8 * 2**20 // 256)
"""More than the buffers of a connection hold."""


class Endpoint:
    """Takes connections and reads `rate` bytes per second of them (0: nothing); it answers whoever sent all."""

    def __init__(self, rate: int):
        self.rate, self.taken = rate, 0
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)  # the buffers of the kernel hide the rate
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(50)
        self.held: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.held.append(connection)
            if self.rate:
                threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        while True:
            head = b""
            while b"\r\n\r\n" not in head:
                got = connection.recv(2**16)
                if not got:
                    return
                head += got
            lines = head.split(b"\r\n\r\n", 1)[0].decode().lower().split("\r\n")
            size = next((int(line.split(":")[1]) for line in lines if line.startswith("content-length:")), 0)
            came = len(head.split(b"\r\n\r\n", 1)[1])
            left, self.taken = size - came, self.taken + came
            while left > 0:
                block = connection.recv(min(left, 2**16))
                if not block:
                    return
                left, self.taken = left - len(block), self.taken + len(block)
                time.sleep(len(block) / self.rate)
            etag = hashlib.md5(BODY, usedforsecurity=False).hexdigest()
            length = len(BODY) if lines[0].startswith("head") else 0
            answer = f'HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nETag: "{etag}"\r\n'
            connection.sendall(f"{answer}Last-Modified: Sat, 21 Nov 2026 10:00:00 GMT\r\n\r\n".encode())

    def close(self) -> None:
        for open_socket in (self.listener, *self.held):
            open_socket.close()


@pytest.fixture
def endpoint(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "unused")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("AWS_MAX_ATTEMPTS", raising=False)
    monkeypatch.setattr(failures, "ANSWER_SECONDS", ANSWER_SECONDS)
    monkeypatch.setattr(failures, "BRIEF_ANSWER_SECONDS", ANSWER_SECONDS)
    monkeypatch.setattr(failures, "SILENT_SECONDS", 2 * ANSWER_SECONDS)

    @contextmanager
    def begin(rate: int) -> Iterator[Endpoint]:
        made = Endpoint(rate)
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        try:
            yield made
        finally:
            made.close()
            s3fs.S3FileSystem.clear_instance_cache()

    return begin


def test_the_environment_and_the_operator_s_own_configuration_win_over_the_bounds_of_a_study(monkeypatch):
    from fsspec.config import conf

    def options():
        return failures._client_options("s3://bucket/runs")["config_kwargs"]

    monkeypatch.delenv("AWS_MAX_ATTEMPTS", raising=False)
    assert options()["retries"] == {"total_max_attempts": failures.CLIENT_ATTEMPTS}
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "5")
    assert "retries" not in options()
    monkeypatch.setitem(conf, "s3", {"config_kwargs": {"read_timeout": 99, "signature_version": "s3v4"}})
    assert options()["read_timeout"] == 99
    with failures.brief():
        assert options()["read_timeout"] == failures.BRIEF_ANSWER_SECONDS
        assert options()["signature_version"] == "s3v4"
    assert failures._client_options("memory://runs") == {}


def test_a_write_to_a_silent_server_fails_in_a_sentence_and_the_next_operation_asks_once(endpoint):
    with endpoint(rate=0):
        objects, began = Objects("s3://bucket/silent"), time.monotonic()
        with pytest.raises(
            NetworkError, match=r"writing x failed after \d attempts? .*Read timeout.*check the network"
        ):
            objects.write("x", b"data")
        assert time.monotonic() - began < 8 * ANSWER_SECONDS
        assert is_lost("s3://bucket/silent")
        with pytest.raises(NetworkError, match=r"reading x failed after 1 attempt \("):
            objects.read("x")


def test_an_upload_that_stops_moving_is_given_up(endpoint, tmp_path):
    path = tmp_path / "big.bin"
    path.write_bytes(BODY)
    with endpoint(rate=0):
        began = time.monotonic()
        with pytest.raises(NetworkError, match=r"uploading big\.bin failed"):
            Objects("s3://bucket/stalled").upload(path, "big.bin", hashlib.sha256(BODY).hexdigest())
        assert time.monotonic() - began < 20 * ANSWER_SECONDS


def test_an_upload_that_moves_is_not_cut_however_long_it_takes(endpoint, tmp_path):
    path = tmp_path / "big.bin"
    path.write_bytes(BODY)
    with endpoint(rate=3 * 2**20) as slow:
        began = time.monotonic()
        found = Objects("s3://bucket/slow").upload(path, "big.bin", hashlib.sha256(BODY).hexdigest())
        assert time.monotonic() - began > 2 * ANSWER_SECONDS
        assert found.bytes == slow.taken == len(BODY)

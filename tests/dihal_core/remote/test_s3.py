"""The same guarantees over the network, on an S3-compatible server, with s3fs."""

import hashlib
import logging
import socket
import threading
import time
from pathlib import Path

import fsspec
import pytest

from dihal_core.errors import NetworkError, ResourceError
from dihal_core.files import MANIFEST
from dihal_core.inspection import inspect_store
from dihal_core.remote import checksums, failures
from dihal_core.remote.home import remote_home
from dihal_core.remote.link import check_home, share
from dihal_core.store import resolve_home
from flows.cli import main

KEY = "k" * 24


def test_a_store_goes_to_s3_and_comes_back_on_another_machine(bucket, machine, make_store):
    home, made = make_store(bucket)
    assert check_home(home) == bucket
    shared = share(home, made)
    machine("second")
    assert shared.path.is_relative_to(resolve_home(bucket))
    assert (shared.path / "deep/er/b.bin").read_bytes() == b"beta"
    assert (shared.path / MANIFEST).read_bytes() == (made.path / MANIFEST).read_bytes()


def test_an_object_changed_on_s3_is_seen_by_its_checksum_before_anything_is_fetched(bucket, machine, make_store):
    home, made = make_store(bucket)
    share(home, made)
    filesystem = fsspec.filesystem("s3")
    path = next(path for path in filesystem.find(bucket) if path.endswith("a.bin"))
    filesystem.pipe_file(path, b"alphA" + b"alpha" * 99)  # same size, one bit
    machine("second")
    there = inspect_store(resolve_home(bucket), "corpus", KEY)
    assert there.state == "damaged"
    assert "a.bin was changed" in there.reason


def test_a_large_object_goes_up_in_parts_and_its_checksum_is_known_beforehand(bucket, machine, monkeypatch, tmp_path):
    monkeypatch.setattr(checksums, "PART_BYTES", 5 * 2**20)  # the least S3 allows
    big = tmp_path / "big.bin"
    big.write_bytes(bytes(range(256)) * (12 * 2**20 // 256))
    found = remote_home(bucket).objects.upload(big, "big.bin", hashlib.sha256(big.read_bytes()).hexdigest())
    assert found.etag.endswith("-3")
    assert found.etag == checksums.expected_etag(big)


def test_only_one_of_two_manifests_is_put(bucket, machine):
    objects = remote_home(bucket).objects
    assert objects.create("corpus/k/manifest.json", b"first")
    assert not objects.create("corpus/k/manifest.json", b"second")
    with pytest.raises(FileExistsError):  # the server itself refuses, should both have looked before
        objects._fs.pipe_file(objects._path("corpus/k/manifest.json"), b"second", mode="create")
    assert objects.read("corpus/k/manifest.json") == b"first"


def test_a_bucket_that_does_not_exist_is_named_before_work_is_spent(bucket, machine):
    with pytest.raises(ResourceError, match=r"s3://no-such-bucket-of-ours/runs.*bucket.*not there.*create it"):
        check_home(resolve_home("s3://no-such-bucket-of-ours/runs"))


def test_missing_credentials_are_a_sentence_that_says_where_they_go(bucket, machine, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(ResourceError, match=r"permission denied.*AWS_ACCESS_KEY_ID"):
        check_home(resolve_home(bucket))


@pytest.mark.slow  # the S3 client itself tries for 8 s, four times
def test_an_endpoint_that_does_not_answer_is_tried_again_then_explained(
    bucket, machine, monkeypatch, caplog, make_store
):
    home, made = make_store(bucket)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{probe.getsockname()[1]}")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    machine("first")
    started = time.monotonic()
    with caplog.at_level(logging.WARNING, "dihal_core"), pytest.raises(NetworkError, match="kept on this machine"):
        share(home, made)
    assert caplog.text.count("trying again") == 3
    assert time.monotonic() - started < 120
    assert (made.path / MANIFEST).is_file()


def test_the_status_of_a_home_whose_endpoint_never_answers_is_told_within_seconds(bucket, machine, monkeypatch, capsys):
    monkeypatch.setattr(failures, "BRIEF_ANSWER_SECONDS", 0.5)
    with socket.socket() as silent:  # takes connections and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        machine("first")
        started = time.monotonic()
        assert main(["status", "--no-server", "--home", bucket]) == 0
        assert time.monotonic() - started < 8
    said = capsys.readouterr().out
    assert f"only what this machine knows of it: {bucket}: listing studies failed after 1 attempt" in said
    assert "AWS_ENDPOINT_URL" in said


def test_credentials_are_in_no_file_and_no_log(bucket, machine, make_store, caplog, tmp_path: Path):
    with caplog.at_level(logging.DEBUG, "dihal_core"):
        home, made = make_store(bucket)
        share(home, made)
        machine("second")
        assert inspect_store(resolve_home(bucket), "corpus", KEY).record is not None
    filesystem = fsspec.filesystem("s3")
    written = b"".join(filesystem.cat_file(path) for path in filesystem.find(bucket))
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for secret in ("AKIATESTDIHAL", "not-to-be-seen-anywhere"):
        assert secret.encode() not in written + kept
        assert secret not in caplog.text


class Flaky:
    """A server in front of another that answers every request 503 the first time."""

    def __init__(self, application):
        self.application, self.seen = application, set()

    def __call__(self, environ, start_response):
        request = (environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"])
        if request not in self.seen:
            self.seen.add(request)
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"]
        return self.application(environ, start_response)


@pytest.mark.slow  # the S3 client waits before it tries again
def test_every_part_and_every_object_is_sent_again_when_the_server_is_busy(bucket, machine, monkeypatch, make_store):
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    flaky = Flaky(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, flaky, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
    monkeypatch.setattr(checksums, "PART_BYTES", 5 * 2**20)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    machine("first")
    try:
        home, made = make_store(bucket, first=bytes(range(256)) * (11 * 2**20 // 256))
        shared = share(home, made)
        machine("second")
        assert (shared.path / "a.bin").stat().st_size == 11 * 2**20
    finally:
        server.shutdown()
    parts = [query for method, _, query in flaky.seen if method == "PUT" and "partNumber" in query]
    assert len(parts) == 3
    assert shared.digest == made.digest

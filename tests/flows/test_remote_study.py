"""A whole study with DIHAL_HOME on an S3-compatible server: made once, found on another machine, same digests."""

import json
import socket
import urllib.request
from pathlib import Path

import fsspec
import pytest

from dihal_core.remote import home as remote
from flows.cli import main
from flows.study import full_study

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]
STUDY = "smoke-random-llama-4-layers-d-32-s0"


@pytest.fixture
def bucket(monkeypatch):
    """A bucket of an S3-compatible server on loopback, credentials in the environment."""
    from moto.server import ThreadedMotoServer

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    forget = urllib.request.Request(f"http://127.0.0.1:{port}/moto-api/reset", method="POST")
    urllib.request.urlopen(forget, timeout=30).close()  # its buckets live in this process and outlive earlier servers
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTDIHAL")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-to-be-seen-anywhere")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    fsspec.filesystem("s3").mkdir("dihal")
    yield "s3://dihal/runs"
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def digests(manifests: list[dict]) -> dict[str, str]:
    """`{stage/unit: digest}` of every store but the report, whose ledger holds seconds."""
    return {f"{m['stage']}/{m['unit']}": m["digest"] for m in manifests if m["stage"] != "report"}


def test_a_study_on_s3_has_the_digests_of_a_local_one_and_is_cached_for_another_machine(
    bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    local = tmp_path / "local"
    monkeypatch.setenv("DIHAL_HOME", str(local))
    full_study(profile="smoke")
    expected = digests([json.loads(path.read_bytes()) for path in local.glob("*/*/manifest.json")])

    monkeypatch.setenv("DIHAL_HOME", bucket)
    monkeypatch.setenv("DIHAL_CACHE", str(tmp_path / "first"))
    first = full_study(profile="smoke")
    assert first["shared"] == f"{bucket}/studies/{STUDY}"
    filesystem = fsspec.filesystem("s3")
    found = [json.loads(filesystem.cat_file(path)) for path in filesystem.glob(f"{bucket}/*/*/manifest.json")]
    assert digests(found) == expected
    assert not [path for path in filesystem.find(bucket) if ".partial/" in path]

    monkeypatch.setenv("DIHAL_CACHE", str(tmp_path / "second"))
    remote._remote_home.cache_clear()
    second = full_study(profile="smoke")
    assert second["answer"] == first["answer"]
    ledger = json.loads((Path(second["folder"]) / "ledger.json").read_bytes())
    assert all(stage["cached"] == stage["units"] for stage in ledger["stages"].values())
    (working,) = (tmp_path / "second").iterdir()
    assert not list(working.glob("activations/*/manifest.json"))  # nothing needed the hidden states here

    monkeypatch.setenv("DIHAL_CACHE", str(tmp_path / "third"))  # a machine that only wants to look
    remote._remote_home.cache_clear()
    capsys.readouterr()
    assert main(["report", "--home", bucket]) == 0
    assert second["answer"][0] in capsys.readouterr().out
    assert main(["verify", "--home", bucket, "score/"]) == 0
    assert "every SHA-256 and the digest" in capsys.readouterr().out

    assert main(["generate", "--home", bucket, "Where", "--max-new-tokens", "2"]) == 0
    assert "Where" in capsys.readouterr().out

    written = b"".join(filesystem.cat_file(path) for path in filesystem.find(bucket))
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for secret in (b"AKIATESTDIHAL", b"not-to-be-seen-anywhere"):
        assert secret not in written + kept

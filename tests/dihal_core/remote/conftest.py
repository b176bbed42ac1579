"""Remote homes to test on, and machines: a machine is a cache folder of its own."""

import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from dihal_core.remote import failures, home
from dihal_core.store import StageRecord, StageStore, resolve_home

KEY = "k" * 24


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test does not wait seconds between attempts, nor remember what an earlier one gave up."""
    monkeypatch.setattr(failures, "_lost", {})
    monkeypatch.setattr(failures, "WAITS_SECONDS", [0.01, 0.01, 0.01])


@pytest.fixture(params=["memory", "file"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An address on a storage without network; S3 has tests of its own."""
    return f"memory://dihal-{uuid.uuid4().hex}" if request.param == "memory" else f"file://{tmp_path}/bucket"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Become another machine: its own cache folder and no memory of what it saw."""

    def become(name: str) -> None:
        monkeypatch.setenv("DIHAL_CACHE", str(tmp_path / "machines" / name))
        home._remote_home.cache_clear()

    become("first")
    return become


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An S3-compatible server on a free loopback port."""
    from moto.server import ThreadedMotoServer

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A fresh bucket; credentials are in the environment, as an operator gives them."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "AKIATESTDIHAL",
        "AWS_SECRET_ACCESS_KEY": "not-to-be-seen-anywhere",  # pragma: allowlist secret
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    name = f"dihal-{uuid.uuid4().hex[:12]}"
    fsspec.filesystem("s3").mkdir(name)
    yield f"s3://{name}/runs"
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def make_store() -> Callable[..., tuple[Path, StageRecord]]:
    """Finish a small local store in the working copy of an address; nothing is published yet."""

    def make(address: str, key: str = KEY, first: bytes = b"alpha" * 100) -> tuple[Path, StageRecord]:
        working = resolve_home(address)
        store = StageStore(working, "corpus", key)
        store.write_bytes("a.bin", first)
        store.write_bytes("deep/er/b.bin", b"beta")
        store.commit("unit-1", {"rows": 3})
        return working, store.finalize({"rows": 3}, {"request": {}}, None)

    return make


@pytest.fixture
def objects_under() -> Callable[[str], dict[str, Any]]:
    """Return `{path: filesystem}` of every object under an address, whatever the storage."""

    def find(address: str) -> dict[str, Any]:
        filesystem, root = fsspec.core.url_to_fs(address, use_listings_cache=False)
        return {path: filesystem for path in filesystem.find(root)}

    return find

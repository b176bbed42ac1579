import errno
import hashlib
import uuid

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from dihal_core.errors import NetworkError
from dihal_core.remote.objects import Objects


class OldServer(MemoryFileSystem):
    """A storage that knows no conditional PUT."""

    cachable = False

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        if mode == "create":
            raise OSError(errno.ENOSYS, "A header you provided implies functionality that is not implemented")
        super().pipe_file(path, value, mode=mode, **kwargs)


class LossyServer(MemoryFileSystem):
    """A storage that loses the last byte of the first uploads."""

    cachable = False
    losses = 0

    def put_file(self, lpath, rpath, *arguments, **options):
        super().put_file(lpath, rpath, *arguments, **options)
        if self.losses:
            self.losses -= 1
            super().pipe_file(rpath, self.cat_file(rpath)[:-1])


def on(filesystem: MemoryFileSystem) -> Objects:
    objects = Objects(f"memory://dihal-{uuid.uuid4().hex}")
    objects._fs = filesystem
    return objects


def test_names_are_listed_relative_to_the_address_and_temporary_ones_are_not(address):
    objects = Objects(address)
    objects.write("a/b/one", b"1")
    objects.write("a/two", b"22")
    objects.write("a/three.77.tmp", b"3")
    assert {name: found.bytes for name, found in objects.listing("a").items()} == {"a/b/one": 1, "a/two": 2}
    assert objects.folders("a") == ["b"]
    assert objects.listing("nothing") == {}
    assert objects.folders("nothing") == []


def test_an_object_that_is_not_there_is_none_and_may_be_removed(address):
    objects = Objects(address)
    assert objects.read("x") is None
    assert objects.stat("x") is None
    objects.remove(["x"])


def test_a_second_creation_changes_nothing(address):
    objects = Objects(address)
    assert objects.create("x", b"first")
    assert not objects.create("x", b"second")
    assert objects.read("x") == b"first"


def test_a_server_without_conditional_put_still_keeps_what_is_there():
    objects = on(OldServer())
    assert objects.create("x", b"first")
    assert not objects.create("x", b"second")
    assert objects.read("x") == b"first"


def test_an_upload_that_arrived_short_is_sent_again(tmp_path):
    path = tmp_path / "data.bin"
    path.write_bytes(b"0123456789")
    objects = on(server := LossyServer())
    server.losses = 2
    objects.upload(path, "data.bin", hashlib.sha256(b"0123456789").hexdigest())
    assert objects.read("data.bin") == b"0123456789"
    server.losses = 99
    with pytest.raises(NetworkError, match=r"uploading other.bin failed after 4 attempts.*arrived damaged"):
        objects.upload(path, "other.bin", hashlib.sha256(b"0123456789").hexdigest())


def test_a_download_with_other_bytes_is_refused_and_leaves_nothing(address, tmp_path):
    objects = Objects(address)
    objects.write("x", b"data")
    assert not objects.download("x", tmp_path / "x", hashlib.sha256(b"dat4").hexdigest())
    assert not objects.download("none", tmp_path / "x", hashlib.sha256(b"data").hexdigest())
    assert list(tmp_path.glob("x*")) == []
    assert objects.download("x", tmp_path / "x", hashlib.sha256(b"data").hexdigest())
    assert (tmp_path / "x").read_bytes() == b"data"

"""An archive is smaller, holds the same bits under every codec, and says when it is complete."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import zarr

from dihal_core.activations.archive import archive_group, archive_place, check_place, is_complete
from dihal_core.activations.codecs import CODECS
from dihal_core.activations.names import GROUP, chunk_file
from dihal_core.errors import ArtifactError, ConfigError, ResourceError

_spec = importlib.util.spec_from_file_location("dump_script", Path(__file__).with_name("dump_script.py"))
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return script.dump(tmp_path_factory.mktemp("archived"))


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_every_codec_keeps_every_bit_dimension_and_attribute(record, tmp_path, codec):
    done = archive_group(record.path / GROUP, archive_place(str(tmp_path), record.key), codec)
    original, copy = zarr.open_group(record.path / GROUP, mode="r"), zarr.open_group(done.place, mode="r")
    names = [name for name, array in original.members(max_depth=None) if isinstance(array, zarr.Array)]
    assert done.arrays == len(names) == 12
    for name in names:
        assert np.array_equal(copy[name][:], original[name][:])
        assert copy[name].metadata.dimension_names == original[name].metadata.dimension_names
        assert dict(copy[name].attrs) == dict(original[name].attrs)
    assert copy.attrs["index_convention"] == original.attrs["index_convention"]
    assert done.value_bytes == sum(original[name].nbytes for name in names)
    assert done.stored_bytes > 0


def test_an_archive_in_an_object_store_is_complete_only_at_its_end(record):
    place = archive_place("memory://bucket/archives/", record.key)
    assert place == "memory://bucket/archives/k.zarr"
    assert not is_complete(place)
    zarr.open_group(place, mode="w", zarr_format=3)
    assert not is_complete(place)
    assert archive_group(record.path / GROUP, place, "zstd").codec == "zstd"
    assert is_complete(place)
    with pytest.raises(ConfigError, match="complete archive already"):
        archive_group(record.path / GROUP, place, "zstd")


def test_a_damaged_source_is_not_archived(tmp_path):
    made = script.dump(tmp_path)
    path = chunk_file(made.path / GROUP, "geom/state_03", 2, 2)
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="geom/state_03 is damaged"):
        archive_group(made.path / GROUP, tmp_path / "copy.zarr", "zstd")
    assert not is_complete(tmp_path / "copy.zarr")


def test_a_damaged_archive_is_refused_by_any_reader(record, tmp_path):
    archive_group(record.path / GROUP, tmp_path / "copy.zarr", "zstd")
    path = chunk_file(tmp_path / "copy.zarr", "full/state_02", 0, 3)
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        zarr.open_group(tmp_path / "copy.zarr", mode="r")["full/state_02"][:]


@pytest.mark.parametrize(
    ("url", "codec", "error", "message"),
    [
        ("foo://x", "zstd", ConfigError, "fsspec knows"),
        ("memory://fine", "zip", ConfigError, "unknown codec 'zip'"),
        ("/proc/nope", "zstd", ResourceError, "archive /proc/nope cannot be written"),
    ],
)
def test_a_place_that_will_not_do_is_named_before_any_work(url, codec, error, message):
    with pytest.raises(error, match=message):
        check_place(url, codec)


def test_a_place_that_will_do_is_left_as_it_was(tmp_path):
    check_place(str(tmp_path / "new"), "zstd")
    assert list((tmp_path / "new").iterdir()) == []


def test_copying_to_an_impossible_place_is_a_sentence(record):
    with pytest.raises(ConfigError, match="archive foo://x/k.zarr"):
        archive_group(record.path / GROUP, archive_place("foo://x", "k"), "zstd")

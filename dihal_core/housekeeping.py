"""Which stores no study refers to, and how they are removed without tearing one that is in use.

A study refers to the stores whose keys stand in its files (results, their history, journals of runs: any
JSON under `<home>/studies`) and to everything those were made from, followed through the input digests
in the manifests. Whatever is younger than the cutoff, or whose lock somebody holds,
stays. Imports no torch.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from dihal_core.errors import ArtifactError, ResourceError
from dihal_core.files import MANIFEST
from dihal_core.hybrid.sources import HYBRID
from dihal_core.stages import STAGES
from dihal_core.study import PUBLISHED

KEY = re.compile(r"(?<![0-9a-f])[0-9a-f]{24}(?![0-9a-f])")
"""The hash every store name ends in (`requests.make_request`)."""
SEALS = "sealed.json"
PARTIAL, DAMAGED, REMOVED = ".partial", ".damaged-", ".removed-"
IN_USE = ".studies.lock"
"""Every running study holds it shared; removal wants it alone. It dies with its holders."""
DEFAULT_AGE_DAYS = 7.0


@dataclasses.dataclass(frozen=True)
class Leftover:
    """A folder under `<home>/<stage>` that nothing needs."""

    path: Path
    kind: str
    """`store`, `unfinished`, `damaged` or `removed` (an earlier removal that was interrupted)."""
    bytes: int
    age_days: float
    held: bool
    """Somebody holds its lock: it is being made, and stays."""

    @property
    def key(self) -> str:
        """Name of its store, without what unfinished or damaged ones carry behind it."""
        return store_key(self.path.name)


def store_key(name: str) -> str:
    """Return the key a folder name under a stage belongs to."""
    for mark in (PARTIAL, DAMAGED, REMOVED):
        name = name.split(mark)[0]
    return name


def referred(home: Path) -> set[str]:
    """Return `stage/key` of every finished store that a study's files name, directly or through inputs.

    Raises
    ------
    ArtifactError
        If one of those files cannot be read: what it refers to is unknown, so nothing may be called unused.
    """
    manifests = {f"{path.parent.parent.name}/{path.parent.name}": _manifest(path) for path in _manifest_paths(home)}

    def read(store: str, file: str) -> bytes | None:
        path = home / store / file
        return path.read_bytes() if path.is_file() else None

    return followed(manifests, texts_of_studies(home), read)


def followed(
    manifests: dict[str, dict[str, Any]], texts: list[str], read: Callable[[str, str], bytes | None]
) -> set[str]:
    """Return `stage/key` of every store that `texts` name, directly or through inputs.

    Parameters
    ----------
    manifests
        Of all finished stores, by `stage/key`.
    texts
        The JSON files of all studies.
    read
        Returns a file of a store, None if it has none of that name.
    """
    made: dict[tuple[str, str], set[str]] = {}
    for name, manifest in manifests.items():
        made.setdefault((str(manifest.get("stage")), str(manifest.get("digest"))), set()).add(name)
    named = {key for text in texts for key in KEY.findall(text)}
    queue = [name for name in manifests if named.intersection(KEY.findall(name))]
    queue += _published_from(manifests, [json.loads(text) for text in texts], read)
    kept: set[str] = set()
    while queue:
        name = queue.pop()
        if name not in kept:
            kept.add(name)
            queue.extend(maker for digest in _inputs(manifests[name]) for maker in made.get(digest, ()))
    return kept | _made_from(manifests, kept)


def names_stores(path: str) -> bool:
    """Say whether a file of a study's folder tells which stores it needs: seals and the hybrid's copy do not."""
    parts = path.split("/")
    return parts[-1].endswith(".json") and parts[-1] != SEALS and HYBRID not in parts[-2:-1]


def texts_of_studies(home: Path) -> list[str]:
    """Return the JSON files of all studies: results, their history, journals of runs. Seals only remember old scores."""
    texts = []
    for path in sorted((home / "studies").rglob("*.json")):
        if not names_stores(path.as_posix()):
            continue
        try:
            texts.append(path.read_text(encoding="utf-8"))
            json.loads(texts[-1])
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"{path} is unreadable ({type(error).__name__}: {error}), so what it needs is unknown; run that study "
                "again, or remove its folder, then look for unused stores again"
            ) from error
    return texts


def _published_from(
    manifests: dict[str, Any], published: list[Any], read: Callable[[str, str], bytes | None]
) -> list[str]:
    """Return the stores whose result was published; what was published may hold more than the store does."""
    found = []
    for name in manifests:
        for file in PUBLISHED.get(name.split("/")[0], ()):
            data = read(name, file) if file.endswith(".json") else None
            if data is not None:
                result = json.loads(data)
                if isinstance(result, dict) and any(_contains(other, result) for other in published):
                    found.append(name)
    return found


def _contains(other: Any, result: dict[str, Any]) -> bool:
    return isinstance(other, dict) and all(name in other and other[name] == value for name, value in result.items())


def _made_from(manifests: dict[str, dict[str, Any]], kept: set[str]) -> set[str]:
    """Return the hybrids of kept trainings: no result lists them, the study's folder holds a copy."""
    known = {(manifests[name]["stage"], manifests[name]["digest"]) for name in kept}
    return {
        name
        for name, manifest in manifests.items()
        if manifest.get("stage") == "hybrid" and _inputs(manifest) and set(_inputs(manifest)) <= known
    }


def _manifest_paths(home: Path) -> list[Path]:
    return [
        path
        for stage in STAGES
        for path in sorted((home / stage).glob(f"*/{MANIFEST}"))
        if store_key(path.parent.name) == path.parent.name
    ]


def _manifest(path: Path) -> dict[str, Any]:
    """Return a manifest; an unreadable one refers to nothing and is referred to by key alone."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {"stage": path.parent.parent.name, "digest": ""}
    return found if isinstance(found, dict) else {"stage": path.parent.parent.name, "digest": ""}


def _inputs(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (stage, digest) of everything a store was made from."""
    asked = manifest.get("provenance", {}).get("request", {}).get("inputs", {})
    return [(stage, digest) for stage, units in asked.items() for digest in units.values()]


def leftovers(home: Path, older_than_days: float = DEFAULT_AGE_DAYS) -> list[Leftover]:
    """Return what nothing needs, oldest first: unused stores, unfinished and damaged ones.

    Parameters
    ----------
    home : Path
        Folder of all stores (local; `dihal_core.remote.unused` does the same for a remote home).
    older_than_days : float
        Younger ones are left out: a study that has not written its result yet may be about to use them.
    """
    kept, found = referred(home), []
    for stage in STAGES:
        for folder in sorted(path for path in (home / stage).glob("*") if path.is_dir()):
            kind = _kind(folder)
            if kind == "store" and f"{stage}/{folder.name}" in kept:
                continue
            age = (time.time() - _newest(folder)) / 86400
            if age >= older_than_days:
                key = store_key(folder.name)
                found.append(Leftover(folder, kind, _bytes(folder), age, _held(folder.parent, key)))
    return sorted(found, key=lambda leftover: -leftover.age_days)


def _kind(folder: Path) -> str:
    for mark, kind in ((PARTIAL, "unfinished"), (DAMAGED, "damaged"), (REMOVED, "removed")):
        if mark in folder.name:
            return kind
    return "store"


def _newest(folder: Path) -> float:
    """Return when anything in `folder` was last written (seconds since the epoch)."""
    times = [folder.stat().st_mtime]
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return max(times)


def _bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _held(stage: Path, key: str) -> bool:
    if not (stage / f".{key}.lock").exists():
        return False
    with try_lock(stage / f".{key}.lock", fcntl.LOCK_EX) as handle:
        return handle is None


@contextlib.contextmanager
def try_lock(path: Path, kind: int) -> Iterator[BinaryIO | None]:
    """Yield the locked handle, or None if somebody else holds it."""
    with open(path, "ab") as handle:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield handle


def hold_home(home: Path) -> BinaryIO:
    """Say that a study is running in `home`; keep the handle as long as it does (its end, also by kill -9, lets go)."""
    home.mkdir(parents=True, exist_ok=True)
    handle = open(home / IN_USE, "ab")  # noqa: SIM115
    fcntl.flock(handle, fcntl.LOCK_SH)
    return handle


def remove(home: Path, chosen: Iterable[Leftover]) -> list[Leftover]:
    """Remove leftovers, each under its lock, its name freed by one rename before anything is deleted.

    Returns
    -------
    list of Leftover
        What was removed; what somebody began to make, or a study came to need, meanwhile is not among it.

    Raises
    ------
    ResourceError
        If a study is running in `home`: it may be about to use any of them.
    ArtifactError
        If what the studies refer to cannot be read.
    """
    with try_lock(home / IN_USE, fcntl.LOCK_EX) as alone:
        if alone is None:
            raise ResourceError(
                f"a study is running in {home} and may be about to use these stores; wait until it has ended, then "
                "run the same command again (nothing was removed)"
            )
        kept, done = referred(home), []
        for leftover in chosen:
            if leftover.kind == "store" and f"{leftover.path.parent.name}/{leftover.path.name}" in kept:
                continue
            with try_lock(leftover.path.parent / f".{leftover.key}.lock", fcntl.LOCK_EX) as mine:
                if mine is None or not leftover.path.is_dir():
                    continue
                doomed = leftover.path.with_name(f"{leftover.key}{REMOVED}{time.time_ns()}")
                os.rename(leftover.path, doomed)
                (doomed / MANIFEST).unlink(missing_ok=True)
                shutil.rmtree(doomed)
                done.append(leftover)
        return done

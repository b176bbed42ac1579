"""Which stores the studies of a home refer to.

A study refers to the stores whose keys stand in its files (results, their history, journals of runs: any
JSON under `<home>/studies`) and to everything those were made from, followed through the input digests
in the manifests. Imports no torch.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dihal_core.errors import ArtifactError
from dihal_core.files import MANIFEST
from dihal_core.hybrid.sources import HYBRID
from dihal_core.stages import STAGES
from dihal_core.study import PUBLISHED

KEY = re.compile(r"(?<![0-9a-f])[0-9a-f]{24}(?![0-9a-f])")
"""The hash every store name ends in (`requests.make_request`)."""
SEALS = "sealed.json"
PARTIAL, DAMAGED, REMOVED = ".partial", ".damaged-", ".removed-"


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

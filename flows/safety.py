"""What a request through the API may not do.

A request that carries parameters only may start a deployment with any; whoever runs the worker decides what
that may touch. (Who reaches the whole Prefect API is no such requester: a run's job variables replace the worker's
environment. SECURITY.md says what to put in between.) The operator's permissions come from the environment of the
worker, never from parameters:

    DIHAL_ARCHIVE_PLACES     comma-separated folders and URLs outside DIHAL_HOME that compute.archive_url may name
    DIHAL_ALLOW_REMOTE_CODE  1: backbone.trust_remote_code may be set
    DIHAL_CLUSTERS           comma-separated addresses that compute.runner_address may name
"""

import os
from pathlib import Path

from dihal_core.config import StudySettings
from dihal_core.errors import ConfigError
from dihal_core.remote.link import home_uri

ARCHIVE_PLACES = "DIHAL_ARCHIVE_PLACES"
REMOTE_CODE = "DIHAL_ALLOW_REMOTE_CODE"
CLUSTERS = "DIHAL_CLUSTERS"


def require_permitted(settings: StudySettings, home: Path | str) -> None:
    """Raise `ConfigError` if `settings` would write outside `home`, run downloaded code or trust a cluster unasked.

    Everything else a study writes is under `home` by construction: store names are hashes, study names slugs.
    """
    archive = settings.compute.archive_url
    if archive is not None:
        places = [
            str(home),
            home_uri(Path(home)),
            *_listed(ARCHIVE_PLACES),
        ]
        if not any(_inside(archive, place) for place in places):
            raise ConfigError(
                f"compute.archive_url {archive!r} lies outside DIHAL_HOME ({places[1]}); a deployment writes there only if "
                f"its worker runs with {ARCHIVE_PLACES} naming that place"
            )
    if settings.backbone.trust_remote_code and os.environ.get(REMOTE_CODE) != "1":
        raise ConfigError(
            f"backbone.trust_remote_code would run code downloaded with {settings.backbone.identifier!r}; a deployment "
            f"does so only if its worker runs with {REMOTE_CODE}=1"
        )
    cluster = settings.compute.runner_address
    if cluster is not None and cluster not in _listed(CLUSTERS):
        raise ConfigError(
            f"compute.runner_address {cluster!r} names a cluster, and Dask and Ray run what a cluster sends; a deployment "
            f"connects only if its worker runs with {CLUSTERS} naming that address"
        )


def _listed(variable: str) -> list[str]:
    return [item.strip() for item in os.environ.get(variable, "").split(",") if item.strip()]


def _inside(place: str, allowed: str) -> bool:
    """Return True if `place` is `allowed` or lies below it; `..` and links are resolved, URLs may hold no `..`."""
    if "://" in place or "://" in allowed:
        inside = place == allowed.rstrip("/") or place.startswith(f"{allowed.rstrip('/')}/")
        return inside and ".." not in place.split("/")
    return Path(place).expanduser().resolve().is_relative_to(Path(allowed).expanduser().resolve())

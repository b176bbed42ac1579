"""What a request through the API may not do, and what no log line may hold.

Whoever can reach the Prefect API can start a deployment with any parameters; whoever runs the worker
decides what that may touch. The operator's permissions come from the environment of the worker, never
from parameters:

    DIHAL_ARCHIVE_PLACES     comma-separated folders and URLs outside DIHAL_HOME that compute.archive_url may name
    DIHAL_ALLOW_REMOTE_CODE  1: backbone.trust_remote_code may be set
"""

import logging
import os
import traceback
from pathlib import Path

from dihal_core.config import StudySettings
from dihal_core.errors import ConfigError

ARCHIVE_PLACES = "DIHAL_ARCHIVE_PLACES"
REMOTE_CODE = "DIHAL_ALLOW_REMOTE_CODE"
SECRET_WORDS = ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "API_KEY", "ACCESS_KEY", "AUTH_STRING", "CREDENTIAL")
SHORTEST_SECRET = 8
HIDDEN = "[hidden]"
LOGGERS = ("dihal_core", "tasks", "flows", "prefect", "prefect.flow_runs", "prefect.task_runs", "prefect.extra", None)


def require_permitted(settings: StudySettings, home: Path | str) -> None:
    """Raise `ConfigError` if `settings` would write outside `home` or run downloaded code without permission.

    Everything else a study writes is under `home` by construction: store names are hashes, study names slugs.
    """
    archive = settings.compute.archive_url
    if archive is not None:
        places = [str(home), *filter(None, (place.strip() for place in os.environ.get(ARCHIVE_PLACES, "").split(",")))]
        if not any(_inside(archive, place) for place in places):
            raise ConfigError(
                f"compute.archive_url {archive!r} lies outside DIHAL_HOME ({home}); a deployment writes there only if "
                f"its worker runs with {ARCHIVE_PLACES} naming that place"
            )
    if settings.backbone.trust_remote_code and os.environ.get(REMOTE_CODE) != "1":
        raise ConfigError(
            f"backbone.trust_remote_code would run code downloaded with {settings.backbone.identifier!r}; a deployment "
            f"does so only if its worker runs with {REMOTE_CODE}=1"
        )


def _inside(place: str, allowed: str) -> bool:
    """Return True if `place` is `allowed` or lies below it; `..` and links are resolved, URLs may hold no `..`."""
    if "://" in place or "://" in allowed:
        inside = place == allowed.rstrip("/") or place.startswith(f"{allowed.rstrip('/')}/")
        return inside and ".." not in place.split("/")
    return Path(place).expanduser().resolve().is_relative_to(Path(allowed).expanduser().resolve())


def secrets_of_environment() -> tuple[str, ...]:
    """Return the values of variables whose names say that they are secret, longest first."""
    found = {
        value
        for name, value in os.environ.items()
        if any(word in name.upper() for word in SECRET_WORDS) and len(value) >= SHORTEST_SECRET
    }
    return tuple(sorted(found, key=lambda value: (-len(value), value)))


class Redaction(logging.Filter):
    """Replace secrets of the environment in every line that passes a handler, tracebacks included."""

    def __init__(self, secrets: tuple[str, ...]):
        super().__init__()
        self.secrets = secrets

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record where it holds a secret; nothing is dropped."""
        message = record.getMessage()
        clean = self.clean(message)
        if clean != message:
            record.msg, record.args = clean, None
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = self.clean("".join(traceback.format_exception(*record.exc_info)).rstrip())
        return True

    def clean(self, text: str) -> str:
        """Return `text` without the secrets."""
        for secret in self.secrets:
            text = text.replace(secret, HIDDEN)
        return text


def redact_logs() -> None:
    """Put the filter on every handler our lines and Prefect's run logs go through (again is harmless)."""
    secrets = secrets_of_environment()
    if not secrets:
        return
    for name in LOGGERS:
        for handler in logging.getLogger(name).handlers:
            for old in [one for one in handler.filters if isinstance(one, Redaction)]:
                handler.removeFilter(old)
            handler.addFilter(Redaction(secrets))

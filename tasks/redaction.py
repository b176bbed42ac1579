"""What no log line may hold, in the flow's process and in the workers of a cluster: secrets of the environment."""

import logging
import os
import traceback

SECRET_WORDS = ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "API_KEY", "ACCESS_KEY", "AUTH_STRING", "CREDENTIAL")
SHORTEST_SECRET = 8
HIDDEN = "[hidden]"
LOGGERS = ("dihal_core", "tasks", "flows", "prefect", "prefect.flow_runs", "prefect.task_runs", "prefect.extra", None)


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

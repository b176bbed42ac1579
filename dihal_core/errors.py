"""Exceptions, chosen by what the caller does next.

Every message names the value that was got, what was accepted, and the next step.
Each class inherits from the builtin that callers already catch.
"""

import difflib
from collections.abc import Iterable


class DihalError(Exception):
    """Base of all errors that are explained in a sentence (the CLI prints no traceback for them)."""


class ConfigError(DihalError, ValueError):
    """The request is wrong: change the setting. Never retried."""


class AssetError(DihalError, FileNotFoundError):
    """A model or text asset is missing, corrupt or unreachable: run `dihal setup` or check the source."""


class ArtifactError(DihalError, RuntimeError):
    """A store is missing, stale or damaged: the stage that makes it must run again."""


class ResourceError(DihalError, OSError):
    """The machine lacks disk, memory, a port or a device."""


class NumericsError(DihalError, ArithmeticError):
    """A number left its domain (NaN, inf, no variance): named with layer, step or sequence."""


class GateError(DihalError, RuntimeError):
    """An exactness or causality gate failed: no number after it may be reported."""


class NetworkError(DihalError, ConnectionError):
    """The cause is outside us: worth a retry with back-off."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `" (did you mean 'x'?)"` for the closest known name, or an empty string."""
    match = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""

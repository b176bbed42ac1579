"""What a storage raises, as one sentence and a next step; which failures are worth another try."""

import contextlib
import errno
import importlib
import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

from dihal_core.errors import ConfigError, DihalError, NetworkError, ResourceError

log = logging.getLogger(__name__)

WAITS_SECONDS: list[float] = [1.0, 3.0, 8.0]
"""Waits before the second, third and fourth attempt (each varies by a quarter); s3fs tries parts again by itself."""
LOCAL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""Failures of this machine's disk: passed on as they are."""
DENIED = (
    "AccessDenied",
    "Forbidden",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "NoCredentials",
    "PartialCredentials",
    "CredentialRetrieval",
    "Unable to locate credentials",
)
CREDENTIALS = (
    "give credentials that may list, read, write and delete there in the environment (AWS_ACCESS_KEY_ID, "
    "AWS_SECRET_ACCESS_KEY), in fsspec's configuration or in a Prefect block"
)

BRIEF_CONNECT_SECONDS, BRIEF_ANSWER_SECONDS = 3.0, 5.0
"""How long a command that only looks waits for an object store to take the connection, and then for its answer."""
CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 15.0
"""The same for a study, per connection and per read of one: a long transfer that moves is never cut."""
CLIENT_ATTEMPTS = 2
"""Of the S3 client for one request (`AWS_MAX_ATTEMPTS` says otherwise), a part of a large object for instance."""
SILENT_SECONDS = 30.0
"""A storage that let one operation wait this long is not asked again by it."""
LOST_SECONDS = 120.0
"""For this long after an operation was given up, others ask that storage briefly and once, so that a run ends."""

Answer = TypeVar("Answer")

_brief: ContextVar[bool] = ContextVar("brief", default=False)
_lost: dict[str, float] = {}
"""When an operation on an address was given up (monotonic), until one succeeds."""


@contextlib.contextmanager
def brief() -> Iterator[None]:
    """Ask every storage once and wait seconds only, for commands that look and can do without."""
    token = _brief.set(True)
    try:
        yield
    finally:
        _brief.reset(token)


def is_brief() -> bool:
    """Say whether this thread is inside `brief`."""
    return _brief.get()


def is_lost(address: str) -> bool:
    """Say whether this process gave up an operation on `address` a moment ago and none has succeeded since."""
    return address in _lost and time.monotonic() - _lost[address] < LOST_SECONDS


def _waits(address: str) -> list[float]:
    return [] if is_brief() or is_lost(address) else WAITS_SECONDS


def _denied(error: BaseException) -> bool:
    said = f"{type(error).__name__}: {error}"
    return isinstance(error, PermissionError) or any(sign in said for sign in DENIED)


def _words(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or ["no details"]
    return f"{type(error).__name__}: {lines[0][:200]}"


def explained(address: str, doing: str, error: BaseException, attempts: int = 1) -> DihalError:
    """Return the error to raise for `error` after `attempts`: the cause in the storage's words, then what to do."""
    where = f"{address}: {doing} failed"
    if isinstance(error, ImportError):
        extra = "run `pip install 'dihal[s3]'`" if address.startswith("s3") else f"install what it names ({error})"
        return ConfigError(f"DIHAL_HOME {address}: this kind of address needs a package that is missing; {extra}")
    if _denied(error):
        return ResourceError(f"{where}, permission denied ({_words(error)}); {CREDENTIALS}")
    if isinstance(error, FileNotFoundError):
        return ResourceError(
            f"{where}, the bucket or folder is not there ({_words(error)}); create it, or correct the address or the "
            "endpoint (AWS_ENDPOINT_URL)"
        )
    if isinstance(error, NotImplementedError | ValueError):
        return ConfigError(
            f"DIHAL_HOME {address}: {doing} is not possible ({_words(error)}); give an address that can be written"
        )
    return NetworkError(
        f"{where} after {attempts} attempt{'s' if attempts > 1 else ''} ({_words(error)}); check the network and the endpoint "
        "(AWS_ENDPOINT_URL), then run the same command again: what was made is kept on this machine and only uploaded"
    )


def _worth_another_try(error: Exception) -> bool:
    if isinstance(error, DihalError | ImportError | FileNotFoundError | NotImplementedError | ValueError):
        return False
    return not _denied(error)


def insist(address: str, doing: str, call: Callable[[], Answer]) -> Answer:
    """Return `call()`, tried again with growing waits while the cause may pass and the storage answers at all.

    A missing object (`FileNotFoundError`) and an existing one (`FileExistsError`) are answers: they pass through.

    Raises
    ------
    NetworkError
        If no attempt succeeded.
    ResourceError
        If permission is denied.
    ConfigError
        If a package is missing or the address cannot be written.
    """
    began = time.monotonic()
    for attempt, wait in enumerate([*_waits(address), None], start=1):
        try:
            answer = call()
        except (FileNotFoundError, FileExistsError):
            _lost.pop(address, None)
            raise
        except Exception as error:
            if isinstance(error, DihalError) or (isinstance(error, OSError) and error.errno in LOCAL_ERRNOS):
                raise
            again = _worth_another_try(error)
            if wait is None or not again or time.monotonic() - began >= SILENT_SECONDS:
                if again and not is_brief() and not is_lost(address):
                    _lost[address] = time.monotonic()
                raise explained(address, doing, error, attempt) from error
            log.warning("%s: %s failed (%s); trying again", address, doing, _words(error))
            time.sleep(wait * random.uniform(0.75, 1.25))
        else:
            _lost.pop(address, None)
            return answer
    raise AssertionError("unreachable")


def filesystem(address: str) -> tuple[Any, str]:
    """Return fsspec's file system of `address` and the path in it, without any cache of listings.

    Raises
    ------
    ConfigError
        If no file system is known for the protocol, or its package is missing.
    """
    fsspec_core = importlib.import_module("fsspec.core")
    try:
        options = _client_options(address)
        filesystem, root = fsspec_core.url_to_fs(address, use_listings_cache=False, **options)
    except (ImportError, ValueError) as error:
        raise explained(address, "opening", error) from error
    if options:
        filesystem.retries = 1  # of s3fs, on top of its client's; `options` make this instance ours alone
    return filesystem, str(root).rstrip("/")


def _client_options(address: str) -> dict[str, Any]:
    """Return what bounds the waits of the S3 client; other protocols have clients of their own."""
    protocol = address.split("://", 1)[0]
    if protocol not in ("s3", "s3a"):
        return {}
    from fsspec.config import conf

    from dihal_core.remote.s3_client import bounded

    given = dict(conf.get(protocol, {}).get("config_kwargs", {}))  # the operator's own: ours would hide them
    if is_brief():
        return {"config_kwargs": {**given, **bounded(BRIEF_CONNECT_SECONDS, BRIEF_ANSWER_SECONDS, 1)}}
    attempts = None if "AWS_MAX_ATTEMPTS" in os.environ else CLIENT_ATTEMPTS
    return {"config_kwargs": {**bounded(CONNECT_SECONDS, ANSWER_SECONDS, attempts), **given}}

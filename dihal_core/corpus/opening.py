"""Opening and listing shards wherever they lie: a local folder, https, S3, or any other fsspec URL.

What goes wrong outside is told apart in sentences: no such file, access refused, no answer in time,
host not reachable, a package that is missing. Only what may be better on another attempt is a
`NetworkError`, which the tasks retry with back-off.
"""

import dataclasses
import os
import re
import stat
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from dihal_core.corpus.unpack import MEMBERS, kind_of
from dihal_core.errors import AssetError, ConfigError, DihalError, NetworkError

TIMEOUT_SECONDS = 60.0
"""Without a byte for so long a transfer is given up."""
SHARD_SUFFIXES = (".json", ".jsonl", ".ndjson", ".gz", ".zst", ".zstd")
SNIFFED_BYTES = 4096
EXTRAS = {"s3": "dihal[s3]", "s3a": "dihal[s3]"}
"""Extra of this project that reads a scheme; other schemes name their package themselves."""


def is_local(root: str) -> bool:
    """Say whether `root` is a path and no URL."""
    return "://" not in root or root.startswith("file://")


def local_path(root: str) -> Path:
    """Return the path that a local `root` names."""
    return Path(root.removeprefix("file://")).expanduser()


def redacted(url: str) -> str:
    """Return `url` without user, password and query: what may be shown and stored."""
    if is_local(url):
        return url
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def join(root: str, path: str) -> str:
    """Return the address of `path` under `root`."""
    return str(local_path(root) / path) if is_local(root) else f"{root.rstrip('/')}/{path}"


class RemoteStream:
    """A stream over the network whose failures are explained."""

    def __init__(self, url: str, handle: Any):
        self._url, self._handle = url, handle

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes; empty at the end."""
        try:
            return self._handle.read(size)
        except Exception as error:
            raise explained(self._url, error, "reading it broke off") from error

    def __enter__(self) -> "RemoteStream":
        return self

    def __exit__(self, *exc: object) -> None:
        self._handle.close()


def open_stream(url: str) -> Any:
    """Open a local path or an fsspec URL for reading from its beginning to anywhere.

    Raises
    ------
    OSError
        If a local file cannot be opened.
    AssetError
        If there is no such file at the address, or it may not be read.
    NetworkError
        If the host could not be reached, is in trouble, or gave no answer in time.
    ConfigError
        If the scheme is unknown or its package is missing.
    """
    if is_local(url):
        return open(local_path(url), "rb")
    try:
        import fsspec

        if url.startswith(("http://", "https://")):
            # size: no extra request for it; block_size 0: one plain stream, not ranges
            return RemoteStream(url, fsspec.filesystem("http", **_http_options()).open(url, "rb", block_size=0, size=1))
        file: Any = fsspec.open(url, "rb", compression=None)
        return RemoteStream(url, file.open())
    except Exception as error:
        raise explained(url, error, "it could not be reached") from error


def _http_options() -> dict[str, Any]:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT_SECONDS, sock_read=TIMEOUT_SECONDS)
    # auto_decompress: shards stay as they are stored, whatever a server says of their encoding
    return {
        "client_kwargs": {"timeout": timeout, "auto_decompress": False, "trust_env": True},
        "headers": {"User-Agent": "dihal"},
    }


def explained(url: str, error: Exception, what: str) -> DihalError:
    """Return the error of ours that says what `error` means for the user of `url`."""
    if isinstance(error, DihalError):
        return error
    place, scheme = redacted(url), urlsplit(url).scheme
    mirror = "set corpus.base_url to a mirror or a local folder"
    status = getattr(error, "status", None)
    if isinstance(error, ImportError):
        extra = EXTRAS.get(scheme)
        advice = f"run `pip install '{extra}'`" if extra else f"install what it names ({error})"
        return ConfigError(f"{place}: addresses that begin with {scheme}:// need a package that is missing; {advice}")
    if isinstance(error, FileNotFoundError):
        answer = "answers 404" if scheme in ("http", "https") else "does not exist"
        return AssetError(f"{place} {answer}; {mirror} that has it")
    if isinstance(error, PermissionError) or status in (401, 403, 410):
        return AssetError(f"{place} answers {status or 'that access is refused'}; check your credentials, or {mirror}")
    if status is not None:
        return NetworkError(f"{place} answers {status}; try again later, or {mirror}")
    if isinstance(error, TimeoutError):
        return NetworkError(f"{place} gave no answer within {TIMEOUT_SECONDS:g} s; try again, or {mirror}")
    if isinstance(error, ValueError) and "rotocol" in str(error):
        return ConfigError(f"{place}: {error}; give a local folder, https://, s3:// or another address fsspec knows")
    return NetworkError(
        f"{place}: {what} ({type(error).__name__}: {error}); finished shards are kept: check the network, or {mirror}"
    )


# ---------------------------------------------------------------------------------- what lies in a folder
@dataclasses.dataclass(frozen=True)
class Listing:
    """What was found under a root, in order of path."""

    shards: tuple[tuple[str, int], ...]
    """(path relative to the root, stored bytes) of everything that is, or calls itself, a shard."""
    ignored: tuple[str, ...] = ()
    """Files that neither look like shards nor call themselves so."""
    unreadable: tuple[tuple[str, str], ...] = ()
    """(path, reason): folders called like shards, folders that cannot be entered, pipes and devices."""


def find_shards(root: str) -> Listing:
    """List the shards under `root`, by name, and local files also by content: a wrong extension hides none.

    Raises
    ------
    ConfigError
        If `root` is no folder, or of an unknown scheme.
    AssetError, NetworkError
        If a remote folder cannot be listed.
    """
    if is_local(root):
        return _find_local(local_path(root), root)
    try:
        import fsspec

        options = _http_options() if root.startswith(("http://", "https://")) else {}
        system, base = fsspec.core.url_to_fs(root, **options)
        found = system.find(base, detail=True)
    except Exception as error:
        raise explained(root, error, "its files could not be listed") from error
    names = {name.removeprefix(base).lstrip("/"): facts for name, facts in sorted(found.items())}
    shards = tuple((name, int(facts.get("size") or 0)) for name, facts in names.items() if _is_named_so(name))
    return Listing(shards, tuple(name for name in names if not _is_named_so(name)))


def _is_named_so(name: str) -> bool:
    return name.lower().endswith(SHARD_SUFFIXES)


def _find_local(folder: Path, root: str) -> Listing:
    if not folder.is_dir():
        raise ConfigError(f"{root!r} is no folder; give a folder of shards or a URL")
    shards: list[tuple[str, int]] = []
    ignored: list[str] = []
    unreadable: list[tuple[str, str]] = []
    seen: set[str] = set()

    def walk(place: Path) -> None:
        real = os.path.realpath(place)
        if real in seen:  # a link back to a folder above would never end
            return
        seen.add(real)
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            unreadable.append((_relative(place, folder), reason_of(error)))
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = _relative(Path(entry.path), folder)
            if entry.is_dir():
                if _is_named_so(entry.name):
                    unreadable.append((name, "folder_instead_of_a_file"))
                walk(Path(entry.path))
                continue
            named, problem = _is_named_so(entry.name), file_problem(Path(entry.path))
            if problem is not None and (named or problem == "permission_denied"):
                unreadable.append((name, problem))
            elif problem is None and (named or _looks_like_a_shard(Path(entry.path))):
                shards.append((name, entry.stat().st_size))
            else:
                ignored.append(name)

    walk(folder)
    return Listing(tuple(sorted(shards)), tuple(sorted(ignored)), tuple(sorted(unreadable)))


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def file_problem(path: Path) -> str | None:
    """Return why `path` cannot be read as a file, or None. Pipes and devices are never opened: they may block."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return "folder_instead_of_a_file"
        if not stat.S_ISREG(mode):
            return "not_a_regular_file"
        with open(path, "rb"):
            return None
    except OSError as error:
        return reason_of(error)


def reason_of(error: OSError) -> str:
    """Return the reason under which a file that cannot be opened or read is counted."""
    if isinstance(error, PermissionError):
        return "permission_denied"
    return "missing_file" if isinstance(error, FileNotFoundError) else "unreadable_file"


def _looks_like_a_shard(path: Path) -> bool:
    with open(path, "rb") as handle:
        head = handle.read(SNIFFED_BYTES)
    return kind_of(head) in MEMBERS or re.match(rb"(\xef\xbb\xbf)?\s*\{", head) is not None

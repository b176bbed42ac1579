"""Addresses of remote homes: which are taken, and where their working copy lies on this machine."""

import hashlib
import json
import os
import threading
from pathlib import Path

from dihal_core.errors import ConfigError

MARKER = "remote-home.json"
"""File of a working copy that says which address it belongs to."""
READ_ONLY = frozenset({"http", "https", "data", "git", "github", "zip", "tar", "jar", "reference", "libarchive"})
"""Protocols of fsspec that only read, or whose files cannot be replaced one by one."""
EXAMPLE = "give s3://bucket/prefix, another address fsspec can write, or a folder"

_marking = threading.Lock()


def is_inside(name: str) -> bool:
    """Say whether a file name from a manifest or an index stays inside its folder."""
    return all(part not in ("", ".", "..") for part in name.split("/")) and not any(c in name for c in "\\\0")


def is_address(text: str) -> bool:
    """Say whether `text` is a URL and not a folder."""
    return "://" in text


def canonical(text: str) -> str:
    """Return the address without a trailing slash.

    Raises
    ------
    ConfigError
        For an address that carries credentials or options, climbs, is chained, or names no bucket or folder.
        Credentials are never repeated in the message.
    """
    protocol, _, rest = text.strip().partition("://")
    authority = rest.split("/", 1)[0]
    if "@" in authority:
        raise ConfigError(
            f"DIHAL_HOME: the {protocol}:// address has a user name or password before '@' (not repeated here); take it "
            "out and give credentials in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), in fsspec's "
            "configuration or in a Prefect block"
        )
    if any(sign in rest for sign in "?#"):
        raise ConfigError(
            f"DIHAL_HOME: the {protocol}:// address has options after '?' or '#' (not repeated here: they may be "
            f"secret); {EXAMPLE}, and options in fsspec's configuration"
        )
    if protocol.lower() in READ_ONLY:
        raise ConfigError(f"DIHAL_HOME {text!r}: {protocol} addresses cannot be written; {EXAMPLE}")
    if "::" in text:
        raise ConfigError(f"DIHAL_HOME {text!r} chains two addresses; {EXAMPLE}")
    parts = [part for part in rest.split("/") if part]
    if any(part in (".", "..") for part in parts):
        raise ConfigError(f"DIHAL_HOME {text!r} has a step '.' or '..'; give the plain address")
    if not protocol or not parts:
        raise ConfigError(f"DIHAL_HOME {text!r} names no bucket or folder; {EXAMPLE}")
    lead = "/" if rest.startswith("/") else ""
    return f"{protocol.lower()}://{lead}{'/'.join(parts)}"


def working_copy(address: str) -> Path:
    """Return the local folder that stands for `address`: under `$DIHAL_CACHE` or `~/.cache/dihal`.

    The folder is made and marked; it may be deleted at any time when no study runs.
    """
    url = canonical(address)
    root = Path(os.environ.get("DIHAL_CACHE") or "~/.cache/dihal").expanduser().resolve()
    readable = "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in url).split())[:40]
    folder = root / f"{readable}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    with _marking:  # the temporary name of the marker is the process's own
        if remote_address(folder) != url:
            from dihal_core.files import dump_json, write_atomically

            write_atomically(folder / MARKER, dump_json({"format": 1, "address": url}))
    return folder


def remote_address(home: Path) -> str | None:
    """Return the address that `home` is a working copy of; None for a plain local home."""
    try:
        return str(json.loads((home / MARKER).read_bytes())["address"])
    except (OSError, ValueError, KeyError, TypeError):
        return None

"""Where an artifact's data lies: plain text that can be copied, and what leads there.

Of a local home every path stands beside its link, because browsers open no `file://` from a page of a server. A remote
home is named by its address, with the command that brings the data to any machine: its working copy may lie in a
container that is gone.
"""

from pathlib import Path

from dihal_core.remote.address import is_address, remote_address
from dihal_core.remote.link import home_path
from dihal_core.requests import StageRequest
from dihal_core.store import StageRecord


def links(folder: Path, journal: Path | None = None, record: StageRecord | None = None) -> str:
    """Return Markdown that leads to the study's folder, to the settings of its run, and to a store."""
    home = folder.parents[1]
    store = f"Store: {store_place(record)}  \n" if record is not None else ""
    settings = f"Settings: {place(home, journal, 'status')}, read by `dihal status`\n" if journal else ""
    return f"\n\n---\n{store}Study: {place(home, folder)}  \n{settings}"


def coming_links(request: StageRequest) -> str:
    """Return Markdown that says where the store of a request will lie; its manifest holds the settings."""
    home = home_path(request.home)
    store = place(home, home / request.stage / request.key, f"verify {request.stage}/{request.key} --no-model")
    return f"\n\n---\nStore, once made: {store}; settings: `study_settings` in its `manifest.json`\n"


def place(home: Path, path: Path, command: str = "report") -> str:
    """Return where a file or folder of a home lies; `command` is the `dihal` command that brings it from a remote one."""
    address = remote_address(home)
    if address is None:
        return _local(path)
    return _remote(address, path.relative_to(home).as_posix(), command)


def store_place(record: StageRecord) -> str:
    """Return where a store lies, without fetching it: its path, or its address and the command that fetches it."""
    if not is_address(record.uri):
        return _local(Path(record.uri))
    address, stage, key = record.uri.rsplit("/", 2)
    return _remote(address, f"{stage}/{key}", f"verify {stage}/{key} --no-model")


def page_place(record: StageRecord, name: str) -> str:
    """Return where a page inside a store lies, for an artifact that names the store below it."""
    return f"`{name}` in the store below" if is_address(record.uri) else _local(record.path / name)


def _local(path: Path) -> str:
    return f"`{path}` ([open]({path.as_uri()}))"


def _remote(address: str, name: str, command: str) -> str:
    return f"`{address}/{name}` (to have it here: `DIHAL_HOME={address} dihal {command}`)"

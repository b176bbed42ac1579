"""Where an artifact's data lies: links at the foot of every artifact of a study."""

from pathlib import Path

from dihal_core.remote.address import is_address
from dihal_core.store import StageRecord


def links(folder: Path, journal: Path | None = None, record: StageRecord | None = None) -> str:
    """Return Markdown that leads to the study's folder, to the settings of its run, and to a store."""
    store = f"Store: {_place(record.uri)}  \n" if record is not None else ""
    settings = f"Settings: `{journal}` ([open]({journal.as_uri()})), read by `dihal status`\n" if journal else ""
    return f"\n\n---\n{store}Study: `{folder}` ([open]({folder.as_uri()}))  \n{settings}"


def _place(uri: str) -> str:
    # The path of a store on an object store would fetch it, only to draw a link.
    return f"`{uri}`" if is_address(uri) else f"`{uri}` ([open]({Path(uri).as_uri()}))"

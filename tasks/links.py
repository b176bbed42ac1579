"""Where an artifact's data lies: links at the foot of every artifact of a study."""

from pathlib import Path

from dihal_core.store import StageRecord


def links(folder: Path, journal: Path | None = None, record: StageRecord | None = None) -> str:
    """Return Markdown that leads to the study's folder, to the settings of its run, and to a store."""
    store = f"Store: `{record.uri}` ([open]({record.path.as_uri()}))  \n" if record is not None else ""
    settings = f"Settings: `{journal}` ([open]({journal.as_uri()})), read by `dihal status`\n" if journal else ""
    return f"\n\n---\n{store}Study: `{folder}` ([open]({folder.as_uri()}))  \n{settings}"

"""What a stage declares, and all its builder gets.

What a stage does not declare is not in its key, and `SettingsView` makes an undeclared read an error,
so the declaration cannot drift from the code. The stages themselves: `dihal_core.stages`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from dihal_core.progress import Progress
from dihal_core.store import StageStore


@dataclasses.dataclass(frozen=True)
class Stage:
    """One row of the pipeline."""

    name: str
    builder: str
    """`module:function`, called with a `StageContext`; returns the counts of the record."""
    reads: tuple[str, ...]
    """Dotted settings paths that enter the key; nothing else can be read by the builder."""
    inputs: tuple[str, ...]
    libraries: tuple[str, ...]
    unit: str | None = None
    """What one task run stands for (`layer`, `asset`, `set`, `arm and seed`); None for a single run."""
    after: tuple[str, ...] = ()
    """Stages that decide a value in the key (the chosen layer) without being an input."""
    writes: str = ""
    """What the store holds, for the README table and the UI."""
    unkeyed: tuple[str, ...] = ()
    """Settings the builder may read although they change no number (workers): not in the key."""


class SettingsView:
    """The part of `StudySettings` a stage declared in `reads`; anything else raises."""

    def __init__(self, model: BaseModel, stage: str, reads: tuple[str, ...], prefix: str = ""):
        self._model, self._stage, self._reads, self._prefix = model, stage, reads, prefix

    def __reduce__(self) -> tuple[Any, ...]:
        return SettingsView, (self._model, self._stage, self._reads, self._prefix)

    def __getattr__(self, name: str) -> Any:
        path = f"{self._prefix}{name}"
        if any(read in ("", path) or path.startswith(f"{read}.") for read in self._reads):
            return getattr(self._model, name)
        if any(read.startswith(f"{path}.") for read in self._reads):
            return SettingsView(getattr(self._model, name), self._stage, self._reads, f"{path}.")
        raise AttributeError(f"stage {self._stage!r} reads setting {path!r} without declaring it in STAGES")


@dataclasses.dataclass(frozen=True)
class StageContext:
    """All a builder gets. It may read nothing else, so that the key covers what it does."""

    settings: Any
    """A `SettingsView`: e.g. `context.settings.geometry.k`."""
    unit: str | int | None
    inputs: Mapping[str, Any]
    """A `StageRecord` per input stage, or `{unit: StageRecord}` for stages with units."""
    values: Mapping[str, Any]
    store: StageStore
    progress: Progress


def unit_label(unit: str | int) -> str:
    """Return `L07` for layer 7 and the name itself for named units."""
    return f"L{unit:02d}" if isinstance(unit, int) else unit

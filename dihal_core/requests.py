"""Requests for stages and the keys they are stored under.

A key is `sha256(sorted JSON of: stage, unit, the settings the stage reads, input digests, extra
values such as the backbone's identity, hashes of the core modules its builder can reach, versions of
the numerical libraries)`. What a stage does not read is not in its key.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dihal_core.config import StudySettings
from dihal_core.contract import unit_label
from dihal_core.inspection import StoreStatus, inspect_store
from dihal_core.libraries import further_libraries
from dihal_core.provenance import code_closure, package_version
from dihal_core.remote.link import home_path, home_uri
from dihal_core.stages import STAGES
from dihal_core.store import StageRecord

Inputs = Mapping[str, StageRecord | Mapping[str | int, StageRecord]]


@dataclasses.dataclass(frozen=True)
class StageRequest:
    """One unit of one stage, asked for: JSON through and through, so that Prefect can carry it."""

    stage: str
    unit: str | int | None
    key: str
    document: dict[str, Any]
    """What the key is the hash of."""
    settings: dict[str, Any]
    """All settings of the study (the builder sees the declared part)."""
    inputs: dict[str, Any]
    """Records as JSON, one or a list per input name."""
    values: dict[str, Any]
    home: str

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "StageRequest":
        """Inverse of `to_json`."""
        return cls(**data)

    @property
    def label(self) -> str:
        """Readable name: `geometry-L07`, `corpus`."""
        return self.stage if self.unit is None else f"{self.stage}-{unit_label(self.unit)}"


@functools.cache
def stage_code(stage: str) -> dict[str, str]:
    """Return the code closure of a stage as it was when this process first asked.

    A process imports a module once; hashing the files again later would name code it does not run.
    """
    return code_closure(STAGES[stage].builder.partition(":")[0])


def snapshot_code() -> None:
    """Hash the code of every stage now, before builders are imported."""
    for name in STAGES:
        stage_code(name)


def _read(settings: dict[str, Any], path: str) -> Any:
    value: Any = settings
    for part in path.split(".") if path else ():
        value = value[part]
    return value


def records_in(value: StageRecord | Mapping[str | int, StageRecord]) -> list[StageRecord]:
    """Return the records of one input, sorted by unit."""
    return [value] if isinstance(value, StageRecord) else [value[unit] for unit in sorted(value, key=str)]


def make_request(
    stage: str,
    settings: StudySettings,
    inputs: Inputs,
    home: Path,
    unit: str | int | None = None,
    values: Mapping[str, Any] | None = None,
) -> StageRequest:
    """Compute the key of one unit of `stage` and return the request that `ensure` fulfils."""
    spec = STAGES[stage]
    data = settings.model_dump(mode="json")
    document = {
        "stage": stage,
        "unit": unit,
        "settings": {path or "all": _read(data, path) for path in spec.reads},
        "inputs": {
            name: {str(record.unit) if record.unit is not None else "": record.digest for record in records_in(value)}
            for name, value in inputs.items()
        },
        "values": dict(values or {}),
        "code": dict(stage_code(stage)),
        "libraries": {
            name: package_version(name) for name in (*spec.libraries, *further_libraries(stage, settings, unit))
        },
    }
    digest = hashlib.sha256(json.dumps(document, sort_keys=True, allow_nan=False).encode()).hexdigest()[:24]
    return StageRequest(
        stage=stage,
        unit=unit,
        key=digest if unit is None else f"{unit_label(unit)}-{digest}",
        document=document,
        settings=data,
        inputs={
            name: value.to_json()
            if isinstance(value, StageRecord)
            else [record.to_json() for record in records_in(value)]
            for name, value in inputs.items()
        },
        values=dict(values or {}),
        home=home_uri(home),
    )


def find(request: StageRequest) -> StoreStatus:
    """Say whether the request is fulfilled already."""
    return inspect_store(home_path(request.home), request.stage, request.key)

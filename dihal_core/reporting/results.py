"""Everything a study found, read from the stores of its stages. What a stage did not make is None or absent."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from dihal_core.contract import StageContext
from dihal_core.remote.link import read_manifest
from dihal_core.store import StageRecord, read_json

Json = dict[str, Any]

BULKY = ("per_document", "without_outliers")
"""Blocks left in their own stores: they grow with documents or subsamples, and the key beside each result finds them."""


@dataclasses.dataclass(frozen=True)
class StudyResults:
    """The JSON results of all stages, with the records and manifests they came from."""

    settings: Json
    study_name: str
    identity: Json
    records: tuple[StageRecord, ...]
    manifests: dict[str, Json]
    """Manifest by `stage/key`; empty where none was found."""
    corpus: Json | None = None
    gates: Json | None = None
    activations: Json | None = None
    score: Json | None = None
    agreement: Json | None = None
    replace: Json | None = None
    metrics: Json | None = None
    cost: Json | None = None
    geometry: dict[int, Json] = dataclasses.field(default_factory=dict)
    """Diagnostics by layer."""
    sweeps: dict[int, Json] = dataclasses.field(default_factory=dict)
    evaluations: dict[str, Json] = dataclasses.field(default_factory=dict)
    failed: dict[int, str] = dataclasses.field(default_factory=dict)
    """Layers that were tried and failed, with the message."""
    seals: tuple[Json, ...] = ()
    """Every score sealed under this study's name, oldest first."""

    @property
    def candidates(self) -> list[int]:
        """Return the candidate layers, from the score if there is one, else from the sweep."""
        if self.score is not None:
            return [int(layer) for layer in self.score["candidate_layers"]]
        return sorted({*self.sweeps, *self.failed})

    @property
    def gaps(self) -> dict[int, str]:
        """Return `{layer: reason}` of every candidate without a sweep result."""
        return {layer: self.failed.get(layer, "not run") for layer in self.candidates if layer not in self.sweeps}

    def manifest(self, record: StageRecord) -> Json:
        """Return the manifest of a record's store, or an empty mapping."""
        return self.manifests.get(f"{record.stage}/{record.key}", {})


def _manifest(record: StageRecord) -> Json:
    return read_manifest(record)


def _one(context: StageContext, name: str) -> StageRecord | None:
    value = context.inputs.get(name)
    return value if isinstance(value, StageRecord) else None


def _units(context: StageContext, name: str) -> Mapping[str | int, StageRecord]:
    value = context.inputs.get(name)
    return value if isinstance(value, Mapping) else {}


def load_results(context: StageContext) -> StudyResults:
    """Read the results of all stages handed to the report.

    Raises
    ------
    ArtifactError
        If a store that was handed over lacks its result file.
    """
    single = ("corpus", "gates", "activations", "score", "agreement", "replace", "metrics", "cost")
    blocks = {name: read_json(record, f"{name}.json") for name in single if (record := _one(context, name)) is not None}
    settings = context.settings.model_dump(mode="json")
    records = []
    for value in context.inputs.values():
        units = [value] if isinstance(value, StageRecord) else [value[unit] for unit in sorted(value, key=_order)]
        records.extend(units)
    return StudyResults(
        settings=settings,
        study_name=str(context.values.get("study_name") or settings["profile"]),
        identity=dict(context.values.get("backbone_identity") or {}),
        records=tuple(records),
        manifests={f"{record.stage}/{record.key}": _manifest(record) for record in records},
        geometry={int(k): read_json(record, "diagnostics.json") for k, record in _units(context, "geometry").items()},
        sweeps={int(k): read_json(r, "sweep.json") for k, r in sorted(_units(context, "sweep").items(), key=_first)},
        evaluations={str(k): read_json(r, "evaluation.json") for k, r in _sets(_units(context, "evaluate"))},
        seals=tuple(context.values.get("seals") or ()),
        failed={int(k): str(message) for k, message in dict(context.values.get("failed_layers") or {}).items()},
        **blocks,
    )


def _order(unit: str | int) -> tuple[int, int | str]:
    return (0, unit) if isinstance(unit, int) else (1, unit)


def _first(item: tuple[str | int, StageRecord]) -> tuple[int, int | str]:
    return _order(item[0])


def _sets(units: Mapping[str | int, StageRecord]) -> list[tuple[str | int, StageRecord]]:
    """Return evaluation sets with the wiki-like one first: it is the headline."""
    return sorted(units.items(), key=lambda item: (item[0] != "eval_wiki", str(item[0])))


def keyed(blocks: Mapping[Any, Json] | Sequence[Json], name: str) -> dict[Any, Json]:
    """Return result blocks by layer or set: given so already, or as a list of blocks that name theirs."""
    return dict(blocks) if isinstance(blocks, Mapping) else {block[name]: block for block in blocks}


def without_bulk(block: Any) -> Any:
    """Return a result block without its bulky parts."""
    if isinstance(block, dict):
        return {str(key): without_bulk(value) for key, value in block.items() if key not in BULKY}
    return [without_bulk(item) for item in block] if isinstance(block, list) else block

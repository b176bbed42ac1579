"""`dihal verify`: is a finished store what its manifest says, and does the model still say what it holds?

Any store is re-hashed. A store of hidden states is also recomputed in part: model, corpus and settings
come from the manifest, the random choice of rows from the system's entropy (its seed is reported).
"""

import dataclasses
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dihal_core.activations.dump import make_plan
from dihal_core.activations.names import GROUP, ROWS
from dihal_core.activations.plan import candidate_layers
from dihal_core.activations.reader import read_array
from dihal_core.activations.verify import verify
from dihal_core.backbones.loading import load_backbone
from dihal_core.backbones.threads import resolve_device, use_threads
from dihal_core.config import StudySettings
from dihal_core.corpus.windows import load_windows
from dihal_core.errors import ArtifactError, ConfigError, NumericsError
from dihal_core.files import MANIFEST
from dihal_core.inspection import inspect_store
from dihal_core.provenance import package_version
from dihal_core.remote.link import bring_store, finished_manifests, remote_records
from dihal_core.requests import stage_code
from dihal_core.store import StageRecord

STAGE = "activations"
BATCHES = 2
"""Least number of batches that are recomputed."""


@dataclasses.dataclass(frozen=True)
class Audit:
    """What was checked of one store, and that all of it agreed."""

    uri: str
    stage: str
    digest: str
    files: int
    bytes: int
    seed: int | None = None
    rows: int = 0
    pool_rows: int = 0
    layers: int = 0
    whole_sequences: int = 0
    whole_layers: int = 0
    backbone: str = ""

    def lines(self) -> list[str]:
        """Return sentences for the terminal."""
        said = [
            f"{self.uri}: {self.files} files, {self.bytes} bytes re-hashed; every SHA-256 and the digest "
            f"{self.digest[:12]} agree"
        ]
        if self.seed is not None:
            share = self.rows / max(self.pool_rows, 1)
            said.append(
                f"recomputed with {self.backbone}: {self.rows} of {self.pool_rows} pool rows ({share:.2%}) at "
                f"{self.layers} layers and {self.whole_sequences} whole windows at {self.whole_layers} layers, drawn with "
                f"seed {self.seed}; equal bit for bit"
            )
        return said


def find_store(home: Path, name: str | None) -> Path:
    """Return the folder of a finished store: a path, `stage/key` or a unique part of it; the latest dump for None.

    Raises
    ------
    ConfigError
        If none or several match.
    """
    if name is not None and (Path(name) / MANIFEST).is_file():
        return Path(name).resolve()
    if name is not None:
        bring_store(home, name)
    found = sorted(path.parent for path in home.glob(f"*/*/{MANIFEST}") if not path.parent.name.endswith(".partial"))
    if name is None:
        dumps = [path for path in found if path.parent.name == STAGE]
        for record in () if dumps else remote_records(home, STAGE, None):
            return record.path
        if not dumps:
            raise ConfigError(f"no finished store of hidden states under {home / STAGE}; run `dihal study` first")
        return max(dumps, key=lambda path: (path / MANIFEST).stat().st_mtime)
    matching = [path for path in found if name.strip("/") in f"{path.parent.name}/{path.name}"]
    if len(matching) != 1:
        said = ", ".join(f"{path.parent.name}/{path.name}" for path in matching[:4]) or "none"
        raise ConfigError(
            f"store {name!r} under {home}: {len(matching)} match ({said}); give the folder, or stage/key, of one finished "
            "store"
        )
    return matching[0]


def audit_store(folder: Path, recompute: bool = True, seed: int | None = None, batches: int = BATCHES) -> Audit:
    """Re-hash a store and, where it holds hidden states, recompute 0.1 % of its rows.

    Raises
    ------
    ArtifactError
        If a file differs from the manifest, or the corpus or asset the dump was made from is gone.
    NumericsError
        If a stored state differs from the recomputed one, naming layer and sequence.
    """
    home, stage = folder.parent.parent, folder.parent.name
    status = inspect_store(home, stage, folder.name, full=True)
    if status.record is None or status.manifest is None:
        raise ArtifactError(
            f"store {folder} is {status.state} ({status.reason}); run the study again, it recomputes stage {stage!r}"
        )
    facts = {
        "uri": str(folder),
        "stage": stage,
        "digest": status.record.digest,
        "files": len(status.manifest["files"]),
        "bytes": sum(file["bytes"] for file in status.manifest["files"].values()),
    }
    if stage != STAGE or not recompute:
        return Audit(**facts)
    return Audit(**facts, **_recompute(home, status.record, status.manifest, seed, batches))


def _recompute(
    home: Path, record: StageRecord, manifest: Mapping[str, Any], seed: int | None, batches: int
) -> dict[str, Any]:
    settings = StudySettings.model_validate(manifest["provenance"]["study_settings"])
    inputs = manifest["provenance"]["request"]["inputs"]
    assets = {unit: _by_digest(home, "assets", digest) for unit, digest in inputs.get("assets", {}).items()}
    corpus = _by_digest(home, "corpus", inputs["corpus"][""])
    backbone_settings, chosen = settings.backbone, settings.activations
    candidates = candidate_layers(settings.score.first_layer, settings.score.last_layer, backbone_settings.num_layers)
    plan = make_plan(
        load_windows(corpus, "train"),
        chosen,
        candidates,
        backbone_settings.num_layers,
        backbone_settings.hidden_size,
        settings.seed,
    )
    if not np.array_equal(read_array(record, ROWS), plan.rows_M3):
        raise ArtifactError(f"store {record.uri}: geom/rows is not what its settings and corpus give; remake it")
    use_threads(chosen.threads)
    device = resolve_device(settings.compute.device)
    backbone = load_backbone(backbone_settings, assets, device, settings.seed)
    drawn = secrets.randbelow(2**31) if seed is None else seed
    try:
        checked = verify(backbone, plan, record.path / GROUP, drawn, batches)
    except NumericsError as error:
        changed = _changed_since(manifest["provenance"]["request"])
        if changed:
            raise NumericsError(
                f"store {record.uri} was made by other code or libraries ({changed}), which may well be why recomputed "
                f"states differ: run the study again to remake it, or verify with --no-model. {error}"
            ) from error
        raise
    return {
        "seed": drawn,
        "rows": checked["verified_rows"],
        "pool_rows": len(plan.rows_M3),
        "layers": len(plan.table_layers),
        "whole_sequences": checked["verified_whole_sequences"],
        "whole_layers": len(plan.whole_layers) if plan.whole_sequences else 0,
        "backbone": backbone_settings.name,
    }


def _changed_since(made: Mapping[str, Any]) -> str:
    """Name what differs now from what the dump was made with, a few items."""
    code = stage_code(STAGE)
    changed = [name for name in sorted({*code, *made["code"]}) if code.get(name) != made["code"].get(name)]
    changed += [
        f"{name} {was} -> {package_version(name)}"
        for name, was in sorted(made["libraries"].items())
        if package_version(name) != was
    ]
    return ", ".join(changed[:4]) + (f" and {len(changed) - 4} more" if len(changed) > 4 else "")


def _by_digest(home: Path, stage: str, digest: str) -> StageRecord:
    for manifest in finished_manifests(home, stage):
        if manifest.get("digest") == digest:
            status = inspect_store(home, stage, manifest["key"])
            if status.record is not None:
                return status.record
    raise ArtifactError(
        f"no intact {stage} store with digest {digest[:12]} under {home / stage}, and the dump was made from it; "
        "verify with --no-model, or run the study again"
    )

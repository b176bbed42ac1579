"""From settings to the units, extra key values and final files of one study. Imports no torch."""

import hashlib
import json
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dihal_core.asset_list import required_assets
from dihal_core.backbones.identity import backbone_identity, pin_revision
from dihal_core.bridges.ablation_arms import ablation_units
from dihal_core.bridges.origins import BUILDING_STAGES, bridge_values, pin_bridges, without_revisions
from dihal_core.change import FILES, publish_change, with_change
from dihal_core.config import StudySettings
from dihal_core.errors import ConfigError
from dihal_core.files import MANIFEST, dump_json, write_atomically
from dihal_core.history import KEPT, with_history
from dihal_core.hybrid.sources import HYBRID
from dihal_core.profiles import backbone_names, load_study, resolve_backbone
from dihal_core.provenance import package_version
from dihal_core.remote.link import finished_manifests, pull_studies, pull_study, push_study, read_manifest
from dihal_core.requests import Inputs, StageRequest, make_request
from dihal_core.stages import FLOWS, STAGES
from dihal_core.store import StageRecord

Records = dict[str, StageRecord | dict[str | int, StageRecord]]
"""Finished stages: one record, or `{unit: record}`."""


def slug(text: str) -> str:
    """Return `text` in lower case with dashes between words."""
    return "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in text.lower()).split())


WORKER_SETTINGS = frozenset(
    {
        "asset_workers",
        "corpus_workers",
        "geometry_workers",
        "sweep_workers",
        "dump_workers",
        "remote_sync_seconds",
        "confirm_gigabytes",
        "archive_url",
        "archive_codec",
        "runner",
        "runner_address",
        "runner_workers",
    }
)


def study_name(settings: StudySettings) -> str:
    """Return `<profile>-<backbone>-s<seed>`, plus six hex digits if settings differ from profile and preset.

    Worker counts change no number and so no name; neither does where `auto` finds the device to be.
    """
    name = f"{slug(settings.profile)}-{slug(settings.backbone.name)}-s{settings.seed}"
    presets = [preset for preset in backbone_names() if resolve_backbone(preset)["name"] == settings.backbone.name]
    plain = load_study(settings.profile, presets[0] if presets else None, settings.seed)
    data, reference = _what_counts(settings), _what_counts(plain)
    if data == reference:
        return name
    return f"{name}-{hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:6]}"


def _what_counts(settings: StudySettings) -> dict[str, Any]:
    data = pin_device(settings).model_dump(mode="json")
    data["compute"] = {name: value for name, value in data["compute"].items() if name not in WORKER_SETTINGS}
    data["backbone"].pop("revision")
    data["bridge"] = without_revisions(data["bridge"])
    data["ablation"]["unet"] = without_revisions(data["ablation"]["unet"])
    return data


def pin_device(settings: StudySettings) -> StudySettings:
    """Return settings whose device is `cpu` or `cuda`: keys must not say `auto`. Imports no torch."""
    if settings.compute.device != "auto":
        return settings
    cuda = Path("/dev/nvidiactl").exists() and not package_version("torch").endswith("+cpu")
    compute = settings.compute.model_copy(update={"device": "cuda" if cuda else "cpu"})
    return settings.model_copy(update={"compute": compute})


def pin_settings(settings: StudySettings, ask_hub: bool, flow: str = "full-study") -> StudySettings:
    """Return settings under which keys are made: device resolved, hub revisions a commit.

    With `ask_hub` False (planning) an unknown revision stays as it is and nothing is fetched. A `flow` that builds no
    bridge asks for none of its parts.
    """
    settings = pin_device(settings)
    try:
        backbone = pin_revision(settings.backbone, ask_hub)
    except ConfigError:
        if ask_hub:
            raise
        backbone = settings.backbone
    settings = settings.model_copy(update={"backbone": backbone})
    builds = any(stage in BUILDING_STAGES for stage in stages_of(flow, settings))
    return pin_bridges(settings, ask_hub) if builds else settings


def swept_layers(settings: StudySettings, score: StageRecord | None) -> tuple[int, ...]:
    """Return the layers that train a bridge; before the score exists, as many candidates as there will be."""
    candidates = settings.candidate_layers
    if settings.sweep_layers == "all":
        return candidates
    top = 0 if settings.sweep_layers == "none" else int(settings.sweep_layers.removeprefix("top:"))
    if score is None:
        return candidates[:top]
    rows = json.loads((score.path / "score.json").read_bytes())["layers"]
    rank = {row["layer"]: row["rank"] for row in rows if row["candidate"]}
    return tuple(layer for layer in candidates if rank[layer] <= top)


SWEEPING = ("ridge", "sweep", "agreement")
LOCATING = ("activations", "geometry", "score")
"""What a training at a given layer does without."""


def stages_of(flow: str, settings: StudySettings) -> tuple[str, ...]:
    """Return the stages of `flow` that these settings need, in order."""
    unneeded = SWEEPING if settings.sweep_layers == "none" and flow != "sweep" else ()
    if flow == "replace" and settings.replace.layer is not None:
        unneeded = LOCATING
    return tuple(name for name in FLOWS[flow] if name not in unneeded)


def units_of(
    stage: str, settings: StudySettings, records: Mapping[str, Any] | None = None
) -> tuple[str | int, ...] | None:
    """Return the units of `stage`, or None where it is one single run; `records` are the stages made so far."""
    kind = STAGES[stage].unit
    if kind == "asset":
        return required_assets(settings)
    if kind == "layer":
        return settings.table_layers if stage == "geometry" else swept_layers(settings, (records or {}).get("score"))
    if kind == "set":
        return ("eval_wiki", "heldout") if settings.corpus.num_eval_wiki else ("heldout",)
    if kind == "arm and seed":
        return ablation_units(settings.ablation)
    return None


def chosen_layer(settings: StudySettings, score: StageRecord | None) -> int:
    """Return the layer of the full training: the override, else the one the sealed score selected."""
    if settings.replace.layer is not None:
        return settings.replace.layer
    if score is None:
        raise ConfigError("no layer was selected and none is given; run the score first or set replace.layer")
    return int(json.loads((score.path / "score.json").read_bytes())["selected_layer"])


def values_of(
    stage: str, settings: StudySettings, home: Path, records: Mapping[str, Any], failed: Mapping[Any, str]
) -> dict[str, Any]:
    """Return what enters the key of `stage` beside settings, inputs and code."""
    values: dict[str, Any] = {}
    if any(path.split(".")[0] == "backbone" for path in STAGES[stage].reads) and stage not in ("score", "agreement"):
        values["backbone_identity"] = backbone_identity(settings.backbone, home)
    if stage == "corpus" and settings.corpus.kind == "offline":
        values["python"] = platform.python_version()  # the code source is this interpreter's standard library
    if stage == "replace":
        values["layer"] = chosen_layer(settings, records.get("score"))
    if stage in ("report", "locate", "ablation"):
        values["study_name"] = study_name(settings)
        values["backbone_identity"] = backbone_identity(settings.backbone, home)
    if stage == "report":
        values["failed_layers"] = {str(k): v for k, v in failed.items()}
        values["seals"] = _seals(study_folder(home, settings) / "sealed.json")
    return values


def _seals(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_bytes())["seals"] if path.is_file() else []


def request_for(
    stage: str,
    settings: StudySettings,
    home: Path,
    records: Records,
    unit: str | int | None = None,
    failed: Mapping[Any, str] | None = None,
) -> StageRequest:
    """Return the request of one unit of `stage`, given the records of the stages before it."""
    asked = (
        STAGES[stage].inputs if stage != "report" else tuple(name for name in STAGES[stage].inputs if name in records)
    )
    inputs: Inputs = {name: records[name] for name in asked}  # a report tells what there is
    if stage not in ("corpus",) and isinstance(inputs.get("assets"), dict):
        model = settings.backbone.identifier  # only the corpus reads the text assets
        inputs = {**inputs, "assets": {k: v for k, v in inputs["assets"].items() if k == model}}  # type: ignore[union-attr]
    values = values_of(stage, settings, home, records, failed or {}) | bridge_values(stage, settings, unit, home)
    return make_request(stage, settings, inputs, home, unit, values)


def study_folder(home: Path, settings: StudySettings) -> Path:
    """Return `<home>/studies/<name>`."""
    return home / "studies" / study_name(settings)


PUBLISHED = {
    "report": ("report.html", "study.json"),
    "locate": ("locate.html", "locate.json", "subsamples.csv"),
    "ablation": ("ablation.md", "ablation.json", "ablation.csv"),
}
"""What the last stage of a flow hands to people; its page comes first."""
LEDGERS = {"report": "ledger.json", "locate": "locate-ledger.json", "ablation": "ablation-ledger.json"}


def publish_study(home: Path, settings: StudySettings, report: StageRecord, ledger: dict[str, Any]) -> Path:
    """Copy page and result of a flow's last store into the study's folder and return the path of the page."""
    folder = study_folder(home, settings)
    folder.mkdir(parents=True, exist_ok=True)
    pull_studies(home, KEPT)  # what came before may have been studied on another machine
    files = {name: (report.path / name).read_bytes() for name in PUBLISHED[report.stage]}
    for name in KEPT:
        if name in files:
            files[name] = with_history(home, folder, name, files[name])
            change = json.loads(files[name]).get("difference")
            if change is not None:
                page = PUBLISHED[report.stage][0]
                files[page] = with_change(files[page], change, FILES[report.stage])
            publish_change(folder, report.stage, change)
    for name, data in files.items():
        write_atomically(folder / name, data)
    write_atomically(folder / "settings.json", dump_json(settings.model_dump(mode="json")))
    write_atomically(folder / LEDGERS[report.stage], dump_json(ledger))
    figures = report.path / "figures"
    if figures.is_dir():
        shutil.copytree(figures, folder / "figures", dirs_exist_ok=True)
    return folder / PUBLISHED[report.stage][0]


def publish_hybrid(hybrid: StageRecord, folder: Path) -> Path:
    """Copy the hybrid of its store to `<folder>/hybrid`, config last, and return that folder. Imports no torch."""
    target = folder / HYBRID
    names = sorted(
        (path.name for path in hybrid.path.iterdir() if path.is_file()), key=lambda name: name == "config.json"
    )
    for name in names:
        if name != MANIFEST:
            write_atomically(target / name, (hybrid.path / name).read_bytes())
    for stale in target.iterdir():
        if stale.is_file() and stale.name not in names:
            stale.unlink()
    return target


def seal_selection(home: Path, settings: StudySettings, score: StageRecord) -> dict[str, Any]:
    """Write down the digest of the score before the sweep and whether any bridge loss existed before it.

    Seals are appended, never overwritten: a score that was changed after losses were known shows as such.
    """
    path = study_folder(home, settings) / "sealed.json"
    pull_study(home, study_name(settings))
    finished = read_manifest(score)["provenance"]["finished"]
    losses = [manifest["provenance"]["finished"] for manifest in finished_manifests(home, "sweep")]
    seal = {
        "score_digest": score.digest,
        "score_key": score.key,
        "selected_layer": json.loads((score.path / "score.json").read_bytes())["selected_layer"],
        "committed": finished,
        "earlier_sweep_stores": sum(when < finished for when in losses),
    }
    history = json.loads(path.read_bytes())["seals"] if path.is_file() else []
    if not history or history[-1]["score_digest"] != seal["score_digest"]:
        history.append(seal)
        write_atomically(path, dump_json({"seals": history}))
        push_study(home, study_name(settings))
    return history[-1]

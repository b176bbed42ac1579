"""Hub revisions of watched backbones: what the hub says now, and what was seen last. Imports no torch.

The address of the hub is `$HF_ENDPOINT`, a token comes from `$HF_TOKEN`; both are huggingface_hub's own.
"""

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dihal_core.config import StudySettings
from dihal_core.errors import ConfigError, DihalError, NetworkError
from dihal_core.files import dump_json
from dihal_core.journal import now
from dihal_core.profiles import backbone_names, load_study, profile_for, resolve_backbone
from dihal_core.remote.link import home_uri, read_shared, write_shared
from dihal_core.study import slug

LARGE = 2e9
"""Backbones with more parameters are studied on a GPU (ours)."""
TIMEOUT_S = 20.0


@dataclasses.dataclass(frozen=True)
class Watched:
    """One backbone that is watched."""

    backbone: str
    """Preset."""
    identifier: str
    """Hub id."""
    branch: str
    """Branch whose newest commit counts: the preset's, else main."""
    profile: str
    """Profile of the study that a change starts."""
    on_gpu: bool

    @property
    def deployment(self) -> str:
        """Return the deployment that studies it."""
        return "dihal/full-study-gpu" if self.on_gpu else "dihal/full-study"


def needs_gpu(settings: StudySettings) -> bool:
    """Return whether a study is meant for a GPU: asked for, or the backbone is large."""
    return settings.compute.device == "cuda" or settings.backbone.num_parameters > LARGE


def watched(backbones: Iterable[str] | None = None) -> list[Watched]:
    """Return what to watch: the presets given, or all that come from the hub.

    Raises
    ------
    ConfigError
        For an unknown preset, or one whose weights are pinned or local.
    """
    hub = [name for name in backbone_names() if resolve_backbone(name)["source"] == "hub"]
    found = []
    for name in hub if backbones is None else dict.fromkeys(backbones):
        preset = resolve_backbone(name)
        if preset["source"] != "hub":
            raise ConfigError(
                f"backbone {name!r} comes from source={preset['source']}, whose weights do not move; watch one of "
                f"{', '.join(hub)}"
            )
        profile = profile_for(name)
        found.append(
            Watched(
                name,
                preset["identifier"],
                preset.get("revision") or "main",
                profile,
                needs_gpu(load_study(profile, name)),
            )
        )
    return found


def hub_revision(identifier: str, branch: str = "main") -> str:
    """Return the newest commit of a hub model.

    Raises
    ------
    NetworkError
        If the hub gives none, with the reason: offline, gated, gone.
    """
    from huggingface_hub import HfApi

    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:
        commit = HfApi(endpoint=endpoint).model_info(identifier, revision=branch, timeout=TIMEOUT_S).sha
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no details"]
        raise NetworkError(
            f"{endpoint or 'the hub'} gave no revision of {identifier} ({type(error).__name__}: {lines[0][:160]}); check "
            "the network, HF_ENDPOINT, and HF_TOKEN for gated models"
        ) from error
    if not commit:
        raise NetworkError(f"{endpoint or 'the hub'} names no commit of {identifier}; look again later")
    return commit


def memory_name(backbone: str) -> str:
    """Return the file, relative to the home, that remembers the last revision of a backbone."""
    return f"watch/{slug(backbone)}.json"


def remembered(home: Path, backbone: str) -> dict[str, Any]:
    """Return what was seen last, `{"revision", "seen", ...}`; empty at the first look.

    Raises
    ------
    ConfigError
        If the file is unreadable: guessing could start a study twice or never.
    NetworkError, ResourceError
        If a remote home cannot be asked.
    """
    name = memory_name(backbone)
    try:
        found = read_shared(home, name)
        if found is None:
            return {}
        data = json.loads(found)
        if not isinstance(data, dict) or not isinstance(data.get("revision"), str):
            raise ValueError("no revision")
    except DihalError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{home_uri(home)}/{name} is unreadable ({error}); remove it, the next look notes the revision anew"
        ) from error
    return data


def remember(home: Path, target: Watched, revision: str, flow_run: str | None = None) -> None:
    """Note the revision that was seen, and the run it started."""
    before = remembered(home, target.backbone)
    started = {**before.get("started", {}), **({revision: flow_run} if flow_run else {})}
    content = {"backbone": target.backbone, "identifier": target.identifier, "revision": revision, "seen": now()}
    write_shared(home, memory_name(target.backbone), dump_json({**content, "started": started}))


def study_parameters(target: Watched, revision: str) -> dict[str, Any]:
    """Return the parameters of the study of one revision.

    The commit is given, for a snapshot downloaded earlier would else be taken as the newest.
    """
    return {"backbone": target.backbone, "profile": target.profile, "overrides": {"backbone.revision": revision}}

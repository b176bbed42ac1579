"""Puts a trained arm and its backbone together as a `DiHALForCausalLM`."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from dihal_core.backbones.backbone import Backbone
from dihal_core.backbones.belongs import require_backbone
from dihal_core.backbones.digest import weights_digest
from dihal_core.backbones.loading import fresh_backbone, load_backbone
from dihal_core.bridges.arms import load_arms
from dihal_core.bridges.frame import Arm
from dihal_core.config import BackboneSettings, BridgeSettings, StudySettings
from dihal_core.errors import ArtifactError, ConfigError, nearest
from dihal_core.hybrid.causal_lm import DiHALForCausalLM, require_hybrid_layer
from dihal_core.hybrid.configuration import DiHALConfig
from dihal_core.store import StageRecord


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Ids a hybrid's generation needs."""

    separator: int
    pad: int
    end: tuple[int, ...]
    """Ids that end a text: the separator, and the tokenizer's own end token if it is another one."""


def assemble(
    backbone: Backbone,
    arm: Arm,
    layer: int,
    reference: BackboneSettings,
    bridge: BridgeSettings,
    tokens: Tokens,
    seed: int = 0,
    sampling_steps: int = 1,
    window_tokens: int | None = None,
) -> DiHALForCausalLM:
    """Return a hybrid with its configuration filled in, digest of the backbone's weights included.

    Parameters
    ----------
    backbone, arm
        Loaded; the model owns the backbone from now on.
    layer : int
        Blocks 1..layer are replaced.
    reference
        Where the backbone came from.
    bridge
        Settings the arm was made with.
    seed : int
        The study's seed: root of the bridge's noise, and of random backbones.
    window_tokens : int, optional
        Positions the arm was trained on.

    Raises
    ------
    ConfigError
        If the layer lies outside 1..L-1.
    ArtifactError
        If the arm was made for states of another width.
    """
    require_hybrid_layer(layer, backbone)
    if arm.frame.width != backbone.hidden_size:
        raise ArtifactError(
            f"the arm was made for states of width {arm.frame.width}, {backbone.name} has {backbone.hidden_size}; give "
            "an arm that was trained on this backbone"
        )
    theirs = backbone.model.config
    config = DiHALConfig(
        layer=layer,
        arm="bridge" if arm.kind == bridge.kind else arm.kind,
        bridge_settings=bridge.model_dump(mode="json"),
        bridge_structure=arm.structure() or None,
        backbone_reference=reference.model_dump(mode="json"),
        backbone_seed=seed,
        backbone_sha256=weights_digest(backbone.model),
        sampling_steps=sampling_steps,
        noise_seed=seed,
        window_tokens=window_tokens,
        separator_token_id=tokens.separator,
        vocab_size=backbone.vocab_size,
        hidden_size=backbone.hidden_size,
        num_hidden_layers=backbone.num_layers - layer,
        max_position_embeddings=getattr(theirs, "max_position_embeddings", None),
        pad_token_id=tokens.pad,
        bos_token_id=tokens.separator,
        eos_token_id=list(tokens.end),
        dtype=str(backbone.dtype).removeprefix("torch."),
        architectures=[DiHALForCausalLM.__name__],
    )
    return DiHALForCausalLM(config, backbone=backbone, arm=arm)


def hybrid_of_store(
    arms: Path,
    layer: int,
    settings: StudySettings,
    assets: Mapping[str, StageRecord],
    tokens: Tokens,
    arm: str = "bridge",
    device: str = "cpu",
    shared: bool = False,
) -> DiHALForCausalLM:
    """Return the hybrid of arms that a stage saved.

    Parameters
    ----------
    arms
        Folder `arms` of a sweep or replace store.
    arm
        Name of the arm in it.
    shared
        Use the backbone this process keeps loaded; do not move or cast such a hybrid.

    Raises
    ------
    ConfigError
        If the store holds no arm of that name.
    ArtifactError
        If the weights are unreadable, or were trained for another backbone.
    """
    require_backbone(arms.parent, settings.backbone)
    found = load_arms(arms, device)
    if arm not in found:
        raise ConfigError(f"no arm {arm!r} in {arms}{nearest(arm, found)}; it holds {', '.join(sorted(found))}")
    load = load_backbone if shared else fresh_backbone
    backbone = load(settings.backbone, assets, device, settings.seed)
    return assemble(
        backbone,
        found[arm],
        layer,
        settings.backbone,
        settings.bridge,
        tokens,
        settings.seed,
        settings.evaluation.sampling_steps[0],
        settings.corpus.window_tokens,
    )

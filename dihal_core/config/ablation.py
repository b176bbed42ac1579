"""Settings of the comparison of bridge architectures (paper appendix D.1)."""

from typing import Annotated, Literal

from pydantic import Field

from dihal_core.config.base import Settings
from dihal_core.config.bridges import UnetBridgeSettings
from dihal_core.config.training import TrainingSettings


class SmallUnetSettings(UnetBridgeSettings):
    """A UNet that two cores can train: many channels on few pixels (36 x 4 x 4 = 576 holds a state exactly)."""

    latent_channels: int = Field(36, ge=1, description="Channels of the latent (ours).")
    latent_side: int | None = Field(4, ge=1, description="Height and width of the latent (ours).")
    block_channels: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (32, 64), min_length=1, description="Widths of the UNet's levels (ours)."
    )
    layers_per_block: int = Field(1, ge=1, description="Residual layers per level (ours).")
    attention_heads: int = Field(2, ge=1, description="Attention heads (ours).")
    norm_groups: int = Field(8, ge=1, description="Groups of GroupNorm, inside one token (ours).")
    cross_attention_width: int = Field(64, ge=1, description="Width of the context it attends to (ours).")


class AblationTrainingSettings(TrainingSettings):
    """The budget of one training."""

    epochs: float = Field(1.0, gt=0, description="Passes over the training windows (ours).")
    max_steps: int | None = Field(400, ge=1, description="Cap on optimiser steps; null: all of the epochs (ours).")


class AblationSettings(Settings):
    """Bridges and controls at one layer on the same windows, batches, steps and tokens (paper appendix D.1).

    `unet` is the UNet arm of a study whose own bridge is of another kind; what all bridges share is `bridge`'s.
    """

    layer: int = Field(1, ge=1, description="Layer at which all arms are compared (ours).")
    arms: tuple[str, ...] | None = Field(
        None, min_length=1, description="Arms of dihal_core/bridges/ablation_arms.py; null: all of them."
    )
    seeds: int = Field(
        3, ge=1, le=100, description="Trainings of every trained arm: other weights, order and noise (ours)."
    )
    num_sequences: int | None = Field(None, ge=2, description="Training windows; null: all of the corpus (ours).")
    validation_fraction: float = Field(
        0.02, gt=0, lt=1, description="Windows, by document, kept out of training for FVU (ours)."
    )
    training: AblationTrainingSettings = AblationTrainingSettings()  # pyright: ignore[reportCallIssue]
    unet: SmallUnetSettings = SmallUnetSettings()  # pyright: ignore[reportCallIssue]
    sampling_steps: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field(
        (1, 4), min_length=1, description="Sampler steps at which diffusion arms are evaluated (ours)."
    )
    evaluation_set: Literal["eval_wiki", "heldout"] = Field("eval_wiki", description="Windows that are scored (ours).")
    threads: int = Field(2, ge=1, le=256, description="Intra-op threads; part of the key.")

"""Settings of training runs and of the evaluation."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dihal_core.config.base import Settings


class TrainingSettings(Settings):
    """One optimisation run. Budgets are steps and tokens; seconds are recorded, never a stopping rule."""

    epochs: float = Field(gt=0, description="Passes over the training windows.")
    max_steps: int | None = Field(None, ge=1, description="Cap on optimiser steps; null means all of the epochs.")
    batch_sequences: int = Field(8, ge=1, description="Windows per step (ours).")
    micro_batch_sequences: int | None = Field(
        None,
        ge=1,
        description="Windows per forward and backward pass; their gradients add up to that of batch_sequences. null: "
        "the whole batch. Halved for the rest of the run where memory runs out (ours).",
    )
    processes: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes that share every batch through Hugging Face Accelerate, one per GPU where there are GPUs "
        "(ours).",
    )
    optimizer: Literal["muon", "adamw"] = Field(
        "adamw", description="adamw: all weights by AdamW; muon: matrices by Muon, the rest by AdamW (ours)."
    )
    muon_iterations: int = Field(3, ge=1, le=10, description="Newton-Schulz iterations of muon (ours).")
    learning_rate: float = Field(2e-3, gt=0, description="Peak rate (ours).")
    warmup_steps: int = Field(10, ge=0, description="Linear warm-up (ours).")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay (ours).")
    gradient_clip: float = Field(1.0, gt=0, description="Global norm (ours).")
    autocast: Literal["bfloat16", "float32"] = Field(
        "bfloat16",
        description="Dtype of the bridge's matrix products, forward and backward; weights, losses and optimiser stay "
        "float32 (ours).",
    )
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Decay of an exponential average of the weights, kept at the end; null: none (ours).",
    )
    checkpoint_steps: int = Field(50, ge=1, description="Steps between checkpoints.")

    @model_validator(mode="after")
    def _every_process_has_a_share(self) -> "TrainingSettings":
        if self.processes > self.batch_sequences:
            raise ValueError(
                f"processes {self.processes} exceeds batch_sequences {self.batch_sequences}, which they share; lower one or "
                "raise the other"
            )
        return self


class SweepSettings(Settings):
    """One bridge per candidate layer (paper section 4: one epoch on 150K, 9:1 train/validation)."""

    num_sequences: int = Field(ge=2, description="Training windows of the sweep. Paper: 150K.")
    validation_fraction: float = Field(0.1, gt=0, lt=1, description="Paper: 9:1.")
    training: TrainingSettings
    seeds: int = Field(
        1,
        ge=1,
        le=20,
        description="Trainings per layer on the same data: each with its own initial weights, noise and batch order. The "
        "first is the study's seed; more give intervals (ours).",
    )
    regressor_layers: int = Field(5, ge=0, description="Layers, evenly spread, that also train the regressor (ours).")
    ridge_1: bool = Field(
        False,
        description="Also measure the ridge map on the current token alone, beside that on bridge.ridge_tokens (ours).",
    )
    likelihood_sequences: int = Field(
        16, ge=0, description="Validation windows pushed through the suffix for KL/NLL at every layer (ours)."
    )
    outlier_ratio: float = Field(
        4.0,
        gt=1,
        description="Tokens with a norm above this times the median are outliers: FVU with and without (ours).",
    )
    threads: int = Field(1, ge=1, le=256, description="Intra-op threads per layer; part of the key.")


class ReplaceSettings(Settings):
    """Full training at the chosen layer (paper section 4: 300K, four epochs)."""

    layer: int | None = Field(None, ge=1, description="Override the selected layer; null means the score's choice.")
    num_sequences: int = Field(ge=2, description="Training windows. Paper: 300K.")
    validation_fraction: float = Field(
        0.01, gt=0, lt=1, description="Windows, by document, kept out of training for the curve (ours)."
    )
    training: TrainingSettings
    look_windows: int | None = Field(
        None,
        ge=1,
        description="Validation windows, evenly spread, of each point of the validation curve; null: all of them. A UNet "
        "denoises every position at every look (ours).",
    )
    outlier_ratio: float = Field(
        4.0,
        gt=1,
        description="Tokens with a norm above this times the median are outliers: FVU with and without (ours).",
    )
    regressor: bool = Field(True, description="Also train the deterministic regressor on the same batches (ours).")
    table: bool = Field(
        False, description="Also fit and evaluate the per-token table, a control without context (ours)."
    )
    ridge_1: bool = Field(
        False,
        description="Also measure the ridge map on the current token alone, beside that on bridge.ridge_tokens (ours).",
    )
    ridge_all: bool = Field(
        False,
        description="Also fit and evaluate the ridge map on every window the bridge is trained on, not only on the first "
        "bridge.ridge_windows: minutes of a CPU core, because of its normal equations (ours).",
    )
    threads: int = Field(2, ge=1, le=256, description="Intra-op threads.")


class EvaluationSettings(Settings):
    """NLL, PPL, KL(teacher || hybrid) with document bootstrap intervals."""

    sampling_steps: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field(
        (1, 4), min_length=1, description="Sampler steps of the bridge that are evaluated (ours)."
    )
    batch_sequences: int = Field(16, ge=1, description="Windows per forward.")
    bootstrap_replicates: int = Field(1000, ge=0, description="Document resamples behind intervals (ours).")
    confidence: float = Field(0.95, gt=0, lt=1, description="Level of intervals (ours).")
    threads: int = Field(2, ge=1, le=256, description="Intra-op threads.")

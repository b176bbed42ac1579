"""Settings of what the hybrid's quality costs: sampler steps and time per token."""

from typing import Annotated

from pydantic import Field

from dihal_core.config.base import Settings


class CostSettings(Settings):
    """Quality against sampler steps on a subset of the evaluation windows, and cost per token of the hybrid's parts."""

    sampling_steps: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field(
        (1, 2, 4, 8), min_length=1, description="Sampler steps of the curve (ours)."
    )
    windows: int = Field(
        12, ge=1, description="Evaluation windows of the curve, each of another document while there are any (ours)."
    )
    rounds: int = Field(5, ge=2, le=1000, description="Timed rounds; all parts are timed in turn in each (ours).")
    timed_windows: int = Field(2, ge=1, le=1024, description="Windows of one timed forward (ours).")
    threads: int = Field(2, ge=1, le=256, description="Intra-op threads; part of the key.")

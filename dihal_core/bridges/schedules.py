"""How the `unet` bridge is noised and sampled: a diffusers schedule from pure noise, or the bridge from the ridge.

Letters: N token states, D hidden size. Times run from t = 0 (the state) to t = 1 (the start).
"""

import abc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dihal_core.bridges.processes import (
    bridge_state,
    posterior_deviation,
    posterior_mean,
    sampler_times,
    training_times,
)
from dihal_core.config import UnetBridgeSettings

Ask = Callable[[Tensor, float], Tensor]
"""(x_ND, t) -> estimate of the state."""
Noise = Callable[[int], Tensor]
"""Index of a draw -> standard normals (N, D)."""

SAMPLERS = {"ddim": "DDIMScheduler", "dpm": "DPMSolverMultistepScheduler", "unipc": "UniPCMultistepScheduler"}
"""Deterministic diffusers schedulers by the name of the setting."""


class Schedule(abc.ABC):
    """Forward process, parameterisation and sampler."""

    def __init__(self, settings: UnetBridgeSettings):
        self.settings = settings

    def training_times(self, generator: torch.Generator, shape: Any) -> Tensor:
        """Draw t = 1 with the endpoint probability, else uniform, independently per token."""
        return training_times(generator, tuple(shape), self.settings.endpoint_probability)

    @abc.abstractmethod
    def noised(self, target_ND: Tensor, base_ND: Tensor, t_N: Tensor, noise_ND: Tensor) -> Tensor:
        """Return x_t."""

    @abc.abstractmethod
    def to_sample(self, output_ND: Tensor, x_ND: Tensor, t_N: Tensor, base_ND: Tensor) -> Tensor:
        """Return the estimate of the state from the network's output."""

    @abc.abstractmethod
    def sample(self, ask: Ask, start_ND: Tensor, noise: Noise, steps: int) -> Tensor:
        """Return the state after `steps` calls of `ask`."""


class RidgeSchedule(Schedule):
    """Brownian bridge from the ridge prediction, as the `mlp` bridge has it; predicts the sample."""

    def noised(self, target_ND: Tensor, base_ND: Tensor, t_N: Tensor, noise_ND: Tensor) -> Tensor:
        """Return (1 - t) h + t m + s sqrt(t (1 - t)) noise."""
        return bridge_state(target_ND, base_ND, t_N[:, None], noise_ND, self.settings.bridge_noise)

    def to_sample(self, output_ND: Tensor, x_ND: Tensor, t_N: Tensor, base_ND: Tensor) -> Tensor:
        """Add the base."""
        return base_ND + output_ND

    def sample(self, ask: Ask, start_ND: Tensor, noise: Noise, steps: int) -> Tensor:
        """Walk from t = 1 towards 0 by the posterior of the bridge."""
        x_ND = estimate_ND = start_ND
        times = sampler_times(steps)
        for draw, (t, t_next) in enumerate(zip(times, [*times[1:], None], strict=True)):
            estimate_ND = ask(x_ND, t)
            if t_next is not None:
                deviation = posterior_deviation(t, t_next, self.settings.bridge_noise)
                x_ND = posterior_mean(x_ND, estimate_ND, t, t_next) + deviation * noise(draw)
        return estimate_ND


class NoiseSchedule(Schedule):
    """Variance-preserving diffusion from Gaussian noise with Stable Diffusion v1.5's betas, sampled by diffusers."""

    def __init__(self, settings: UnetBridgeSettings):
        super().__init__(settings)
        import diffusers

        self.sampler_class = getattr(diffusers, SAMPLERS[settings.sampler])
        self.options = {
            "num_train_timesteps": settings.train_timesteps,
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "prediction_type": "sample",
            "timestep_spacing": "trailing",
            **({"clip_sample": False} if settings.sampler == "ddim" else {}),
        }
        self.kept_T: Tensor = self._fresh().alphas_cumprod

    def _fresh(self) -> Any:
        return self.sampler_class(**self.options)

    def _signal(self, t_N: Tensor) -> tuple[Tensor, Tensor]:
        """Shares of signal and noise, sqrt(abar) and sqrt(1 - abar), at the nearest timestep, (N, 1) each."""
        index_N = (t_N * (self.settings.train_timesteps - 1)).round().long()
        kept_N1 = self.kept_T.to(t_N.device)[index_N][:, None]
        return kept_N1.sqrt(), (1 - kept_N1).sqrt()

    def noised(self, target_ND: Tensor, base_ND: Tensor, t_N: Tensor, noise_ND: Tensor) -> Tensor:
        """Return sqrt(abar) h + sqrt(1 - abar) noise."""
        signal, spread = self._signal(t_N)
        return signal * target_ND + spread * noise_ND

    def to_sample(self, output_ND: Tensor, x_ND: Tensor, t_N: Tensor, base_ND: Tensor) -> Tensor:
        """Turn the predicted sample (plus base), velocity or noise into the sample."""
        if self.settings.prediction == "sample":
            return base_ND + output_ND
        signal, spread = self._signal(t_N)
        if self.settings.prediction == "v_prediction":
            return signal * x_ND - spread * output_ND
        return (x_ND - spread * output_ND) / signal

    def sample(self, ask: Ask, start_ND: Tensor, noise: Noise, steps: int) -> Tensor:
        """Run the diffusers scheduler from pure noise; the last estimate is the state."""
        sampler = self._fresh()
        sampler.set_timesteps(steps)
        x_ND = noise(0) * sampler.init_noise_sigma
        estimate_ND = x_ND
        last = self.settings.train_timesteps - 1
        for timestep in sampler.timesteps:
            estimate_ND = ask(x_ND, float(timestep) / last)
            x_ND = sampler.step(estimate_ND, timestep, x_ND).prev_sample
        return estimate_ND


SCHEDULES: dict[str, type[Schedule]] = {"ridge": RidgeSchedule, "noise": NoiseSchedule}


def make_schedule(settings: UnetBridgeSettings) -> Schedule:
    """Return the schedule whose start `settings` name."""
    return SCHEDULES[settings.start](settings)

"""The noise process between a hidden state and the point a bridge starts from, and its sampler.

Letters: B windows, T positions, D hidden size, N rows. Times run from t = 0 (the hidden state h) to
t = 1 (the start m, the frozen ridge prediction). All states are in standardised coordinates.

Ours: the paper (arXiv 2605.14368, section 3) states neither schedule nor inference steps. The process
is the Brownian bridge of I2SB (arXiv 2302.05872) with constant diffusion s.
"""

import math

import numpy as np
import torch
from torch import Tensor

from dihal_core.errors import ConfigError
from dihal_core.seeding import stream_entropy

NORMALS_PER_BLOCK = 8
"""A Philox counter yields four 64-bit words; each word makes two normals."""


def bridge_state(target_BTD: Tensor, start_BTD: Tensor, t_BT1: Tensor, noise_BTD: Tensor, spread: float) -> Tensor:
    r"""Draw :math:`x_t = (1-t)\,h + t\,m + s\sqrt{t(1-t)}\,\epsilon`; x_0 = h and x_1 = m exactly."""
    return torch.lerp(target_BTD, start_BTD, t_BT1) + spread * (t_BT1 * (1 - t_BT1)).sqrt() * noise_BTD


def posterior_mean(x_BTD: Tensor, estimate_BTD: Tensor, t: float, t_next: float) -> Tensor:
    r"""Mean of :math:`x_{t'}` given x_t and x_0: :math:`(1 - t'/t)\,\hat h + (t'/t)\,x_t`, for t' < t."""
    return torch.lerp(estimate_BTD, x_BTD, t_next / t)


def posterior_deviation(t: float, t_next: float, spread: float) -> float:
    r"""Return :math:`s\sqrt{t'(t-t')/t}`, the deviation of :math:`x_{t'}` given x_t and x_0."""
    return spread * math.sqrt(t_next * (t - t_next) / t)


def sampler_times(steps: int) -> list[float]:
    """Return the times at which the denoiser is asked: 1, (K-1)/K, .., 1/K.

    Raises
    ------
    ConfigError
        If `steps` is below one.
    """
    if steps < 1:
        raise ConfigError(f"sampling steps {steps} is below 1; ask for 1 (deterministic) or more")
    return [1 - k / steps for k in range(steps)]


def training_times(generator: torch.Generator, shape: tuple[int, ...], endpoint_probability: float) -> Tensor:
    """Draw t = 1 with `endpoint_probability`, else uniform on [0, 1), independently per token."""
    uniform = torch.rand(shape, generator=generator, device=generator.device)
    endpoint = torch.rand(shape, generator=generator, device=generator.device) < endpoint_probability
    return torch.where(endpoint, torch.ones_like(uniform), uniform)


def position_noise(seed: int, sequence: int, draw: int, positions: int, width: int, start: int = 0) -> np.ndarray:
    """Return standard normals that depend on (seed, sequence, draw, position) and on nothing else.

    `torch.randn(B, T, D)` would change the noise of a prefix when T or B changes, and with it what
    the model says before the change. A counter-based generator gives every position its own range.

    Parameters
    ----------
    seed, sequence, draw : int
        Root seed, identity of the window, index of the sampler step.
    positions, width : int
        Number of positions from `start` on, and values per position.
    start : int
        First position.

    Returns
    -------
    ndarray of shape (positions, width), float32
    """
    blocks = -(-width // NORMALS_PER_BLOCK)
    key = stream_entropy(seed, "bridge noise", int(sequence), int(draw))
    bits = np.random.Philox(key=key, counter=start * blocks).random_raw(positions * blocks * 4)
    halves_2N = np.stack([bits >> np.uint64(32), bits & np.uint64(0xFFFFFFFF)]).astype(np.float64)
    radius_N = np.sqrt(-2 * np.log((halves_2N[0] + 1) * 2.0**-32))
    angle_N = (2 * np.pi * 2.0**-32) * halves_2N[1]
    normals = np.stack([radius_N * np.cos(angle_N), radius_N * np.sin(angle_N)], axis=-1)
    return normals.reshape(positions, blocks * NORMALS_PER_BLOCK)[:, :width].astype(np.float32)


def batch_noise(seed: int, sequence_B: Tensor, draw: int, positions: int, width: int, device: torch.device) -> Tensor:
    """Stack `position_noise` of every window of a batch: shape (B, positions, width), float32."""
    rows = [position_noise(seed, int(sequence), draw, positions, width) for sequence in sequence_B]
    return torch.from_numpy(np.stack(rows)).to(device)

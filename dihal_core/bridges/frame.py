"""What every arm of one layer holds frozen, and the contract of an arm.

Letters: B windows, T positions, D hidden size.
"""

import abc
import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dihal_core.bridges.linear import RidgeBase
from dihal_core.bridges.standardise import Standardiser
from dihal_core.config import BridgeBase


class Frame(nn.Module):
    """Standardisation of condition and target, the constant state of position 0, the ridge base."""

    sink_D: Tensor

    def __init__(self, width: int, ridge_tokens: int):
        super().__init__()
        self.condition = Standardiser(width)
        self.target = Standardiser(width)
        self.ridge = RidgeBase(width, ridge_tokens)
        self.register_buffer("sink_D", torch.zeros(width))

    @property
    def width(self) -> int:
        """Hidden size D."""
        return len(self.sink_D)

    def finish(self, standardised_BTD: Tensor) -> Tensor:
        """Return states in backbone scale, float32, with position 0 the stored constant."""
        hidden_BTD = self.target.inverse(standardised_BTD)
        hidden_BTD[:, 0] = self.sink_D
        return hidden_BTD


@dataclasses.dataclass(frozen=True)
class Batch:
    """One training batch, in standardised coordinates. All arms of a layer see the same."""

    condition_BTD: Tensor
    base_BTD: Tensor
    """Ridge prediction, frozen."""
    target_BTD: Tensor
    mask_BT: Tensor
    """True for states that count: 1 <= t < length."""

    def rows(self, part: slice) -> "Batch":
        """Return the windows `part` of this batch."""
        return Batch(self.condition_BTD[part], self.base_BTD[part], self.target_BTD[part], self.mask_BT[part])


@dataclasses.dataclass(frozen=True)
class Draws:
    """All that is random about one training batch, drawn for the whole of it before it is split."""

    t_BT: Tensor
    """Time of every state; NaN marks a state that was not drawn and does not count."""
    noise_BTD: Tensor
    """Standard normals; of width 0 for an arm that adds no noise."""

    @classmethod
    def without_noise(cls, t_BT: Tensor) -> "Draws":
        """Return draws that are times alone."""
        return cls(t_BT, t_BT.new_empty(*t_BT.shape, 0))

    def rows(self, part: slice) -> "Draws":
        """Return the draws of windows `part`."""
        return Draws(self.t_BT[part], self.noise_BTD[part])


class Arm(nn.Module, abc.ABC):
    """One way to make the state of a layer from the embedding output.

    The frozen part lies in `frame`, has no parameters and is shared between the arms of a layer.
    """

    kind: ClassVar[str]

    def __init__(self, frame: Frame):
        super().__init__()
        self.frame = frame

    def structure(self) -> dict[str, Any]:
        """Return, as JSON, what must be known beside settings and weights to make this arm again: nothing for most."""
        return {}

    @abc.abstractmethod
    def predict(
        self, embeddings_BTD: Tensor, steps: int = 1, sequence_B: Tensor | None = None, seed: int = 0
    ) -> Tensor:
        """Return hidden_BTD, float32, in backbone scale; position t depends on embeddings 0..t only.

        Parameters
        ----------
        embeddings_BTD : Tensor of shape (B, T, D), any float dtype
            Embedding output (state 0) of windows that start with the separator.
        steps : int
            Sampler steps; arms without a sampler ignore it.
        sequence_B : LongTensor of shape (B,), optional
            Identity of each window, which names its noise; 0, 1, .. by default. Unused when `steps` is 1.
        seed : int
            Root seed of the noise.
        """


class BasedArm(Arm):
    """An arm that works in standardised coordinates on top of the ridge base."""

    @torch.no_grad()
    def predict(
        self, embeddings_BTD: Tensor, steps: int = 1, sequence_B: Tensor | None = None, seed: int = 0
    ) -> Tensor:
        """Standardise, `estimate`, map back; position 0 is the stored constant."""
        condition_BTD = self.frame.condition(embeddings_BTD)
        if sequence_B is None:
            sequence_B = torch.arange(len(embeddings_BTD))
        base_BTD = self.frame.ridge(condition_BTD)
        return self.frame.finish(self.estimate(condition_BTD, base_BTD, steps, sequence_B, seed))

    @abc.abstractmethod
    def estimate(self, condition_BTD: Tensor, base_BTD: Tensor, steps: int, sequence_B: Tensor, seed: int) -> Tensor:
        """Return the standardised state (B, T, D), float32."""


def suffix_weights(settings: BridgeBase) -> dict[str, float]:
    """Return the weights of the two losses through the upper blocks, beside the mean of the other two."""
    return {"next_token": settings.next_token_weight, "distillation": settings.distillation_weight}


class TrainedArm(BasedArm):
    """An arm with parameters.

    What is random is drawn apart from what is computed, so that a batch that is split (micro-batches,
    several processes) sees the times and noise it would have seen whole.
    """

    settings: Any

    @abc.abstractmethod
    def draw(self, mask_BT: Tensor, generator: torch.Generator) -> Draws:
        """Draw times and noise of a batch whose counted states are `mask_BT`."""

    @abc.abstractmethod
    def errors(self, batch: Batch, draws: Draws) -> Tensor:
        """Return the training objective per state, mean over dimensions, (B, T); windows do not meet in it."""

    def row_errors(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the training objective per state, mean over dimensions, and its time t, both (B, T).

        A time of NaN marks a state that was not measured and does not count.
        """
        draws = self.draw(batch.mask_BT, generator)
        return self.errors(batch, draws), draws.t_BT

    def draw_once(self, mask_BT: Tensor, generator: torch.Generator) -> Draws:
        """Draw what `estimate_once` needs: nothing, unless the arm starts from noise or picks positions."""
        return Draws.without_noise(torch.ones(mask_BT.shape, device=mask_BT.device))

    def estimate_once(self, batch: Batch, draws: Draws) -> Tensor:
        """Return the standardised one-step estimate (B, T, D) with gradients, for losses through the upper blocks.

        An arm that denoises only some positions puts the target elsewhere.
        """
        sequence_B = torch.arange(len(batch.mask_BT))
        return self.estimate(batch.condition_BTD, batch.base_BTD, 1, sequence_B, 0)

    def direct_shares(self) -> dict[str, float]:
        """Return the shares of drawn states with t < 1 (the diffusion term) and with t = 1 (the reconstruction term)."""
        endpoint = self.settings.endpoint_probability
        return {"diffusion": 1 - endpoint, "reconstruction": endpoint}

    def direct_factors(self) -> dict[str, float]:
        """Return what the squared error of one drawn state counts for in either term."""
        return {"diffusion": self.settings.diffusion_weight, "reconstruction": self.settings.reconstruction_weight}

    def objective(self) -> dict[str, float]:
        """Return the weights of the paper's four loss terms in what this arm minimises: share x factor of the direct ones."""
        factors = self.direct_factors()
        direct = {name: share * factors[name] for name, share in self.direct_shares().items()}
        return {**direct, **suffix_weights(self.settings)}

    @abc.abstractmethod
    def attention_flops(self, positions: int) -> int:
        """Return forward FLOPs per token that are no product with a parameter matrix."""

    def state_flops(self) -> tuple[int, int]:
        """Return the forward FLOPs that only a drawn state costs, of trained and of frozen weights.

        The first are a part of what every token costs where all states are drawn. None here: all positions are computed,
        drawn or not.
        """
        return 0, 0

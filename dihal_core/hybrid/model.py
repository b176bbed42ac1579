"""The hybrid as evaluation needs it: condition -> arm -> suffix.

Letters: B windows, T positions, D hidden size, V vocabulary.
"""

import dataclasses
from collections.abc import Callable

import torch

from dihal_core.backbones.backbone import Backbone
from dihal_core.bridges.frame import Arm


@dataclasses.dataclass(frozen=True)
class Hybrid:
    """A backbone whose blocks 1..layer are replaced by an arm that sees the embedding output alone."""

    backbone: Backbone
    layer: int
    arm: Arm
    steps: int = 1
    seed: int = 0

    def hidden(self, embeddings_BTD: torch.Tensor, sequence_B: torch.Tensor) -> torch.Tensor:
        """Return the made-up state of `layer`, float32, backbone scale.

        Parameters
        ----------
        embeddings_BTD
            `backbone.embed(tokens_BT)`.
        sequence_B
            Identity of each window, which names its noise whatever the batch.
        """
        return self.arm.predict(embeddings_BTD, self.steps, sequence_B, self.seed)

    @property
    def suffix(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """hidden_BTD -> final_BTD: the untouched blocks after `layer` and the final norm."""
        return self.backbone.suffix(self.layer)

    @torch.no_grad()
    def final(self, embeddings_BTD: torch.Tensor, sequence_B: torch.Tensor) -> torch.Tensor:
        """Return final_BTD, states after the final norm."""
        return self.suffix(self.hidden(embeddings_BTD, sequence_B))

    @torch.no_grad()
    def logits(self, tokens_BT: torch.Tensor, sequence_B: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits_BTV of windows that start with the separator."""
        sequence_B = torch.arange(len(tokens_BT)) if sequence_B is None else sequence_B
        return self.backbone.logits(self.final(self.backbone.embed(tokens_BT), sequence_B))

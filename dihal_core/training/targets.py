"""Where training targets come from: read from the activation store, or recomputed by the frozen prefix.

Letters: N windows, B windows of a batch, T positions, D hidden size.

Reading is right for deep layers and small data; recomputing stores nothing and wins for the shallow
layers a bridge usually enters.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dihal_core.activations.reader import load_whole, map_whole
from dihal_core.activations.tensors import from_bits
from dihal_core.backbones.backbone import Backbone
from dihal_core.corpus.windows import Windows
from dihal_core.errors import ArtifactError
from dihal_core.store import StageRecord


class TargetSource(Protocol):
    """Hidden states of training windows at one layer."""

    def states(self, windows: np.ndarray) -> Tensor:
        """Return hidden_BTD of the given windows in backbone scale, on the training device."""
        ...


WHOLE_IN_MEMORY_BYTES = 4 * 2**30
"""A layer up to this size is loaded once; a larger one (157 GB at the paper's scale) is mapped from disk."""


class StoreTargets:
    """States of the first windows of the training split, as stage `activations` stored them."""

    def __init__(
        self,
        record: StageRecord,
        layer: int,
        needed: int,
        device: str | torch.device,
        in_memory_bytes: int = WHOLE_IN_MEMORY_BYTES,
    ):
        mapped = map_whole(record, layer)
        self.device = device
        if len(mapped) < needed:
            raise ArtifactError(
                f"store {record.uri} holds {len(mapped)} whole windows of layer {layer}, {needed} are needed; "
                "set activations.whole_sequences to sweep.num_sequences and run the study again"
            )

        if int(np.prod(mapped.shape)) * mapped.dtype.itemsize <= in_memory_bytes:
            self._rows: Callable[[np.ndarray], np.ndarray] = load_whole(record, layer).__getitem__
        else:
            self._rows = mapped.gather

    def states(self, windows: np.ndarray) -> Tensor:
        """Return bfloat16 states."""
        return from_bits(self._rows(windows)).to(self.device)


class RecomputeTargets:
    """States of any windows, by running blocks 1..layer of the frozen backbone."""

    def __init__(self, backbone: Backbone, windows: Windows, layer: int):
        self.backbone, self.windows, self.layer = backbone, windows, layer

    def states(self, windows: np.ndarray) -> Tensor:
        """Return states in the backbone's dtype."""
        return self.backbone.prefix(torch.from_numpy(self.windows.tokens_NT[windows]), self.layer)

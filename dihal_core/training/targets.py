"""Where training targets come from: read from the activation store, or recomputed by the frozen prefix.

Letters: N windows, B windows of a batch, T positions, D hidden size.

Reading is right for deep layers and small data; recomputing stores nothing and wins for the shallow
layers a bridge usually enters.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dihal_core.activations.reader import MappedArray, load_whole, map_whole
from dihal_core.activations.stream import WindowStream
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

    def reading_ahead(self, order: Iterable[np.ndarray]) -> contextlib.AbstractContextManager[None]:
        """While it is open, batches that are asked for in `order` may be read before they are asked for."""
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
                "set targets.source=stored (activations.whole_sequences left out) and run the study again"
            )

        if int(np.prod(mapped.shape)) * mapped.dtype.itemsize <= in_memory_bytes:
            self._rows: Callable[[np.ndarray], np.ndarray] = load_whole(record, layer).__getitem__
            self._mapped: MappedArray | None = None
        else:
            self._rows, self._mapped = mapped.gather, mapped
        self._ahead: Iterator[tuple[np.ndarray, np.ndarray]] | None = None
        self._waiting: tuple[np.ndarray, np.ndarray] | None = None

    def states(self, windows: np.ndarray) -> Tensor:
        """Return bfloat16 states; those of the order that is read ahead come from there."""
        if self._waiting is None and self._ahead is not None:
            self._waiting = next(self._ahead, None)
        if self._waiting is not None and np.array_equal(self._waiting[0], windows):
            bits_BTD, self._waiting = self._waiting[1], None
        else:
            bits_BTD = self._rows(windows)
        return from_bits(bits_BTD).to(self.device)

    @contextlib.contextmanager
    def reading_ahead(self, order: Iterable[np.ndarray]) -> Iterator[None]:
        """Read the next batches of a mapped layer in a thread; a layer in memory needs none."""
        if self._mapped is None:
            yield
            return
        with WindowStream(self._mapped, order) as stream:
            self._ahead = iter(stream)
            try:
                yield
            finally:
                self._ahead = self._waiting = None


class RecomputeTargets:
    """States of any windows, by running blocks 1..layer of the frozen backbone."""

    def __init__(self, backbone: Backbone, windows: Windows, layer: int):
        self.backbone, self.windows, self.layer = backbone, windows, layer

    def states(self, windows: np.ndarray) -> Tensor:
        """Return states in the backbone's dtype."""
        return self.backbone.prefix(torch.from_numpy(self.windows.tokens_NT[windows]), self.layer)

    def reading_ahead(self, order: Iterable[np.ndarray]) -> contextlib.AbstractContextManager[None]:
        """Nothing is read, so nothing can be read ahead."""
        return contextlib.nullcontext()

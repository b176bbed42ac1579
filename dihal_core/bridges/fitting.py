"""Fits the frozen frame of a layer: statistics, sink, ridge, all on training windows only.

Letters: N windows of a split, B windows of a chunk, T positions, D hidden size.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from dihal_core.bridges.frame import Frame
from dihal_core.bridges.linear import CrossSums, GramSums, RidgeFactor, fit_ridge, lagged
from dihal_core.bridges.standardise import Standardiser, fit_statistics, state_mask
from dihal_core.config import BridgeSettings
from dihal_core.errors import NumericsError
from dihal_core.progress import Progress, silent

States = Callable[[np.ndarray], Tensor]
"""Indices of windows -> states (B, T, D), any float dtype."""

CHUNK_WINDOWS = 32
"""Windows per pass over the data: part of the result's last bits, so it is fixed."""
SINK_TOLERANCE = 0.1
"""Largest relative distance between two windows' states at position 0 (bfloat16 kernels differ by about 1 %)."""


@dataclasses.dataclass(frozen=True)
class LayerFacts:
    """What was measured on the fitted states of one layer, in backbone scale."""

    mean_D: Tensor
    """float32; the origin of the raw relative error."""
    median_norm: float
    """Median token norm, the yardstick of outlier tokens."""
    rows: int


def fit_condition(
    embed: States,
    lengths_N: Tensor,
    windows: np.ndarray,
    settings: BridgeSettings,
    what: str,
    progress: Progress = silent,
) -> tuple[Standardiser, RidgeFactor]:
    """Standardise the embedding states of `windows` and factorise the Gram matrix of their lagged copies."""
    chunks = _chunks(windows)
    visited = itertools.count()

    def rows() -> Iterator[tuple[Tensor, Tensor]]:
        for chunk in chunks:
            progress(next(visited), 2 * len(chunks), "chunks")
            hidden_BTD = embed(chunk)
            yield hidden_BTD, state_mask(lengths_N[chunk], hidden_BTD.shape[1]).to(hidden_BTD.device)

    condition = Standardiser.of(fit_statistics((hidden[mask] for hidden, mask in rows()), what))
    sums: GramSums | None = None
    for hidden_BTD, mask_BT in rows():
        condition = condition.to(hidden_BTD.device)
        features_BTF = lagged(condition(hidden_BTD), settings.ridge_tokens)
        sums = sums or GramSums(features_BTF.shape[-1], hidden_BTD.device)
        sums.add(features_BTF[mask_BT])
    if sums is None:
        raise NumericsError(f"{what}: no training windows to fit on; raise the number of training windows")
    return condition, sums.factorise(settings.ridge_penalty)


def fit_frame(
    condition: Standardiser,
    factor: RidgeFactor,
    embed: States,
    states: States,
    lengths_N: Tensor,
    windows: np.ndarray,
    settings: BridgeSettings,
    what: str,
    progress: Progress = silent,
) -> tuple[Frame, LayerFacts]:
    """Fit statistics, sink and ridge of one layer on the windows that `factor` was made from.

    Parameters
    ----------
    embed, states : callables
        Embedding states and hidden states of given windows.
    lengths_N : LongTensor
        Lengths of all windows of the split.
    windows : ndarray of int
        The same, in the same order, as given to `fit_condition`.
    what : str
        Names the layer in errors.

    Raises
    ------
    NumericsError
        If states are not finite or windows do not share their first state.
    """
    chunks = _chunks(windows)
    held = []
    for done, chunk in enumerate(chunks):
        progress(done, len(chunks), "chunks")
        held.append(states(chunk))
    device = held[0].device
    masks = [state_mask(lengths_N[chunk], held[0].shape[1]).to(device) for chunk in chunks]
    statistics = fit_statistics((hidden[mask] for hidden, mask in zip(held, masks, strict=True)), what)
    target = Standardiser.of(statistics).to(device)
    product_dtype = torch.bfloat16 if held[0].dtype == torch.bfloat16 else torch.float32
    cross = CrossSums(held[0].shape[-1], settings.ridge_tokens, device, product_dtype)
    norms = []
    for chunk, hidden_BTD, mask_BT in zip(chunks, held, masks, strict=True):
        cross.add(condition(embed(chunk)), target(hidden_BTD) * mask_BT[..., None])
        norms.append(torch.linalg.vector_norm(hidden_BTD[mask_BT], dim=-1, dtype=torch.float32))
    frame = Frame(len(statistics.mean_D), settings.ridge_tokens).to(device)
    frame.condition, frame.target, frame.ridge = condition, target, fit_ridge(factor, cross)
    frame.sink_D.copy_(_shared_sink(held, what))
    return frame, LayerFacts(target.mean_D.clone(), float(torch.cat(norms).median()), statistics.rows)


def _shared_sink(held: list[Tensor], what: str) -> Tensor:
    sink_D = held[0][0, 0].float()
    for hidden_BTD in held:
        distance = torch.linalg.vector_norm(hidden_BTD[:, 0].float() - sink_D, dim=-1).max()
        if not float(distance) <= SINK_TOLERANCE * float(torch.linalg.vector_norm(sink_D)):
            raise NumericsError(
                f"{what}: windows differ in their state at position 0 by {float(distance):.3g}, so they do not start "
                "with the same token; make the corpus again with one backbone.separator_token"
            )
    return sink_D


def _chunks(windows: np.ndarray) -> list[np.ndarray]:
    return [windows[start : start + CHUNK_WINDOWS] for start in range(0, len(windows), CHUNK_WINDOWS)]

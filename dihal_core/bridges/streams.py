"""Arms one token at a time: what they keep of the prefix, so that a new token costs one position.

Letters: B rows, t new positions, S slots seen so far, D hidden size, C context width, H heads, K head
width, J tokens of the ridge.

Rows are left-aligned here whatever padding the model saw, so every row counts its own positions from 0
and a row's numbers do not depend on its neighbours. `STREAMS` names the incremental form of an arm by
`kind`; an arm without one is computed again from its whole prefix, which is exact and slow. The contract
test holds every arm's stream against `predict`.
"""

import abc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dihal_core.bridges.frame import Arm
from dihal_core.bridges.memory import ContextMemory, Slots
from dihal_core.bridges.processes import position_noise

SEQUENCE = 0
"""Identity that names the noise of every generated row: a continuation may not depend on the row's place in a batch."""


class Stream(abc.ABC):
    """State of one arm over a batch of growing sequences. Not shared between threads."""

    def __init__(self, arm: Any, steps: int, seed: int):
        self.arm, self.steps, self.seed = arm, steps, seed
        self.rows, self.longest = 0, 0
        """B and the largest of `length_B`, as int so that no step waits for a device."""
        self._length_B: Tensor | None = None
        """None while every row has `longest` positions."""

    @property
    def length_B(self) -> Tensor | None:
        """Positions of every row, None before the first."""
        if self._length_B is None and self.rows:
            return torch.full((self.rows,), self.longest)
        return self._length_B

    def extend(self, embeddings_BtD: Tensor, count_B: Tensor | None = None) -> Tensor:
        """Return hidden_BtD, float32 in backbone scale, of the next positions of every row.

        Parameters
        ----------
        embeddings_BtD : Tensor of shape (B, t, D)
            State 0 of the new tokens, left-aligned.
        count_B : LongTensor of shape (B,), optional
            Real tokens per row, at least 1; what stands behind them is ignored and forgotten. All t by default.
        """
        B, t, _ = embeddings_BtD.shape
        even = count_B is None and self._length_B is None
        with torch.no_grad():
            if t == 1 and even and self.rows == B:
                hidden_BtD, length_B = self._step(embeddings_BtD), None
            else:
                seen_B = torch.zeros(B, dtype=torch.long) if self.length_B is None else self.length_B
                seen_B = seen_B.to(embeddings_BtD.device)
                positions_Bt = seen_B[:, None] + torch.arange(t, device=seen_B.device)
                hidden_BtD = self._extend(embeddings_BtD, positions_Bt, self.longest + t, count_B)
                length_B = None if even else seen_B + (t if count_B is None else count_B)
        self.longest = self.longest + t if count_B is None or length_B is None else int(length_B.max())
        self.rows, self._length_B = B, length_B
        return hidden_BtD

    def select(self, index_R: Tensor) -> None:
        """Keep rows `index_R`, in this order; a row may be named several times (beams, repeats)."""
        if self.rows:
            self.rows = len(index_R)
            self._length_B = None if self._length_B is None else self._length_B[index_R.to(self._length_B.device)]
            self._select(index_R)

    def reset(self) -> None:
        """Forget the prefix."""
        self.rows, self.longest, self._length_B = 0, 0, None
        self._reset()

    @abc.abstractmethod
    def _extend(self, embeddings_BtD: Tensor, positions_Bt: Tensor, used: int, count_B: Tensor | None) -> Tensor: ...

    def _step(self, embeddings_B1D: Tensor) -> Tensor:
        """Extend rows of one length by one position; the common case, which an arm may do with less ado."""
        positions_B1 = torch.full((self.rows, 1), self.longest, device=embeddings_B1D.device)
        return self._extend(embeddings_B1D, positions_B1, self.longest + 1, None)

    @abc.abstractmethod
    def _select(self, index_R: Tensor) -> None: ...

    @abc.abstractmethod
    def _reset(self) -> None: ...


class RecomputeStream(Stream):
    """Any causal arm: `predict` over the whole prefix at every call."""

    def __init__(self, arm: Any, steps: int, seed: int):
        super().__init__(arm, steps, seed)
        self._embeddings = Slots()

    def _extend(self, embeddings_BtD: Tensor, positions_Bt: Tensor, used: int, count_B: Tensor | None) -> Tensor:
        prefix_BSD = self._embeddings.write(positions_Bt, embeddings_BtD, used)
        sequence_B = torch.full((len(prefix_BSD),), SEQUENCE)
        hidden_BSD = self.arm.predict(prefix_BSD, self.steps, sequence_B, self.seed)
        return hidden_BSD.gather(1, positions_Bt[..., None].expand(-1, -1, hidden_BSD.shape[-1]))

    def _select(self, index_R: Tensor) -> None:
        self._embeddings.select(index_R)

    def _reset(self) -> None:
        self._embeddings = Slots()


class TokenwiseStream(Stream):
    """An arm that is token-wise given ridge base and causal context: `decode(context, condition, base, steps, noise)`.

    It keeps the last J - 1 condition states and the context's keys and values; the sampler runs on the
    new positions alone, with the noise that belongs to them.
    """

    def __init__(self, arm: Any, steps: int, seed: int):
        super().__init__(arm, steps, seed)
        self._reset()

    def _reset(self) -> None:
        self._memory = ContextMemory(self.arm.context)
        self._recent_BLD: Tensor | None = None
        with torch.no_grad():
            self._refine = self.arm.refiner()

    def _extend(self, embeddings_BtD: Tensor, positions_Bt: Tensor, used: int, count_B: Tensor | None) -> Tensor:
        frame = self.arm.frame
        condition_BtD = frame.condition(embeddings_BtD)
        B, t, D = condition_BtD.shape
        lags = frame.ridge.tokens - 1
        recent_BLD = condition_BtD.new_zeros(B, lags, D) if self._recent_BLD is None else self._recent_BLD
        joined = torch.cat([recent_BLD, condition_BtD], dim=1)
        base_BtD = frame.ridge(joined)[:, lags:]
        end_B = torch.full((B,), t, device=joined.device) if count_B is None else count_B.to(joined.device)
        last_BL = end_B[:, None] + torch.arange(lags, device=joined.device)
        self._recent_BLD = joined.gather(1, last_BL[..., None].expand(-1, -1, D))
        context_BtC = self._memory.extend(condition_BtD, positions_Bt, used)
        noise = self._noise(positions_Bt[:, 0], t, D)
        standardised_BtD = self.arm.decode(context_BtC, condition_BtD, base_BtD, self.steps, noise)
        hidden_BtD = frame.target.inverse(standardised_BtD)
        return torch.where(positions_Bt[..., None] == 0, frame.sink_D, hidden_BtD)

    def _step(self, embeddings_B1D: Tensor) -> Tensor:
        frame, position = self.arm.frame, self.longest
        condition_B1D = frame.condition(embeddings_B1D)
        joined_BJD = torch.cat([self._recent_BLD, condition_B1D], dim=1)
        self._recent_BLD = joined_BJD[:, 1:]
        features_BF = joined_BJD.flip(1).flatten(1)  # newest first, as `lagged` has them
        base_B1D = torch.addmm(frame.ridge.bias_D, features_BF, frame.ridge.weight_FD)[:, None]
        context_B1C = self._memory.step(condition_B1D, position)
        if self.steps == 1:
            return frame.target.inverse(self._refine(context_B1C, condition_B1D, base_B1D))
        noise = self._noise(torch.full((self.rows,), position), 1, frame.width)
        return frame.target.inverse(self.arm.decode(context_B1C, condition_B1D, base_B1D, self.steps, noise))

    def _noise(self, start_B: Tensor, positions: int, width: int) -> Callable[[int], Tensor]:
        def draw_noise(draw: int) -> Tensor:
            starts = start_B.tolist()
            rows = {
                start: torch.from_numpy(position_noise(self.seed, SEQUENCE, draw, positions, width, start))
                for start in set(starts)
            }
            return torch.stack([rows[start] for start in starts]).to(self.arm.frame.sink_D.device)

        return draw_noise

    def _select(self, index_R: Tensor) -> None:
        self._memory.select(index_R)
        if self._recent_BLD is not None:
            self._recent_BLD = self._recent_BLD[index_R.to(self._recent_BLD.device)]


STREAMS: dict[str, Callable[[Any, int, int], Stream]] = {"mlp": TokenwiseStream, "regressor": TokenwiseStream}


def open_stream(arm: Arm, steps: int = 1, seed: int = 0) -> Stream:
    """Return an empty stream of `arm` in its incremental form, or the one that recomputes.

    Parameters
    ----------
    steps
        Sampler steps.
    seed
        Root seed of the noise; with one step there is none.
    """
    return STREAMS.get(arm.kind, RecomputeStream)(arm, steps, seed)

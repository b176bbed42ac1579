"""Arms one token at a time: what they keep of the prefix, so that a new token costs one position.

Letters: B rows, t new positions, S slots seen so far, D hidden size, C context width, H heads, K head
width, J tokens of the ridge, W context states of the UNet, X their width.

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


class Recent:
    """The last few values (B, n, ..) of every row; zero where a row has not had so many."""

    def __init__(self, count: int):
        self.count = count
        self.data: Tensor | None = None

    def join(self, values_BtX: Tensor, count_B: Tensor | None) -> Tensor:
        """Return what was kept with `values` (B, t, ..) behind it, and keep the last ones of every row.

        `count_B` says how many of the values are real.
        """
        B, t, X = values_BtX.shape
        kept_BnX = values_BtX.new_zeros(B, self.count, X) if self.data is None else self.data
        joined = torch.cat([kept_BnX, values_BtX], dim=1)
        end_B = torch.full((B,), t, device=joined.device) if count_B is None else count_B.to(joined.device)
        last_Bn = end_B[:, None] + torch.arange(self.count, device=joined.device)
        self.data = joined.gather(1, last_Bn[..., None].expand(-1, -1, X))
        return joined

    def push(self, value_B1X: Tensor) -> Tensor:
        """`join` of one more value to rows that all have some."""
        assert self.data is not None
        joined = torch.cat([self.data, value_B1X], dim=1)
        self.data = joined[:, 1:]
        return joined

    def select(self, index_R: Tensor) -> None:
        """Keep rows `index_R`."""
        self.data = None if self.data is None else self.data[index_R.to(self.data.device)]


class ContextStream(Stream):
    """An arm that reads ridge base, condition and causal context of a token: it keeps what those need of the prefix.

    That is the last J - 1 condition states and the context's keys and values; the sampler runs on the new
    positions alone, with the noise that belongs to them.
    """

    def __init__(self, arm: Any, steps: int, seed: int):
        super().__init__(arm, steps, seed)
        self._reset()

    def _reset(self) -> None:
        self._memory = ContextMemory(self.arm.context)
        self._conditions = Recent(self.arm.frame.ridge.tokens - 1)

    def _extend(self, embeddings_BtD: Tensor, positions_Bt: Tensor, used: int, count_B: Tensor | None) -> Tensor:
        frame = self.arm.frame
        condition_BtD = frame.condition(embeddings_BtD)
        base_BtD = frame.ridge(self._conditions.join(condition_BtD, count_B))[:, self._conditions.count :]
        context_BtC = self._memory.extend(condition_BtD, positions_Bt, used)
        noise = self._noise(positions_Bt[:, 0], *condition_BtD.shape[1:])
        standardised_BtD = self._decode(context_BtC, condition_BtD, base_BtD, positions_Bt, count_B, noise)
        hidden_BtD = frame.target.inverse(standardised_BtD)
        return torch.where(positions_Bt[..., None] == 0, frame.sink_D, hidden_BtD)

    @abc.abstractmethod
    def _decode(
        self,
        context_BtC: Tensor,
        condition_BtD: Tensor,
        base_BtD: Tensor,
        positions_Bt: Tensor,
        count_B: Tensor | None,
        noise: Callable[[int], Tensor],
    ) -> Tensor: ...

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
        self._conditions.select(index_R)


class TokenwiseStream(ContextStream):
    """An arm that is token-wise given ridge base and causal context: `decode(context, condition, base, steps, noise)`."""

    def _reset(self) -> None:
        super()._reset()
        with torch.no_grad():
            self._refine = self.arm.refiner()

    def _step(self, embeddings_B1D: Tensor) -> Tensor:
        frame, position = self.arm.frame, self.longest
        condition_B1D = frame.condition(embeddings_B1D)
        features_BF = self._conditions.push(condition_B1D).flip(1).flatten(1)  # newest first, as `lagged` has them
        base_B1D = torch.addmm(frame.ridge.bias_D, features_BF, frame.ridge.weight_FD)[:, None]
        context_B1C = self._memory.step(condition_B1D, position)
        if self.steps == 1:
            return frame.target.inverse(self._refine(context_B1C, condition_B1D, base_B1D))
        noise = self._noise(torch.full((self.rows,), position), 1, frame.width)
        return frame.target.inverse(self.arm.decode(context_B1C, condition_B1D, base_B1D, self.steps, noise))

    def _decode(
        self,
        context_BtC: Tensor,
        condition_BtD: Tensor,
        base_BtD: Tensor,
        positions_Bt: Tensor,
        count_B: Tensor | None,
        noise: Callable[[int], Tensor],
    ) -> Tensor:
        return self.arm.decode(context_BtC, condition_BtD, base_BtD, self.steps, noise)


class UnetStream(ContextStream):
    """The `unet` bridge: it also keeps the last W - 1 context states, which a new token's latent attends to."""

    def _reset(self) -> None:
        super()._reset()
        self._contexts = Recent(self.arm.settings.context_tokens - 1)

    def _decode(
        self,
        context_BtC: Tensor,
        condition_BtD: Tensor,
        base_BtD: Tensor,
        positions_Bt: Tensor,
        count_B: Tensor | None,
        noise: Callable[[int], Tensor],
    ) -> Tensor:
        window = self._contexts.count + 1
        joined = self._contexts.join(self.arm.context_out(context_BtC), count_B)
        context_BtWX = joined.unfold(1, window, 1).transpose(2, 3)
        seen_BtW = positions_Bt[..., None] + torch.arange(1 - window, 1, device=joined.device) >= 0
        return self.arm.decode(context_BtWX, seen_BtW, condition_BtD, base_BtD, self.steps, noise)

    def _select(self, index_R: Tensor) -> None:
        super()._select(index_R)
        self._contexts.select(index_R)


STREAMS: dict[str, Callable[[Any, int, int], Stream]] = {
    "mlp": TokenwiseStream,
    "regressor": TokenwiseStream,
    "unet": UnetStream,
}


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

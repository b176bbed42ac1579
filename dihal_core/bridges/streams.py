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
import torch.nn.functional as F
from torch import Tensor

from dihal_core.bridges.context import CausalTransformer, rotary_at, rotate
from dihal_core.bridges.frame import Arm
from dihal_core.bridges.processes import position_noise

SEQUENCE = 0
"""Identity that names the noise of every generated row: a continuation may not depend on the row's place in a batch."""


class Stream(abc.ABC):
    """State of one arm over a batch of growing sequences. Not shared between threads."""

    def __init__(self, arm: Any, steps: int, seed: int):
        self.arm, self.steps, self.seed = arm, steps, seed
        self.length_B: Tensor | None = None
        self.longest = 0
        """Largest of `length_B`, kept as int so that no step waits for a device."""

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
        device = embeddings_BtD.device
        length_B = torch.zeros(B, dtype=torch.long, device=device) if self.length_B is None else self.length_B
        positions_Bt = length_B[:, None] + torch.arange(t, device=device)
        with torch.no_grad():
            hidden_BtD = self._extend(embeddings_BtD, positions_Bt, self.longest + t, count_B)
        self.length_B = length_B + (t if count_B is None else count_B)
        self.longest = self.longest + t if count_B is None else int(self.length_B.max())
        return hidden_BtD

    def select(self, index_R: Tensor) -> None:
        """Keep rows `index_R`, in this order; a row may be named several times (beams, repeats)."""
        if self.length_B is not None:
            self.length_B = self.length_B[index_R.to(self.length_B.device)]
            self._select(index_R.to(self.length_B.device))

    def reset(self) -> None:
        """Forget the prefix."""
        self.length_B, self.longest = None, 0
        self._reset()

    @abc.abstractmethod
    def _extend(self, embeddings_BtD: Tensor, positions_Bt: Tensor, used: int, count_B: Tensor | None) -> Tensor: ...

    @abc.abstractmethod
    def _select(self, index_R: Tensor) -> None: ...

    @abc.abstractmethod
    def _reset(self) -> None: ...


class Slots:
    """A tensor (B, S, ..) that grows by doubling and is written row by row at given positions."""

    def __init__(self) -> None:
        self.data: Tensor | None = None

    def write(self, positions_Bt: Tensor, values: Tensor, used: int) -> Tensor:
        """Store `values` (B, t, ..) at `positions_Bt` and return the first `used` slots, zero where nothing was."""
        data = self.data
        if data is None or data.shape[1] < used:
            capacity = used if data is None else 2 * used
            grown = values.new_zeros(values.shape[0], capacity, *values.shape[2:])
            if data is not None:
                grown[:, : data.shape[1]] = data
            self.data = data = grown
        data[torch.arange(len(values), device=values.device)[:, None], positions_Bt] = values
        return data[:, :used]

    def select(self, index_R: Tensor) -> None:
        """Keep rows `index_R`."""
        self.data = None if self.data is None else self.data[index_R]


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


class ContextMemory:
    """Keys and values of a causal context transformer, so that a new token attends to what is stored."""

    def __init__(self, transformer: CausalTransformer):
        self.transformer = transformer
        self.keys = [Slots() for _ in transformer.blocks]
        self.values = [Slots() for _ in transformer.blocks]

    def extend(self, condition_BtD: Tensor, positions_Bt: Tensor, used: int) -> Tensor:
        """Return context_BtC of new positions and remember their keys and values."""
        seen_BtS = torch.arange(used, device=positions_Bt.device) <= positions_Bt[..., None]
        x_BtC = self.transformer.enter(condition_BtD)
        for block, keys, values in zip(self.transformer.blocks, self.keys, self.values, strict=True):
            x_BtC = _extend_block(block, x_BtC, keys, values, positions_Bt, seen_BtS)
        return self.transformer.norm(x_BtC)

    def select(self, index_R: Tensor) -> None:
        """Keep rows `index_R`."""
        for slots in (*self.keys, *self.values):
            slots.select(index_R)


def _extend_block(
    block: Any, x_BtC: Tensor, keys: Slots, values: Slots, positions_Bt: Tensor, seen_BtS: Tensor
) -> Tensor:
    """Run one `CausalBlock` on new positions; slots behind a row's position are masked."""
    B, t, C = x_BtC.shape
    qkv = block.qkv(block.attention_norm(x_BtC)).view(B, t, 3, block.heads, C // block.heads)
    query_BHtK, key_BHtK, value_BHtK = qkv.permute(2, 0, 3, 1, 4)
    cos, sin = rotary_at(positions_Bt, C // block.heads, x_BtC)
    table = cos[:, None], sin[:, None]
    used = seen_BtS.shape[-1]
    key_BSHK = keys.write(positions_Bt, rotate(key_BHtK, table).transpose(1, 2), used)
    value_BSHK = values.write(positions_Bt, value_BHtK.transpose(1, 2), used)
    mixed_BHtK = F.scaled_dot_product_attention(
        rotate(query_BHtK, table), key_BSHK.transpose(1, 2), value_BSHK.transpose(1, 2), attn_mask=seen_BtS[:, None]
    )
    x_BtC = x_BtC + block.attention_out(mixed_BHtK.transpose(1, 2).reshape(B, t, C))
    gate, up = block.gate_up(block.feedforward_norm(x_BtC)).chunk(2, dim=-1)
    return x_BtC + block.down(F.silu(gate) * up)


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

    def select(self, index_R: Tensor) -> None:
        """Keep rows `index_R`."""
        self.data = None if self.data is None else self.data[index_R]


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

    def _noise(self, start_B: Tensor, positions: int, width: int) -> Callable[[int], Tensor]:
        def draw_noise(draw: int) -> Tensor:
            starts = start_B.tolist()
            rows = {
                start: torch.from_numpy(position_noise(self.seed, SEQUENCE, draw, positions, width, start))
                for start in set(starts)
            }
            return torch.stack([rows[start] for start in starts]).to(start_B.device)

        return draw_noise

    def _select(self, index_R: Tensor) -> None:
        self._memory.select(index_R)
        self._conditions.select(index_R)


class UnetStream(TokenwiseStream):
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

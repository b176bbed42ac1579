"""From tokens to the state of the layer where a hybrid enters: whole rows at once, or the columns that follow a cache.

Letters: B rows, T columns of the call, D hidden size, S columns with those in the cache.
"""

from typing import Any, cast

import torch
from torch import Tensor

from dihal_core.backbones.backbone import Backbone
from dihal_core.bridges.frame import Arm
from dihal_core.bridges.streams import SEQUENCE
from dihal_core.errors import ConfigError
from dihal_core.hybrid.cache import HybridCache
from dihal_core.hybrid.configuration import DiHALConfig
from dihal_core.hybrid.padding import Rows, find_rows


class Entrance:
    """Embedding and bridge of a hybrid; holds references only, the model owns the modules.

    Parameters
    ----------
    config
        Of the hybrid: separator, noise seed.
    backbone, arm, embedder
        The decoder, what replaces its first blocks, and its modules before block 1 (`Backbone.parts`).
    """

    def __init__(self, config: DiHALConfig, backbone: Backbone, arm: Arm, embedder: Any):
        self.config, self.backbone, self.arm, self.embedder = config, backbone, arm, embedder
        self.plain = is_plain_embedding(embedder, backbone)

    def whole(
        self, input_ids: Tensor, attention_mask: Tensor | None, steps: int
    ) -> tuple[Tensor, Rows | None, Tensor | None]:
        """Return hidden_BTD of `layer` for whole rows, as evaluation computes it; where rows are padded; and the mask.

        Parameters
        ----------
        input_ids : LongTensor of shape (B, T)
        attention_mask : Tensor of shape (B, T), optional
        steps : int
            Sampler steps of the bridge.

        Raises
        ------
        ConfigError
            If a row does not start with the separator, or the mask has gaps.
        """
        B, T = input_ids.shape
        rows = find_rows(attention_mask, B, T)
        self._require_separator(input_ids, rows)
        embeddings_BTD = self.embed(input_ids, None if rows is None else rows.positions(T))
        sequence_B = torch.full((B,), SEQUENCE)
        if rows is None:
            return self.arm.predict(embeddings_BTD, steps, sequence_B, self.config.noise_seed), None, attention_mask
        left_BTD = self.arm.predict(rows.to_left(embeddings_BTD), steps, sequence_B, self.config.noise_seed)
        return rows.from_left(left_BTD), rows, attention_mask

    def following(
        self, input_ids: Tensor, attention_mask: Tensor | None, cache: HybridCache
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return hidden_BTD of the columns that follow the cache, the mask over all S columns, and positions_BT.

        Parameters
        ----------
        input_ids : LongTensor of shape (B, T)
        attention_mask : Tensor of shape (B, S), optional
        cache : HybridCache
            Extended by these columns; an empty one starts rows.

        Raises
        ------
        ConfigError
            If rows are padded on the right, do not start with the separator, or do not fit the cache.
        """
        B, T = input_ids.shape
        rows = find_rows(attention_mask, B, cache.columns + T)
        if rows is not None and bool((rows.first_B + rows.count_B < cache.columns + T).any()):
            raise ConfigError(
                "attention_mask has padding on the right, after which nothing can follow; pad on the left "
                "(tokenizer.padding_side='left') or call without a cache"
            )
        start = self._first_states if cache.columns == 0 else self._later_states
        hidden_BTD, positions_BT = start(input_ids, attention_mask, rows, cache)
        cache.columns += T
        if attention_mask is None and cache.first_B is not None:
            column_S = torch.arange(cache.columns, device=cache.first_B.device)
            attention_mask = (column_S >= cache.first_B[:, None]).long()
        return hidden_BTD, attention_mask, positions_BT

    def _first_states(
        self, input_ids: Tensor, attention_mask: Tensor | None, rows: Rows | None, cache: HybridCache
    ) -> tuple[Tensor, Tensor | None]:
        """Return states and positions of the columns that start a cache."""
        self._require_separator(input_ids, rows)
        if rows is None:
            return cache.stream.extend(self.embed(input_ids, None)), None
        cache.first_B, positions_BT = rows.first_B, rows.positions(input_ids.shape[1])
        left_BTD = cache.stream.extend(rows.to_left(self.embed(input_ids, positions_BT)), rows.count_B)
        return rows.from_left(left_BTD), positions_BT

    def _later_states(
        self, input_ids: Tensor, attention_mask: Tensor | None, rows: Rows | None, cache: HybridCache
    ) -> tuple[Tensor, Tensor | None]:
        """Return states of columns that follow others, and their positions where rows are padded."""
        B, T = input_ids.shape
        if cache.stream.rows != B:
            raise ConfigError(f"input_ids has {B} rows, the cache has {cache.stream.rows}")
        first_B = None if rows is None else rows.first_B
        same = (
            first_B is cache.first_B
            if first_B is None or cache.first_B is None
            else torch.equal(first_B, cache.first_B)
        )
        if attention_mask is not None and not same:
            raise ConfigError("attention_mask differs from the one the cache was started with; start a new cache")
        if self.plain and cache.first_B is None:
            return cache.stream.extend(self.embed(input_ids, None)), None
        seen_B = cast(Tensor, cache.stream.length_B).to(input_ids.device)
        positions_BT = seen_B[:, None] + torch.arange(T, device=seen_B.device)
        hidden_BTD = cache.stream.extend(self.embed(input_ids, positions_BT))
        return hidden_BTD, None if cache.first_B is None else positions_BT

    def embed(self, input_ids: Tensor, positions_BT: Tensor | None) -> Tensor:
        """Return state 0 of tokens (B, T), (B, T, D); positions play a part only where the family adds them to it."""
        with torch.no_grad():
            if self.plain:
                return self.backbone.model.get_input_embeddings()(input_ids)
            return self.embedder(input_ids=input_ids, position_ids=positions_BT, use_cache=False).last_hidden_state

    def _require_separator(self, input_ids: Tensor, rows: Rows | None) -> None:
        first_B = input_ids[:, 0] if rows is None else input_ids.gather(1, rows.first_B[:, None])[:, 0]
        wrong_B = first_B != self.config.separator_token_id
        if bool(wrong_B.any()):
            row = int(wrong_B.nonzero()[0])
            raise ConfigError(
                f"row {row} starts with token {int(first_B[row])}, a hybrid's input starts with the separator "
                f"{self.config.separator_token_id}: the state of position 0 belongs to it. Use the tokenizer saved with "
                "the model, which puts it there, or prepend it"
            )


@torch.no_grad()
def is_plain_embedding(embedder: Any, backbone: Backbone) -> bool:
    """Say whether state 0 is the token embedding's own output, so that no mask or position need be made for it.

    Asked of the model, not of its name: GPT-2 adds positions, Gemma 2 scales after the lookup.
    """
    tokens_BT = torch.arange(min(4, backbone.vocab_size), device=backbone.device)[None]
    embeddings_BTD = backbone.model.get_input_embeddings()(tokens_BT)
    found = embedder(input_ids=tokens_BT, position_ids=tokens_BT + 5, use_cache=False).last_hidden_state
    return torch.equal(found.to(embeddings_BTD.device), embeddings_BTD)

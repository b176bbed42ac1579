"""What a hybrid remembers between tokens: keys and values of the suffix, and the bridge's own state.

Letters: B rows.
"""

from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import DynamicCache

from dihal_core.bridges.streams import Stream
from dihal_core.errors import ConfigError


class HybridCache(DynamicCache):
    """The suffix's `DynamicCache` with the stream of the bridge; beams and repeats move both together."""

    def __init__(self, suffix_config: Any, stream: Stream):
        super().__init__(config=suffix_config)
        self.stream = stream
        self.first_B: Tensor | None = None
        """Columns of padding before each row; None before the first call and where there is none."""
        self.columns = 0
        """Columns seen so far, padding included."""

    @property
    def is_croppable(self) -> bool:
        """False: the bridge's state has no way back, so speculative decoding is not offered."""
        return False

    def crop(self, tokens_to_remove: int) -> NoReturn:
        """Refuse.

        Raises
        ------
        ConfigError
            Always.
        """
        raise ConfigError(
            f"a hybrid's cache cannot forget its last {abs(tokens_to_remove)} tokens; use plain, sampled or beam "
            "decoding instead of assisted decoding"
        )

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Follow the beams."""
        super().reorder_cache(beam_idx)
        self._select(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep rows `indices`."""
        super().batch_select_indices(indices)
        self._select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row `repeats` times."""
        super().batch_repeat_interleave(repeats)
        if self.stream.rows:
            self._select(torch.arange(self.stream.rows).repeat_interleave(repeats))

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.stream.reset()
        self.first_B, self.columns = None, 0

    def _select(self, index_R: Tensor) -> None:
        self.stream.select(index_R)
        if self.first_B is not None:
            self.first_B = self.first_B[index_R.to(self.first_B.device)]

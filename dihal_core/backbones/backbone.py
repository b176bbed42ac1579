"""A frozen decoder, cut where a study needs it.

Layer index: state 0 is what enters block 1 (embedding output, scaled for Gemma, with position
embeddings for GPT-2); state l is the raw output of block l. State L has not passed the final norm.
Letters: B windows, T positions, D hidden size, V vocabulary.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from dihal_core.backbones.registry import Family
from dihal_core.backbones.splice import Visit, take_prefix, take_suffix
from dihal_core.errors import ConfigError


class Backbone:
    """Frozen Hugging Face causal LM in eval mode. Safe to share between threads.

    Windows are right-padded and no mask is passed: attention is causal, so pad positions change
    nothing before them.
    """

    def __init__(self, model: nn.Module, family: Family, name: str):
        self.model: Any = model.eval().requires_grad_(False)
        self.name = name
        self._family = family
        self._base: Any = self.model.base_model
        self._softcap = getattr(self.model.config, "final_logit_softcapping", None)

    @property
    def num_layers(self) -> int:
        """L, the number of blocks."""
        return len(getattr(self._base, self._family.layers))

    @property
    def hidden_size(self) -> int:
        """d."""
        return int(self.model.config.hidden_size)

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the forward pass and of every state."""
        return self.model.get_input_embeddings().weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.model.get_input_embeddings().weight.device

    def embed(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        """Return state 0, hidden_BTD."""
        return self.prefix(tokens_BT, 0)

    @torch.no_grad()
    def prefix(self, tokens_BT: torch.Tensor, layer: int) -> torch.Tensor:
        """Return state `layer`, hidden_BTD; blocks after it are not run."""
        self._check(layer)
        part = take_prefix(self._base, self._family.layers, self._family.norm, layer)
        return part(input_ids=self._move(tokens_BT), use_cache=False).last_hidden_state

    @torch.no_grad()
    def visit(self, tokens_BT: torch.Tensor, layers: Iterable[int], see: Visit) -> None:
        """Run one forward up to the last of `layers` and call `see(layer, hidden_BTD)` for each, in order.

        A state lives on only if `see` keeps it, so memory does not grow with the number of layers.
        """
        wanted = frozenset(layers)
        for layer in wanted:
            self._check(layer)
        if 0 in wanted:
            see(0, self.embed(tokens_BT))
        top = max(wanted, default=0)
        if top == 0:
            return

        def report(layer: int, hidden_BTD: torch.Tensor) -> None:
            if layer in wanted:
                see(layer, hidden_BTD)

        part = take_prefix(self._base, self._family.layers, self._family.norm, top, report)
        part(input_ids=self._move(tokens_BT), use_cache=False)

    def collect(self, tokens_BT: torch.Tensor, layers: Iterable[int]) -> dict[int, torch.Tensor]:
        """Return `{layer: hidden_BTD}` from one forward pass that stops after the last layer needed."""
        found: dict[int, torch.Tensor] = {}
        self.visit(tokens_BT, layers, found.__setitem__)
        return found

    def suffix(self, layer: int) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return the rest of the model after block `layer`: hidden_BTD -> final_BTD (after the final norm).

        The input is cast to the backbone's dtype; gradients flow to it if the caller records them.

        Raises
        ------
        ConfigError
            For a layer outside 0..L-1.
        """
        self._check(layer, last=self.num_layers - 1)
        part = take_suffix(self._base, self._family.layers, layer)
        if self._family.adapt_suffix is not None:
            self._family.adapt_suffix(part)

        def run(hidden_BTD: torch.Tensor) -> torch.Tensor:
            entered_BTD = hidden_BTD.to(device=self.device, dtype=self.dtype)
            return part(inputs_embeds=entered_BTD, use_cache=False).last_hidden_state

        return run

    @torch.no_grad()
    def final(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        """Return final_BTD of the whole model: after the last block and the final norm."""
        return self._base(input_ids=self._move(tokens_BT), use_cache=False).last_hidden_state

    def logits(self, final_BTD: torch.Tensor) -> torch.Tensor:
        """Return logits_BTV of normed states, in the backbone's dtype; any leading shape will do."""
        logits_BTV = self.model.get_output_embeddings()(final_BTD)
        if self._softcap is None:
            return logits_BTV
        return torch.tanh(logits_BTV / self._softcap) * self._softcap

    @torch.no_grad()
    def read_out(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Return logits_NV of states of any block, through the final norm and the LM head (the logit lens)."""
        norm = getattr(self._base, self._family.norm)
        return self.logits(norm(hidden_ND.to(device=self.device, dtype=self.dtype)))

    def _move(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        return tokens_BT.to(device=self.device, dtype=torch.long)

    def _check(self, layer: int, last: int | None = None) -> None:
        last = self.num_layers if last is None else last
        if not 0 <= layer <= last:
            raise ConfigError(
                f"layer {layer} is outside 0..{last} of {self.name} with {self.num_layers} blocks; "
                "0 is the embedding output, l the output of block l"
            )

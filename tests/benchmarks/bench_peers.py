"""The same states by nnsight and by TransformerLens' bridge, saved with torch.save. Used by `bench_dump.py`.

Both are optional: `pip install nnsight transformer-lens` into an environment of its own.
"""

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dihal_core.backbones.backbone import Backbone
from dihal_core.backbones.tokenizers import load_tokenizer
from dihal_core.config import BackboneSettings

Save = Callable[[torch.Tensor, Path], None]
"""Run one batch tokens_BT and save the states of all layers to the path."""


def with_nnsight(backbone: Backbone) -> Save:
    """Trace the base model (no head) and save the embedding output and every block's output."""
    import nnsight

    traced: Any = nnsight.NNsight(copy.deepcopy(backbone.model.base_model))  # it replaces forwards of what it wraps

    def save(tokens_BT: torch.Tensor, path: Path) -> None:
        states: list[Any] = []  # outside: the traced block is compiled on its own
        with torch.no_grad(), traced.trace(input_ids=tokens_BT, use_cache=False):
            states.append(traced.embed_tokens.output.save())
            for block in traced.layers:
                states.append(block.output.save())
        torch.save([(state[0] if isinstance(state, tuple) else state).cpu() for state in states], path)

    return save


def with_transformer_lens(backbone: Backbone) -> Save:
    """Cache the residual stream before the first and after every block, and save it."""
    from transformer_lens.model_bridge import TransformerBridge

    model = copy.deepcopy(backbone.model)
    tokenizer = load_tokenizer(bytes_settings(backbone), {})  # it wants one; token ids go in as they are
    bridge: Any = TransformerBridge.boot_transformers(
        backbone.name, hf_model=model, tokenizer=tokenizer, dtype=backbone.dtype, device=str(backbone.device)
    )
    last = backbone.num_layers
    names = ["blocks.0.hook_in", *(f"blocks.{layer}.hook_out" for layer in range(last))]

    def save(tokens_BT: torch.Tensor, path: Path) -> None:
        with torch.no_grad():
            _, cache = bridge.run_with_cache(tokens_BT, names_filter=names)
        torch.save([cache[name].cpu() for name in names], path)

    return save


def bytes_settings(backbone: Backbone) -> BackboneSettings:
    """Return settings under which `load_tokenizer` gives the byte tokenizer."""
    return BackboneSettings(
        name=backbone.name, source="random", identifier="bytes", model_type="llama", num_layers=backbone.num_layers,
        hidden_size=backbone.hidden_size, vocab_size=backbone.vocab_size, num_parameters=1, tokenizer="bytes",
        separator_token="<|separator|>",
    )  # fmt: skip


PEERS: dict[str, tuple[str, Callable[[Backbone], Save]]] = {
    "nnsight + torch.save (no head)": ("nnsight", with_nnsight),
    "TransformerLens bridge + torch.save (head included)": ("transformer_lens", with_transformer_lens),
}


def installed(backbone: Backbone) -> dict[str, Save]:
    """Return what saves with each installed peer."""
    return {name: make(backbone) for name, (module, make) in PEERS.items() if importlib.util.find_spec(module)}

"""Families of decoders, keyed by Hugging Face `model_type`: one line each.

A line names where the parts of the base model lie. A family whose forward does more between the
embedding and block 1 than the blocks themselves need adds a function that undoes it in suffixes.
The contract test runs over every line: prefix, suffix and logits equal the whole model exactly.
"""

import dataclasses
from collections.abc import Callable

from torch import nn

from dihal_core.backbones.splice import drop_position_embedding
from dihal_core.errors import ConfigError, nearest


@dataclasses.dataclass(frozen=True)
class Family:
    """Attribute names inside the base model (`model.base_model`), and what a suffix must leave out."""

    layers: str = "layers"
    norm: str = "norm"
    adapt_suffix: Callable[[nn.Module], None] | None = None
    """Changes the shallow copy that a suffix is, so that a state which already passed the embedding enters as it is."""


FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "mistral": Family(),
    "qwen2": Family(),
    "qwen3": Family(),
    "qwen3_moe": Family(),
    "mixtral": Family(),
    "gemma2": Family(),
    "gemma3_text": Family(),
    "olmo": Family(),
    "olmo2": Family(),
    "phi": Family(norm="final_layernorm"),
    "phi3": Family(),
    "gpt_neox": Family(norm="final_layer_norm"),
    "gpt2": Family(layers="h", norm="ln_f", adapt_suffix=drop_position_embedding),
}


def family_of(model_type: str) -> Family:
    """Return the registry line of `model_type`.

    Raises
    ------
    ConfigError
        For a family that is not registered.
    """
    if model_type not in FAMILIES:
        raise ConfigError(
            f"backbone.model_type {model_type!r} is not known{nearest(model_type, FAMILIES)}; known are "
            f"{', '.join(sorted(FAMILIES))}; a new family is one line in dihal_core/backbones/registry.py"
        )
    return FAMILIES[model_type]

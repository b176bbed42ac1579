"""Parts of a decoder as shallow copies: parameters are shared, the original is never touched.

A prefix or suffix is the family's own base model with fewer blocks, so masks, rotary embeddings and
sliding windows come from its stock forward. Copies carry their own hooks, so that threads which
share one backbone do not see each other's.

Letters: B windows, T positions, D hidden size.
"""

import collections
import copy
import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dihal_core.errors import GateError

Visit = Callable[[int, torch.Tensor], None]
"""Called with (layer index, hidden_BTD) as soon as a state exists."""


def shallow_copy(module: nn.Module) -> Any:
    """Return a copy that shares parameters and children but has its own registries and no hooks.

    Where accelerate wrapped the module's `forward` (a model spread over devices), the copy gets a wrapper of
    its own: the original's is bound to the original, and would run that one whole.

    Raises
    ------
    GateError
        If `forward` was replaced in another way (by a tracing library, say): a copy would silently run the
        original.
    """
    twin = copy.copy(module)
    for name in ("_parameters", "_buffers", "_modules"):
        twin.__dict__[name] = dict(module.__dict__[name])
    for name in ("_forward_hooks", "_forward_pre_hooks"):
        twin.__dict__[name] = collections.OrderedDict()
    wrapped = module.__dict__.get("forward")
    if isinstance(wrapped, functools.partial) and hasattr(module, "_old_forward"):
        original: Any = module._old_forward
        own_forward = types.MethodType(original.__func__, twin)
        twin.__dict__["_old_forward"] = own_forward
        twin.__dict__["forward"] = functools.update_wrapper(functools.partial(wrapped.func, twin), own_forward)
    elif wrapped is not None:
        raise GateError(
            f"the forward of {type(module).__name__} was replaced on the object by {wrapped!r:.80}; parts of such a "
            "model would run the whole of it: load a model that nothing else wraps"
        )
    return twin


def take_prefix(base: nn.Module, layers: str, norm: str, count: int, visit: Visit | None = None) -> nn.Module:
    """Return a copy of `base` with its first `count` blocks and no final norm.

    Its `last_hidden_state` is the raw output of block `count`, or the embedding output when 0.
    `visit` sees the state after every block (1..count).
    """
    twin = shallow_copy(base)
    blocks = list(getattr(base, layers))[:count]
    if visit is not None:
        blocks = [_visited(block, index, visit) for index, block in enumerate(blocks, start=1)]
    setattr(twin, layers, nn.ModuleList(blocks))
    setattr(twin, norm, nn.Identity())
    return twin


def take_suffix(base: Any, layers: str, first: int) -> nn.Module:
    """Return a copy of `base` with blocks `first + 1`.. and the final norm, for use with `inputs_embeds`.

    The per-layer lists of the config are cut along, and block indices (cache slots) start at 0.
    """
    twin = shallow_copy(base)
    blocks = [_renumbered(block, index) for index, block in enumerate(list(getattr(base, layers))[first:])]
    setattr(twin, layers, nn.ModuleList(blocks))
    config = copy.deepcopy(base.config)
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        config.layer_types = kinds[first:]
    config.num_hidden_layers = len(blocks)
    twin.config = config
    return twin


def drop_position_embedding(suffix: Any) -> None:
    """GPT-2 adds position embeddings to whatever enters; a hidden state has them already."""
    suffix.wpe = _ZeroEmbedding(suffix.wpe.embedding_dim, suffix.wpe.weight.dtype)


class _ZeroEmbedding(nn.Module):
    """Maps every index to zeros of the embedding's width."""

    def __init__(self, width: int, dtype: torch.dtype):
        super().__init__()
        self.width, self.dtype = width, dtype

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*index.shape, self.width, dtype=self.dtype, device=index.device)


def _visited(block: nn.Module, index: int, visit: Visit) -> nn.Module:
    twin = shallow_copy(block)

    def report(_module: nn.Module, _arguments: tuple, output: torch.Tensor | tuple) -> None:
        visit(index, output[0] if isinstance(output, tuple) else output)

    twin.register_forward_hook(report)
    return twin


def _renumbered(block: nn.Module, index: int) -> nn.Module:
    twin = shallow_copy(block)
    if hasattr(twin, "layer_idx"):
        twin.layer_idx = index
    for name, child in block.named_children():
        if hasattr(child, "layer_idx"):
            copied = shallow_copy(child)
            copied.layer_idx = index
            setattr(twin, name, copied)
    return twin

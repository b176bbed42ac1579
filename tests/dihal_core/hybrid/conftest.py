"""Tiny hybrids of several families: real classes, random weights, a bridge none of whose weights is zero."""

import copy
import functools

import pytest
import torch

from dihal_core.backbones.backbone import Backbone
from dihal_core.backbones.loading import fresh_backbone
from dihal_core.backbones.registry import family_of
from dihal_core.backbones.splice import take_prefix
from dihal_core.bridges.causality import random_arm
from dihal_core.bridges.frame import Arm, Frame
from dihal_core.config import BackboneSettings, MlpBridgeSettings, UnetBridgeSettings
from dihal_core.hybrid.assemble import Tokens, assemble
from dihal_core.hybrid.causal_lm import DiHALForCausalLM

WIDTH, VOCABULARY, SEPARATOR, PAD = 32, 97, 3, 5
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 64}
FAMILIES = {
    "llama": HEADS,
    "gemma3_text": {**HEADS, "sliding_window": 5, "head_dim": 8, "final_logit_softcapping": 20.0},
    "gpt2": {"n_head": 4, "n_positions": 64},
}
BRIDGE = {
    "mlp": MlpBridgeSettings(width=16, blocks=1, context_width=16, context_blocks=2, context_heads=2),
    "unet": UnetBridgeSettings(
        width=16, context_width=16, context_heads=2, latent_channels=2, latent_side=2, block_channels=(8,),
        layers_per_block=1, attention_heads=2, norm_groups=4, cross_attention_width=8, context_tokens=3,
    ),
}  # fmt: skip
"""Small settings by kind; a new bridge adds a line."""


def settings(model_type: str, dtype: str = "float32") -> BackboneSettings:
    return BackboneSettings(
        name=f"tiny {model_type}", source="random", identifier=f"hybrid-{model_type}", model_type=model_type,
        num_layers=7, hidden_size=WIDTH, vocab_size=VOCABULARY, num_parameters=1, dtype=dtype,
        config_overrides={"initializer_range": 0.3, **FAMILIES[model_type]},
    )  # fmt: skip


@functools.cache
def made(model_type: str, dtype: str) -> Backbone:
    return fresh_backbone(settings(model_type, dtype), {}, seed=3)


def own_backbone(model_type: str, dtype: str = "float32") -> Backbone:
    backbone = made(model_type, dtype)
    return Backbone(copy.deepcopy(backbone.model), family_of(model_type), backbone.name)


class TruePrefix(Arm):
    """The replaced blocks themselves as an arm: the hybrid must then be the teacher."""

    kind = "true prefix"

    def __init__(self, backbone: Backbone, layer: int):
        super().__init__(Frame(backbone.hidden_size, 1))
        family = family_of(backbone.model.config.model_type)
        self.part = take_prefix(backbone.model.base_model, family.layers, family.norm, layer)
        if family.adapt_suffix is not None:
            family.adapt_suffix(self.part)

    @torch.no_grad()
    def predict(self, embeddings_BTD, steps=1, sequence_B=None, seed=0):
        return self.part(inputs_embeds=embeddings_BTD, use_cache=False).last_hidden_state.float()


def build(
    model_type: str, arm: str = "bridge", layer: int = 2, dtype: str = "float32", kind: str = "mlp", bridge=None
) -> DiHALForCausalLM:
    backbone, bridge = own_backbone(model_type, dtype), bridge or BRIDGE[kind]
    made_arm = TruePrefix(backbone, layer) if arm == "true" else random_arm(bridge, WIDTH, seed=1, name=arm)
    if arm != "true" and isinstance(layer, int) and 0 < layer < 7:
        made_arm.frame.sink_D.copy_(backbone.prefix(torch.tensor([[SEPARATOR]]), layer)[0, 0].float())
    tokens = Tokens(SEPARATOR, PAD, (SEPARATOR,))
    return assemble(backbone, made_arm, layer, settings(model_type, dtype), bridge, tokens, seed=3)


@pytest.fixture
def make_hybrid():
    """Return `build(model_type, arm, layer, dtype, kind, bridge)`."""
    return build


@pytest.fixture(params=sorted(FAMILIES))
def family(request) -> str:
    """Name of a family."""
    return request.param


def prompt(lengths: tuple[int, ...] = (11, 11), seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(6, VOCABULARY, (length,), generator=generator) for length in lengths]
    for row in rows:
        row[0] = SEPARATOR
    return rows


def padded(rows: list[torch.Tensor], side: str = "left") -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(row) for row in rows)
    tokens_BT = torch.full((len(rows), width), PAD)
    mask_BT = torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        where = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        tokens_BT[index, where], mask_BT[index, where] = row, 1
    return tokens_BT, mask_BT


@pytest.fixture
def small_unet():
    """Settings of a small UNet bridge."""
    return BRIDGE["unet"]


@pytest.fixture
def prompts():
    """Return `prompt(lengths, seed)`: rows that start with the separator."""
    return prompt


@pytest.fixture
def pad_rows():
    """Return `padded(rows, side)`: (tokens_BT, mask_BT)."""
    return padded

"""Spread models: accelerate's hooks do not break the splice, and nothing is offloaded silently."""

import copy

import pytest
import torch
from accelerate import dispatch_model

from dihal_core.backbones.backbone import Backbone
from dihal_core.backbones.loading import forget_backbones, load_backbone
from dihal_core.backbones.placement import place
from dihal_core.backbones.registry import family_of
from dihal_core.config import BackboneSettings
from dihal_core.errors import ConfigError, ResourceError

LAYERS = 4
TOKENS_BT = torch.arange(24).reshape(2, 12)


def settings(**more) -> BackboneSettings:
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 24, "initializer_range": 0.3}
    facts = {
        "name": "tiny", "source": "random", "identifier": "placed", "model_type": "llama", "num_layers": LAYERS,
        "hidden_size": 16, "vocab_size": 40, "num_parameters": 1, "dtype": "float32", "config_overrides": heads,
    }  # fmt: skip
    return BackboneSettings(**{**facts, **more})


def plain() -> Backbone:
    forget_backbones()
    return load_backbone(settings(), {}, seed=5)


def by_block(base: str = "model") -> dict[str, str]:
    parts = ["embed_tokens", "rotary_emb", "norm", *(f"layers.{index}" for index in range(LAYERS))]
    return {"lm_head": "cpu", **{f"{base}.{part}": "cpu" for part in parts}}


@pytest.mark.parametrize("device_map", [by_block(), {"model": "cpu", "lm_head": "cpu"}])
def test_with_accelerate_hooks_on_every_part_prefix_visit_and_suffix_are_exact(device_map):
    whole = plain()
    hooked = dispatch_model(copy.deepcopy(whole.model), device_map=device_map, force_hooks=True)
    assert any(hasattr(module, "_hf_hook") for module in hooked.modules())
    spread = Backbone(hooked, family_of("llama"), "spread")
    assert torch.equal(spread.final(TOKENS_BT), whole.final(TOKENS_BT))
    states = spread.collect(TOKENS_BT, range(LAYERS + 1))
    for layer in range(LAYERS + 1):
        assert torch.equal(spread.prefix(TOKENS_BT, layer), whole.prefix(TOKENS_BT, layer)), layer
        assert torch.equal(states[layer], whole.prefix(TOKENS_BT, layer)), layer
    for layer in range(LAYERS):
        through = spread.logits(spread.suffix(layer)(spread.prefix(TOKENS_BT, layer)))
        assert torch.equal(through, whole.logits(whole.final(TOKENS_BT))), layer


def test_a_prefix_of_a_hooked_model_runs_no_later_block():
    hooked = dispatch_model(copy.deepcopy(plain().model), device_map=by_block(), force_hooks=True)
    ran: list[int] = []
    for index, block in enumerate(hooked.model.layers, start=1):
        block.mlp.register_forward_hook(lambda *_args, index=index: ran.append(index))
    spread = Backbone(hooked, family_of("llama"), "spread")
    spread.collect(TOKENS_BT, [0, 2])
    assert ran == [1, 2]


@pytest.mark.parametrize("device_map", [{"": "cpu"}, "auto", "balanced", "sequential"])
def test_a_device_map_on_a_machine_without_gpus_gives_the_same_states(device_map):
    if torch.cuda.is_available():
        pytest.skip("auto would use the GPU, whose float32 sums differ")
    expected = plain().prefix(TOKENS_BT, 3)
    forget_backbones()
    placed = load_backbone(settings(device_map=device_map), {}, seed=5)
    assert torch.equal(placed.prefix(TOKENS_BT, 3), expected)
    assert placed.device.type == "cpu"


def test_offloading_is_refused_with_the_first_part_that_does_not_fit():
    model = plain().model
    for device_map in ({"model": 0, "lm_head": "disk"}, {"model": "cpu", "lm_head": 0}):
        with pytest.raises(ResourceError, match=r"leaves 1 parts such as (lm_head|model) off the GPUs"):
            place(model, "cpu", device_map)


def test_a_map_that_names_no_device_for_a_part_is_a_setting_error():
    with pytest.raises(ConfigError, match="device_map"):
        place(copy.deepcopy(plain().model), "cpu", {"model.layers.0": "cpu"})

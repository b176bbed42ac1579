"""Every registered family keeps the splice contract, exactly, on a tiny random model of its real class."""

import copy

import pytest
import torch

from dihal_core.backbones.backbone import Backbone
from dihal_core.backbones.loading import load_backbone
from dihal_core.backbones.registry import FAMILIES, family_of
from dihal_core.config import BackboneSettings
from dihal_core.errors import ConfigError

LAYERS, WIDTH, VOCABULARY, WINDOW = 7, 32, 97, 5
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 64}
SLIDING = {"sliding_window": WINDOW, "head_dim": 8}
OVERRIDES = {
    "mistral": {**HEADS, "sliding_window": WINDOW},
    "qwen2": {**HEADS, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 3},
    "qwen3": {**HEADS, "use_sliding_window": True, "max_window_layers": 3, **SLIDING},
    "gemma2": {**HEADS, **SLIDING},
    "gemma3_text": {**HEADS, **SLIDING, "final_logit_softcapping": 20.0},
    "gpt2": {"n_head": 4, "n_positions": 64},
    "gpt_neox": {"num_attention_heads": 4, "intermediate_size": 48},
    "phi": {"num_attention_heads": 4, "intermediate_size": 48},
    "phi3": {**HEADS, "pad_token_id": 0},
    "qwen3_moe": {
        **HEADS,
        "head_dim": 8,
        "moe_intermediate_size": 24,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 2,
    },
    "mixtral": {**HEADS, "num_local_experts": 4, "num_experts_per_tok": 2},
}
"""Shapes of the tiny model; a family that is not named here takes `HEADS`."""


def tiny(model_type: str, dtype: str = "float32", seed: int = 3) -> Backbone:
    settings = BackboneSettings(
        name=f"tiny {model_type}",
        source="random",
        identifier=f"tiny-{model_type}",
        model_type=model_type,
        num_layers=LAYERS,
        hidden_size=WIDTH,
        vocab_size=VOCABULARY,
        num_parameters=1,
        dtype=dtype,
        config_overrides=OVERRIDES.get(model_type, HEADS),
    )
    model = copy.deepcopy(load_backbone(settings, {}, seed=seed).model)
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():  # the stock init is so small that blocks would hardly matter
        parameter.add_(torch.randn(parameter.shape, generator=generator).mul_(0.15).to(parameter.dtype))
    return Backbone(model, family_of(model_type), settings.name)


def windows(positions: int = 3 * WINDOW) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (2, positions), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_prefix_then_suffix_then_logits_equals_the_whole_model_exactly_at_every_layer(model_type, dtype):
    backbone, tokens_BT = tiny(model_type, dtype), windows()
    with torch.no_grad():
        whole_BTV = backbone.model(tokens_BT).logits
        assert whole_BTV.float().std() > 0.01
        for layer in range(LAYERS):
            spliced_BTV = backbone.logits(backbone.suffix(layer)(backbone.prefix(tokens_BT, layer)))
            assert (spliced_BTV - whole_BTV).abs().max().item() == 0.0, f"layer {layer}"


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_collected_states_equal_forward_hooks_and_the_last_one_is_before_the_final_norm(model_type):
    backbone, tokens_BT = tiny(model_type), windows()
    base, family = backbone.model.base_model, family_of(model_type)
    seen = {}
    handles = [
        block.register_forward_hook(
            lambda _m, _a, out, layer=layer: seen.__setitem__(layer, out[0] if isinstance(out, tuple) else out)
        )
        for layer, block in enumerate(getattr(base, family.layers), start=1)
    ]
    with torch.no_grad():
        final_BTD = base(tokens_BT).last_hidden_state
        stock = backbone.model(tokens_BT, output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    states = backbone.collect(tokens_BT, range(LAYERS + 1))
    assert torch.equal(states[0], stock[0])
    for layer in range(1, LAYERS + 1):
        assert torch.equal(states[layer], seen[layer])
        assert torch.equal(states[layer], backbone.prefix(tokens_BT, layer))  # no later block wrote into it
    norm = getattr(base, family.norm)
    assert torch.equal(norm(states[LAYERS]), final_BTD)
    assert not torch.equal(states[LAYERS], final_BTD)
    assert torch.equal(backbone.final(tokens_BT), final_BTD)


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_each_family_is_causal_and_its_blocks_matter(model_type):
    backbone, tokens_BT = tiny(model_type), windows()
    changed_BT = tokens_BT.clone()
    changed_BT[:, 9:] = (changed_BT[:, 9:] + 1) % VOCABULARY
    before_BTD, after_BTD = backbone.final(tokens_BT), backbone.final(changed_BT)
    if "num_experts_per_tok" in OVERRIDES.get(model_type, {}):
        # An expert multiplies the tokens routed to it at once: their number, so also the last bits, depends on later ones.
        torch.testing.assert_close(before_BTD[:, :9], after_BTD[:, :9], rtol=0, atol=1e-5)
    else:
        assert torch.equal(before_BTD[:, :9], after_BTD[:, :9])
    assert not torch.equal(before_BTD[:, 9:], after_BTD[:, 9:])
    assert not torch.equal(backbone.prefix(tokens_BT, 2), backbone.prefix(tokens_BT, 3))


def test_the_sliding_window_models_do_mix_kinds_of_layers():
    kinds = tiny("gemma3_text").model.config.layer_types
    assert set(kinds) == {"sliding_attention", "full_attention"}
    assert kinds[1:] != kinds[:-1]


def test_an_unknown_family_is_named_with_the_nearest_and_all_known_ones():
    with pytest.raises(ConfigError, match=r"'lama' is not known \(did you mean 'llama'\?\).*gemma3_text, gpt2"):
        family_of("lama")

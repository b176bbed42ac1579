"""Shallow copies share weights, leave the original alone, and keep their own cache slots and hooks."""

import threading

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from dihal_core.backbones.backbone import Backbone
from dihal_core.backbones.registry import family_of
from dihal_core.backbones.splice import take_prefix, take_suffix
from dihal_core.errors import GateError


def gemma(layers: int = 7) -> Backbone:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gemma3_text", hidden_size=32, num_hidden_layers=layers, vocab_size=61, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, intermediate_size=48, sliding_window=5,
    )  # fmt: skip
    return Backbone(AutoModelForCausalLM.from_config(config, dtype=torch.float32), family_of("gemma3_text"), "gemma")


def tokens(rows: int = 2, length: int = 14) -> torch.Tensor:
    return torch.randint(0, 61, (rows, length), generator=torch.Generator().manual_seed(2))


def test_a_suffix_shares_every_parameter_and_leaves_the_model_unchanged():
    backbone = gemma()
    base = backbone.model.base_model
    before = (list(base.layers), base.config.num_hidden_layers, list(base.config.layer_types), backbone.final(tokens()))
    suffix = take_suffix(base, "layers", 2)
    take_prefix(base, "layers", "norm", 3)
    assert {id(p) for p in suffix.parameters()} <= {id(p) for p in base.parameters()}
    assert len(suffix.layers) == 5
    assert suffix.config.num_hidden_layers == 5
    assert (list(base.layers), base.config.num_hidden_layers, list(base.config.layer_types)) == before[:3]
    assert [layer.self_attn.layer_idx for layer in base.layers] == list(range(7))
    assert torch.equal(backbone.final(tokens()), before[3])


@torch.no_grad()
def test_a_suffix_with_its_own_cache_token_by_token_agrees_with_one_pass():
    backbone = gemma()
    hidden_BTD = backbone.prefix(tokens(), 2)
    suffix = take_suffix(backbone.model.base_model, "layers", 2)
    whole_BTD = suffix(inputs_embeds=hidden_BTD, use_cache=False).last_hidden_state
    cache = DynamicCache(config=suffix.config)
    steps = [
        suffix(inputs_embeds=hidden_BTD[:, t : t + 1], past_key_values=cache, use_cache=True).last_hidden_state
        for t in range(hidden_BTD.shape[1])
    ]
    assert len(cache.layers) == 5
    assert torch.allclose(torch.cat(steps, dim=1), whole_BTD, atol=1e-5)


def test_layers_cut_without_their_kinds_would_be_wrong():
    backbone = gemma()
    hidden_BTD = backbone.prefix(tokens(), 1)
    right = take_suffix(backbone.model.base_model, "layers", 1)
    wrong = take_suffix(backbone.model.base_model, "layers", 1)
    wrong.config.layer_types = backbone.model.config.layer_types[:6]
    with torch.no_grad():
        right_BTD = right(inputs_embeds=hidden_BTD, use_cache=False).last_hidden_state
        wrong_BTD = wrong(inputs_embeds=hidden_BTD, use_cache=False).last_hidden_state
    assert (right_BTD - wrong_BTD).abs().max() > 1e-4


def test_gradients_flow_through_a_suffix_to_the_state_and_to_no_weight():
    backbone = gemma()
    hidden_BTD = backbone.prefix(tokens(), 3).requires_grad_()
    backbone.logits(backbone.suffix(3)(hidden_BTD)).logsumexp(-1).sum().backward()
    assert hidden_BTD.grad is not None
    assert hidden_BTD.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in backbone.model.parameters())


def test_threads_that_share_a_backbone_collect_their_own_states():
    backbone = gemma()
    batches = [tokens(rows=1 + i % 2, length=6 + i) for i in range(8)]
    expected = [backbone.collect(batch, [0, 3, 7]) for batch in batches]
    found: list[dict] = [{} for _ in batches]

    def work(index: int) -> None:
        for _ in range(3):
            found[index] = backbone.collect(batches[index], [0, 3, 7])

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(batches))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for mine, right in zip(found, expected, strict=True):
        for layer in (0, 3, 7):
            assert torch.allclose(mine[layer], right[layer], atol=1e-6)


def test_a_prefix_runs_no_block_after_its_layer():
    backbone = gemma()
    ran = []
    for index, block in enumerate(backbone.model.base_model.layers, start=1):
        block.mlp.register_forward_hook(lambda *_args, index=index: ran.append(index))
    backbone.prefix(tokens(), 3)
    backbone.collect(tokens(), [0, 1])
    assert ran == [1, 2, 3, 1]


def test_a_model_whose_forward_something_else_replaced_is_refused():
    backbone = gemma()
    block = backbone.model.base_model.layers[1]
    block.forward = lambda *arguments, **named: type(block).forward(block, *arguments, **named)
    with pytest.raises(GateError, match="the forward of Gemma3DecoderLayer was replaced"):
        backbone.collect(tokens(), [0, 2])

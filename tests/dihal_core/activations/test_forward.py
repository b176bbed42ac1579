"""One pass, every family: what is kept equals stock forward hooks, later blocks do not run, bits repeat."""

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from dihal_core.activations.forward import batch_states
from dihal_core.activations.names import GROUP, pool_array, whole_array
from dihal_core.activations.reader import load_whole
from dihal_core.activations.run import dump_states
from dihal_core.activations.tensors import to_bits
from dihal_core.activations.verify import verify
from dihal_core.backbones.registry import FAMILIES, family_of
from dihal_core.progress import silent
from dihal_core.store import StageStore

_spec = importlib.util.spec_from_file_location("dump_script", Path(__file__).with_name("dump_script.py"))
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)

_families = importlib.util.spec_from_file_location(
    "families", Path(__file__).parents[1] / "backbones" / "test_registry.py"
)
families = importlib.util.module_from_spec(_families)
_families.loader.exec_module(families)


def plan_for(model_type: str, top: int = families.LAYERS):
    plan = script.tiny_plan(20, whole=20, short=False)
    layers = tuple(range(top + 1))
    return dataclasses.replace(plan, table_layers=layers, whole_layers=layers, hidden_size=families.WIDTH)


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_a_dump_of_each_family_holds_what_stock_hooks_see(model_type, tmp_path):
    backbone, plan = families.tiny(model_type, "bfloat16"), plan_for(model_type)
    store = StageStore(tmp_path, "activations", "k")
    dump_states(backbone, plan, store, {"name": model_type}, silent)
    assert verify(backbone, plan, store.path / GROUP, seed=1)["verified_whole_sequences"] > 0
    record = store.finalize({}, {}, None)
    seen: dict[int, torch.Tensor] = {}
    for layer, block in enumerate(getattr(backbone.model.base_model, family_of(model_type).layers), start=1):
        block.register_forward_hook(
            lambda _m, _a, out, layer=layer: seen.__setitem__(layer, out[0] if isinstance(out, tuple) else out)
        )
    with torch.no_grad():
        backbone.model.base_model(torch.from_numpy(plan.batch(4)))
    for layer in (1, 4, families.LAYERS):
        assert np.array_equal(load_whole(record, layer)[4:8], to_bits(seen[layer]))


@pytest.mark.parametrize("model_type", ["llama", "qwen3_moe", "mixtral"])
def test_the_same_batch_gives_the_same_bits_every_time(model_type):
    backbone, plan = families.tiny(model_type, "bfloat16"), plan_for(model_type)
    first = batch_states(backbone, plan, 8)
    for _ in range(3):
        batch_states(backbone, plan, 0)
        again = batch_states(backbone, plan, 8)
        assert all(np.array_equal(again[name], bits) for name, bits in first.items())


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "qwen3_moe"])
def test_no_block_after_the_last_layer_of_the_plan_runs_and_no_logits_are_made(model_type):
    backbone, plan, ran = families.tiny(model_type), plan_for(model_type, top=3), []
    for layer, block in enumerate(getattr(backbone.model.base_model, family_of(model_type).layers), start=1):
        part = next(child for name, child in block.named_children() if "norm" in name or "ln" in name)
        part.register_forward_hook(lambda *_args, layer=layer: ran.append(layer))
    backbone.model.get_output_embeddings().register_forward_hook(lambda *_args: ran.append("head"))
    found = batch_states(backbone, plan, 0)
    assert ran == [1, 2, 3]
    assert found.keys() == {pool_array(layer) for layer in range(4)} | {whole_array(layer) for layer in range(4)}

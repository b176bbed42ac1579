"""One digest per set of weights: it follows every bit and no file format."""

import copy

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from dihal_core.backbones.digest import weights_digest


def model():
    config = AutoConfig.for_model(
        "llama", hidden_size=16, num_hidden_layers=2, vocab_size=31, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=24, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def test_the_digest_survives_a_copy_and_saving(tmp_path):
    first = model()
    first.save_pretrained(tmp_path)
    assert weights_digest(first) == weights_digest(copy.deepcopy(first))
    assert weights_digest(first) == weights_digest(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32))


def test_one_changed_bit_another_dtype_and_another_name_change_it():
    reference = weights_digest(model())
    changed = model()
    with torch.no_grad():
        weight = changed.model.layers[1].mlp.up_proj.weight
        weight.view(torch.int32)[3, 4] ^= 1
    renamed = model()
    renamed.model.layers[0].mlp.extra = renamed.model.layers[0].mlp.down_proj
    del renamed.model.layers[0].mlp.down_proj
    assert len({reference, weights_digest(changed), weights_digest(renamed), weights_digest(model().bfloat16())}) == 4

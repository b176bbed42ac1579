import pytest
import torch

from dihal_core.backbones.loading import load_backbone
from dihal_core.evaluation.flops import counted_flops
from dihal_core.profiles import load_study


def test_a_product_counts_two_per_multiplication_in_any_dtype_and_shape():
    for dtype in (torch.float32, torch.bfloat16):
        layer = torch.nn.Linear(24, 40, bias=False, dtype=dtype)
        assert (
            counted_flops(lambda layer=layer, dtype=dtype: layer(torch.randn(3, 5, 24, dtype=dtype)))
            == 2 * 15 * 24 * 40
        )


def test_prefix_and_suffix_add_up_to_the_whole_model():
    settings = load_study("smoke").backbone
    backbone = load_backbone(settings, {}, "cpu", seed=0)
    tokens_BT = torch.randint(0, 250, (1, 12))
    hidden_BTD = backbone.prefix(tokens_BT, 2)
    parts = counted_flops(lambda: backbone.prefix(tokens_BT, 2)) + counted_flops(lambda: backbone.suffix(2)(hidden_BTD))
    whole = counted_flops(lambda: backbone.final(tokens_BT))
    assert parts == pytest.approx(whole, rel=0.01)
    matrices = sum(p.numel() for name, p in backbone.model.named_parameters() if p.ndim == 2 and "layers" in name)
    assert whole > 2 * 12 * matrices  # attention on top
    assert whole < 2.2 * 12 * matrices

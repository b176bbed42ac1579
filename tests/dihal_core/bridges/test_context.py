import pytest
import torch
import torch.nn.functional as F

from dihal_core.bridges.context import (
    PLAIN_ATTENTION_POSITIONS,
    CausalTransformer,
    causal_attention,
    rotary_table,
    rotate,
)


@pytest.mark.parametrize("positions", [1, 7, PLAIN_ATTENTION_POSITIONS, PLAIN_ATTENTION_POSITIONS + 3])
def test_short_and_long_windows_use_the_same_attention(positions):
    query, key, value = torch.randn(3, 2, 2, positions, 8, generator=torch.Generator().manual_seed(0))
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    assert torch.allclose(causal_attention(query, key, value), expected, atol=1e-5)


def test_scores_of_rotated_heads_depend_on_the_distance_only():
    query, key = torch.randn(2, 1, 1, 1, 16).expand(2, 1, 1, 30, 16)
    table = rotary_table(30, 16, query)
    scores = (rotate(query, table) @ rotate(key, table).transpose(-2, -1))[0, 0]
    for distance in (0, 1, 7):
        diagonal = scores.diagonal(-distance)
        assert torch.allclose(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4)


def test_position_is_seen():
    """Equal tokens at different positions get different states only through what precedes them."""
    torch.manual_seed(0)
    transformer = CausalTransformer(6, 16, blocks=1, heads=2)
    x = torch.randn(1, 1, 6).expand(1, 5, 6).clone()
    x[0, 1] = torch.randn(6)
    out = transformer(x)[0]
    assert not torch.allclose(out[0], out[2], atol=1e-4)
    assert not torch.allclose(out[2], out[4], atol=1e-4)

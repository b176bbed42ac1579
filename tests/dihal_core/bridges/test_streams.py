"""A stream gives, token by token, what `predict` gives at once: for every arm, in its incremental form and recomputed."""

import pytest
import torch

from dihal_core.bridges.causality import random_arm
from dihal_core.bridges.memory import Slots
from dihal_core.bridges.registry import BRIDGES
from dihal_core.bridges.streams import RecomputeStream, TokenwiseStream, UnetStream, open_stream
from dihal_core.config import MlpBridgeSettings, UnetBridgeSettings

D = 24
SETTINGS = {
    "mlp": MlpBridgeSettings(width=32, blocks=2, context_width=32, context_blocks=2, context_heads=4),
    "unet": UnetBridgeSettings(
        width=16, context_width=16, context_heads=2, latent_channels=2, latent_side=2, block_channels=(8,),
        layers_per_block=1, attention_heads=2, norm_groups=4, cross_attention_width=8, context_tokens=3,
    ),
}  # fmt: skip
ARMS = [*((kind, "bridge") for kind in BRIDGES), *(("mlp", name) for name in ("regressor", "ridge", "table", "skip"))]
every_arm = pytest.mark.parametrize(("kind", "name"), ARMS, ids=lambda value: value)


def embeddings_of(B=3, T=17):
    return torch.randn(B, T, D, generator=torch.Generator().manual_seed(4))


def whole(arm, embeddings_BTD, steps):
    return arm.predict(embeddings_BTD, steps, torch.zeros(len(embeddings_BTD)), seed=9)


@every_arm
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("cuts", [(1,) * 17, (10, 1, 1, 5), (17,), (2, 15)])
def test_pieces_give_what_the_whole_gives(kind, name, steps, recompute, cuts):
    arm = random_arm(SETTINGS[kind], D, seed=0, name=name)
    stream = RecomputeStream(arm, steps, 9) if recompute else open_stream(arm, steps, 9)
    pieces = embeddings_of().split(cuts, dim=1)
    together = torch.cat([stream.extend(piece) for piece in pieces], dim=1)
    assert torch.allclose(together, whole(arm, embeddings_of(), steps), atol=2e-4)


@every_arm
@pytest.mark.parametrize("steps", [1, 3])
def test_rows_of_different_lengths_do_not_see_each_other(kind, name, steps):
    arm = random_arm(SETTINGS[kind], D, seed=0, name=name)
    stream, given, count_B = open_stream(arm, steps, 9), embeddings_of(), torch.tensor([9, 1, 4])
    first = stream.extend(given[:, :9], count_B)
    second = stream.extend(given[:, 9:12])
    third = stream.extend(given[:, 12:13])
    for row, count in enumerate(count_B.tolist()):
        alone = torch.cat([given[row, :count], given[row, 9:13]])[None]
        expected = whole(arm, alone, steps)[0]
        found = torch.cat([first[row, :count], second[row], third[row]])
        assert torch.allclose(found, expected, atol=2e-4)


@every_arm
def test_selected_rows_go_on_where_they_were(kind, name):
    arm = random_arm(SETTINGS[kind], D, seed=0, name=name)
    given, index = embeddings_of(), torch.tensor([2, 0, 2, 1])
    stream = open_stream(arm, 2, 9)
    stream.extend(given[:, :9], torch.tensor([9, 6, 7]))
    stream.select(index)
    found = stream.extend(given[index, 9:11])
    for row, source in enumerate(index.tolist()):
        alone = torch.cat([given[source, : [9, 6, 7][source]], given[source, 9:11]])[None]
        assert torch.allclose(found[row], whole(arm, alone, 2)[0, -2:], atol=2e-4)


@every_arm
@pytest.mark.parametrize("steps", [1, 3])
def test_rows_of_one_length_go_on_step_by_step_after_beams_moved_them(kind, name, steps):
    arm = random_arm(SETTINGS[kind], D, seed=0, name=name)
    given, index = embeddings_of(), torch.tensor([2, 0, 2, 1])
    stream = open_stream(arm, steps, 9)
    stream.extend(given[:, :5])
    stream.extend(given[:, 5:6])
    stream.select(index)
    assert stream.rows == 4
    assert stream.length_B is not None
    assert stream.length_B.tolist() == [6, 6, 6, 6]
    found = torch.cat([stream.extend(given[index, place : place + 1]) for place in (6, 7, 8)], dim=1)
    assert torch.allclose(found, whole(arm, given[index, :9], steps)[:, 6:], atol=2e-4)


@every_arm
def test_a_stream_that_was_reset_starts_anew(kind, name):
    arm = random_arm(SETTINGS[kind], D, seed=0, name=name)
    stream = open_stream(arm)
    first = stream.extend(embeddings_of())
    stream.reset()
    assert stream.length_B is None
    assert torch.equal(stream.extend(embeddings_of()), first)


def test_a_ridge_of_one_token_needs_no_memory():
    arm = random_arm(SETTINGS["mlp"].model_copy(update={"ridge_tokens": 1}), D, seed=0)
    stream = open_stream(arm)
    together = torch.cat([stream.extend(piece) for piece in embeddings_of().split(6, dim=1)], dim=1)
    assert torch.allclose(together, whole(arm, embeddings_of(), 1), atol=2e-4)


def test_the_mlp_bridge_and_the_regressor_are_incremental():
    for name in ("bridge", "regressor"):
        assert isinstance(open_stream(random_arm(SETTINGS["mlp"], D, seed=0, name=name)), TokenwiseStream)


@pytest.mark.parametrize("window", [1, 3, 40])
@pytest.mark.parametrize("start", ["noise", "ridge"])
def test_the_unet_bridge_is_incremental_for_every_window_and_start(start, window):
    """Windows of one state, shorter than the prefix and longer; equal to the whole up to 2e-5 of the states' scale."""
    settings = SETTINGS["unet"].model_copy(update={"context_tokens": window, "start": start, "chunk_states": 4})
    arm = random_arm(settings, D, seed=0)
    stream = open_stream(arm, 3, 9)
    assert isinstance(stream, UnetStream)
    together = torch.cat([stream.extend(piece) for piece in embeddings_of().split((6, 1, 1, 1, 8), dim=1)], dim=1)
    expected = whole(arm, embeddings_of(), 3)
    assert float((together - expected).abs().max()) <= 2e-5 * float(expected.abs().max())


def test_a_new_token_costs_the_unet_one_state():
    """Counted at the UNet's own entrance, for a batch whose rows have different lengths."""
    arm = random_arm(SETTINGS["unet"], D, seed=0)
    stream, sizes = open_stream(arm, 2, 9), []
    arm.unet.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    stream.extend(embeddings_of()[:, :9], torch.tensor([9, 1, 4]))
    stream.extend(embeddings_of()[:, 9:10])
    assert sizes == [27, 27, 3, 3]


def test_slots_keep_what_was_written_while_they_grow():
    slots, written = Slots(), []
    for position in range(20):
        values = torch.full((2, 1, 3), float(position))
        written.append(values)
        held = slots.write(torch.full((2, 1), position), values, position + 1)
        assert torch.equal(held, torch.cat(written, dim=1))
    assert slots.data is not None
    assert slots.data.shape[1] < 40

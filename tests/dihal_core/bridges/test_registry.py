"""Contract of every bridge and of the trained control: one test each, over all of them."""

import typing

import pytest
import torch
from pydantic import ValidationError

from dihal_core.bridges.causality import random_arm
from dihal_core.bridges.frame import Batch, TrainedArm
from dihal_core.bridges.registry import BRIDGES, make_bridge
from dihal_core.config import BridgeSettings, MlpBridgeSettings, UnetBridgeSettings
from dihal_core.errors import ConfigError

D = 24
SETTINGS = {
    "mlp": MlpBridgeSettings(width=32, blocks=2, context_width=32, context_blocks=2, context_heads=4),
    "unet": UnetBridgeSettings(
        width=32, context_width=32, context_blocks=2, context_heads=4, latent_channels=2, latent_side=4,
        block_channels=(8, 16), layers_per_block=1, attention_heads=2, norm_groups=4, cross_attention_width=16,
        context_tokens=4, chunk_states=16,
    ),
}  # fmt: skip
TRAINED = [*((kind, "bridge") for kind in BRIDGES), ("mlp", "regressor")]
trained_arms = pytest.mark.parametrize(("kind", "name"), TRAINED, ids=lambda value: value)


def batch_of(B=3, T=10):
    generator = torch.Generator().manual_seed(1)
    parts = [torch.randn(B, T, D, generator=generator) for _ in range(3)]
    mask = torch.ones(B, T, dtype=torch.bool)
    mask[:, 0] = False
    mask[0, 7:] = False
    return Batch(*parts, mask)


def test_kinds_in_settings_and_registry_are_the_same():
    alternatives = typing.get_args(BridgeSettings)[0]
    union = typing.get_args(alternatives)
    assert {model.model_fields["kind"].default for model in union} == set(BRIDGES) == set(SETTINGS)


@trained_arms
def test_prediction_has_shape_scale_and_the_constant_first_state(kind, name):
    arm = random_arm(SETTINGS[kind], D, seed=0, name=name)
    embeddings = torch.randn(2, 9, D, generator=torch.Generator().manual_seed(0)).bfloat16()
    for steps in (1, 3):
        hidden = arm.predict(embeddings, steps, torch.tensor([5, 6]), seed=7)
        assert hidden.shape == (2, 9, D)
        assert hidden.dtype == torch.float32
        assert torch.isfinite(hidden).all()
        assert torch.equal(hidden[:, 0], arm.frame.sink_D.expand(2, D))


@trained_arms
def test_gradients_reach_every_parameter_and_the_frozen_part_stays(kind, name):
    arm = random_arm(SETTINGS[kind], D, seed=0, name=name).requires_grad_(True)
    assert isinstance(arm, TrainedArm)
    frozen = {key: value.clone() for key, value in arm.frame.state_dict().items()}
    assert not list(arm.frame.parameters())
    optimizer = torch.optim.SGD(arm.parameters(), lr=0.1)
    error, t = arm.row_errors(batch_of(), torch.Generator().manual_seed(0))
    assert error.shape == t.shape == (3, 10)
    error[batch_of().mask_BT].mean().backward()
    for key, parameter in arm.named_parameters():
        assert parameter.grad is not None, key
        assert float(parameter.grad.abs().max()) > 0, key
    optimizer.step()
    for key, value in arm.frame.state_dict().items():
        assert torch.equal(value, frozen[key]), key


@trained_arms
def test_padding_does_not_enter_the_loss(kind, name):
    arm = random_arm(SETTINGS[kind], D, seed=0, name=name)
    one, other = batch_of(), batch_of()
    for tensor in (other.condition_BTD, other.base_BTD, other.target_BTD):
        tensor[0, 7:] = 50.0
    losses = [arm.row_errors(b, torch.Generator().manual_seed(0))[0][b.mask_BT].mean() for b in (one, other)]
    assert torch.equal(*losses)


@trained_arms
def test_a_prefix_alone_gives_what_the_whole_window_gave_for_it(kind, name):
    arm = random_arm(SETTINGS[kind], D, seed=0, name=name)
    embeddings = torch.randn(3, 31, D, generator=torch.Generator().manual_seed(2))
    for steps in (1, 4):
        whole = arm.predict(embeddings, steps, torch.arange(3), seed=1)
        for length in (2, 13, 30):
            part = arm.predict(embeddings[:, :length], steps, torch.arange(3), seed=1)
            assert torch.allclose(part, whole[:, :length], atol=1e-4)


@trained_arms
def test_a_window_is_predicted_alike_alone_and_in_a_batch(kind, name):
    arm = random_arm(SETTINGS[kind], D, seed=0, name=name)
    embeddings = torch.randn(4, 12, D, generator=torch.Generator().manual_seed(2))
    batch = arm.predict(embeddings, 3, torch.tensor([3, 9, 4, 8]), seed=1)
    alone = arm.predict(embeddings[2:3], 3, torch.tensor([4]), seed=1)
    assert torch.allclose(batch[2:3], alone, atol=1e-4)


@pytest.mark.parametrize("kind", BRIDGES)
def test_sampling_is_reproducible_and_its_noise_follows_the_seed(kind):
    arm = random_arm(SETTINGS[kind], D, seed=0)
    embeddings = torch.randn(2, 12, D, generator=torch.Generator().manual_seed(2))
    first = arm.predict(embeddings, 4, seed=1)
    assert torch.equal(first, arm.predict(embeddings, 4, seed=1))
    assert not torch.equal(first, arm.predict(embeddings, 4, seed=2))
    starts_at_ridge = getattr(SETTINGS[kind], "start", "ridge") == "ridge"
    one_step = [arm.predict(embeddings, 1, seed=seed) for seed in (1, 2)]
    assert torch.equal(*one_step) == starts_at_ridge


@pytest.mark.parametrize("kind", BRIDGES)
def test_loss_terms_are_named_and_weighted(kind):
    weights = random_arm(SETTINGS[kind], D, seed=0).objective()
    assert set(weights) == {"diffusion", "reconstruction", "next_token", "distillation"}
    assert weights["diffusion"] + weights["reconstruction"] == pytest.approx(1)
    assert weights["next_token"] == SETTINGS[kind].next_token_weight
    own = {"diffusion_weight": 3.0, "reconstruction_weight": 0.5, "endpoint_probability": 0.2}
    weights = random_arm(SETTINGS[kind].model_copy(update=own), D, seed=0).objective()
    assert (weights["diffusion"], weights["reconstruction"]) == pytest.approx((2.4, 0.1))


def test_a_loss_without_any_weight_is_refused():
    with pytest.raises(ValidationError, match="every term of the loss has weight 0"):
        MlpBridgeSettings(diffusion_weight=0, reconstruction_weight=0)
    with pytest.raises(ValidationError, match="set one of the bridge"):
        UnetBridgeSettings(endpoint_probability=0, diffusion_weight=0)  # reconstruction is never drawn
    assert MlpBridgeSettings(diffusion_weight=0, reconstruction_weight=0, distillation_weight=1)


def test_an_unknown_kind_names_the_nearest():
    odd = SETTINGS["mlp"].model_copy(update={"kind": "mpl"})
    frame = random_arm(SETTINGS["mlp"], D, seed=0).frame
    with pytest.raises(ConfigError, match="unknown bridge 'mpl'.*did you mean 'mlp'"):
        make_bridge(odd, frame)


def test_heads_that_do_not_divide_the_width_are_refused():
    odd = SETTINGS["mlp"].model_copy(update={"context_heads": 5})
    with pytest.raises(ConfigError, match="context_width 32 does not split into 5 heads"):
        make_bridge(odd, random_arm(SETTINGS["mlp"], D, seed=0).frame)

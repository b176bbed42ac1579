import pytest
import torch
from pydantic import ValidationError
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dihal_core.bridges.arms import load_arms, make_arm, own_state, save_arms
from dihal_core.bridges.causality import random_arm
from dihal_core.bridges.frame import Batch, Frame
from dihal_core.bridges.latents import PlainLatents, Projection, latent_shape, load_vae
from dihal_core.bridges.schedules import SAMPLERS
from dihal_core.bridges.sizes import bridge_size
from dihal_core.bridges.unet import make_unet, widen_input
from dihal_core.config import UnetBridgeSettings
from dihal_core.errors import AssetError, ConfigError
from dihal_core.profiles import load_study
from dihal_core.training.budget import forward_flops

D = 24
SMALL = {
    "width": 32, "context_width": 32, "context_blocks": 1, "context_heads": 4, "latent_channels": 2, "latent_side": 4,
    "block_channels": (8, 16), "layers_per_block": 1, "attention_heads": 2, "norm_groups": 4,
    "cross_attention_width": 16, "context_tokens": 4, "chunk_states": 16,
}  # fmt: skip


def batch_of(B=2, T=12):
    generator = torch.Generator().manual_seed(1)
    parts = [torch.randn(B, T, D, generator=generator) for _ in range(3)]
    mask = torch.ones(B, T, dtype=torch.bool)
    mask[:, 0] = False
    return Batch(*parts, mask)


def test_the_papers_width_is_the_latent_of_stable_diffusion():
    assert latent_shape(UnetBridgeSettings(), 4096) == (4, 32)
    assert latent_shape(UnetBridgeSettings(), 576) == (4, 12)
    with pytest.raises(ConfigError, match=r"hidden size 600 is not bridge\.latent_channels 4 x a square"):
        latent_shape(UnetBridgeSettings(), 600)


def test_projections_keep_the_state_where_sizes_agree_and_lengths_where_they_grow():
    x = torch.randn(5, 32)
    assert torch.equal(Projection(32, 32)(x), x)
    assert torch.allclose(Projection(32, 50)(x).norm(dim=1), x.norm(dim=1), rtol=1e-4)
    latents = PlainLatents(32, 2, 4)
    assert torch.equal(latents.encode(x).flatten(1), x)
    assert not latents.decode(latents.encode(x)).any()  # the way back starts at zero


def test_a_fresh_bridge_is_its_ridge_and_draws_its_weights_from_the_seed():
    frame = random_arm(UnetBridgeSettings(**SMALL), D, seed=0).frame
    embeddings = torch.randn(2, 9, D)
    fresh, again, other = (make_arm("bridge", UnetBridgeSettings(**SMALL), frame, seed) for seed in (4, 4, 5))
    ridge = make_arm("ridge", UnetBridgeSettings(**SMALL), frame, seed=4)
    assert torch.allclose(fresh.predict(embeddings), ridge.predict(embeddings), atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), again.parameters(), strict=True))
    assert not torch.equal(fresh.unet.conv_in.weight, other.unet.conv_in.weight)


@pytest.mark.parametrize("prediction", ["sample", "v_prediction", "epsilon"])
def test_the_output_that_is_exactly_right_gives_the_state(prediction):
    arm = random_arm(UnetBridgeSettings(**SMALL, prediction=prediction, base="none"), D, seed=0)
    target, noise, t = torch.randn(7, D), torch.randn(7, D), torch.linspace(0.05, 0.8, 7)
    base = torch.zeros(7, D)
    x = arm.schedule.noised(target, base, t, noise)
    signal, spread = arm.schedule._signal(t)
    right = {"sample": target, "v_prediction": signal * noise - spread * target, "epsilon": noise}[prediction]
    assert torch.allclose(arm.schedule.to_sample(right, x, t, base), target, atol=1e-3)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_arrives_at_a_state_the_network_is_sure_of(sampler):
    arm = random_arm(UnetBridgeSettings(**SMALL, sampler=sampler), D, seed=0)
    sure = torch.randn(6, D)
    for steps in (1, 4):
        found = arm.schedule.sample(lambda x, t: sure, torch.zeros(6, D), lambda draw: torch.randn(6, D), steps)
        assert torch.allclose(found, sure, atol=1e-5)


def test_only_the_drawn_positions_count_and_padding_is_never_drawn():
    batch = batch_of()
    batch.mask_BT[0, 7:] = False
    arm = random_arm(UnetBridgeSettings(**SMALL, positions_per_sequence=3), D, seed=0)
    error, t = arm.row_errors(batch, torch.Generator().manual_seed(0))
    measured = ~t.isnan()
    assert measured.sum(dim=1).tolist() == [3, 3]
    assert not (measured & ~batch.mask_BT).any()
    assert bool((error[measured] > 0).all())
    everything = random_arm(UnetBridgeSettings(**SMALL), D, seed=0)
    assert torch.equal(~everything.row_errors(batch, torch.Generator().manual_seed(0))[1].isnan(), batch.mask_BT)


def test_chunks_change_no_prediction():
    embeddings = torch.randn(2, 9, D, generator=torch.Generator().manual_seed(0))
    one, many = (random_arm(UnetBridgeSettings(**{**SMALL, "chunk_states": size}), D, seed=0) for size in (4, 64))
    assert torch.allclose(one.predict(embeddings, 2), many.predict(embeddings, 2), atol=1e-4)


def test_planned_and_entered_flops_are_those_that_are_spent():
    settings = UnetBridgeSettings(**{**SMALL, "block_channels": (32, 64, 64), "layers_per_block": 2, "latent_side": 8})
    arm = random_arm(settings, D, seed=0)
    planned = bridge_size(settings, D)
    assert planned.parameters == pytest.approx(sum(p.numel() for p in arm.parameters()), rel=0.03)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        arm.unet(torch.randn(3, 4, 8, 8), torch.rand(3), encoder_hidden_states=torch.randn(3, 4, 16))
    outside = 2 * sum(p.numel() for name, p in arm.named_parameters() if p.ndim == 2 and not name.startswith("unet."))
    spent = counter.get_total_flops() / 3 + outside
    assert planned.flops == pytest.approx(spent, rel=0.02)
    assert forward_flops(arm, 12) == pytest.approx(spent + arm.context.attention_flops(12), rel=0.02)


def test_the_papers_bridge_has_the_published_size():
    size = bridge_size(UnetBridgeSettings(), 4096)
    projections = 3 * 4096**2
    assert size.parameters - projections == pytest.approx(859.5e6, rel=0.01)  # SD v1.5's UNet
    assert size.flops == pytest.approx(177e9, rel=0.02)  # counted per 4 x 32 x 32 latent


def test_a_frozen_vae_is_neither_trained_nor_saved_and_its_distortion_is_measured(tmp_path):
    settings = UnetBridgeSettings(**SMALL, vae="random")
    arm = random_arm(settings, D, seed=0).requires_grad_(True)
    vae = arm.latents._frozen[0]
    before = [parameter.clone() for parameter in vae.parameters()]
    error, t = arm.row_errors(batch_of(), torch.Generator().manual_seed(0))
    error[~t.isnan()].mean().backward()
    assert arm.latents.enter.weight.grad.abs().max() > 0  # gradients pass through it
    assert all(parameter.grad is None for parameter in vae.parameters())
    torch.optim.SGD(arm.parameters(), lr=0.1).step()
    assert all(torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))
    assert not [name for name in own_state(arm) if "vae" in name or "_frozen" in name]
    assert arm.latents.distortion(torch.randn(16, D)) > 0
    save_arms(tmp_path, {"bridge": arm}, settings, layer=1)
    embeddings = torch.randn(1, 5, D)
    assert torch.equal(load_arms(tmp_path)["bridge"].predict(embeddings), arm.eval().predict(embeddings))


def test_published_weights_load_from_a_folder_and_make_room_for_the_condition(tmp_path):
    settings = UnetBridgeSettings(**SMALL)
    published = make_unet(settings, channels=1, side=4)  # two inputs, one output: as a plain UNet has them
    published.save_pretrained(tmp_path / "unet", safe_serialization=True)
    loaded = make_unet(settings.model_copy(update={"unet": str(tmp_path), "latent_channels": 1}), channels=1, side=4)
    assert torch.equal(loaded.conv_in.weight, published.conv_in.weight)
    arm = make_arm(
        "bridge",
        settings.model_copy(update={"unet": str(tmp_path), "latent_channels": 1, "latent_side": 4}),
        Frame(D, 3),
        9,
    )
    assert torch.equal(arm.unet.conv_out.weight, published.conv_out.weight)  # kept, not drawn anew
    x, t, context = torch.randn(2, 2, 4, 4), torch.rand(2), torch.randn(2, 4, 16)
    before = published(x, t, encoder_hidden_states=context).sample
    widen_input(published, 5)
    wide = torch.cat([x, torch.randn(2, 3, 4, 4)], dim=1)
    assert torch.allclose(published(wide, t, encoder_hidden_states=context).sample, before, atol=1e-6)


def test_weights_that_do_not_fit_or_are_not_there_are_named(tmp_path):
    settings = UnetBridgeSettings(**SMALL)
    make_unet(settings, channels=2, side=4).save_pretrained(tmp_path / "unet", safe_serialization=True)
    with pytest.raises(ConfigError, match="cross-attention width 16 and 2 channels"):
        make_unet(settings.model_copy(update={"unet": str(tmp_path), "cross_attention_width": 8}), 2, 4)
    with pytest.raises(AssetError, match="unet weights .*nowhere.* could not be loaded"):
        make_unet(settings.model_copy(update={"unet": str(tmp_path / "nowhere")}), 2, 4)
    with pytest.raises(ConfigError, match="latent of side 3 cannot be halved 1 times"):
        make_unet(settings, 2, 3)
    load_vae("random", None, 2).save_pretrained(tmp_path / "vae", safe_serialization=True)
    with pytest.raises(ConfigError, match="has 2 latent channels, bridge.latent_channels is 4"):
        load_vae(str(tmp_path), None, 4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"norm_groups": 3}, "no multiple of norm_groups 3"),
        ({"start": "ridge", "prediction": "epsilon"}, "start=ridge predicts the sample"),
        ({"vae": "random", "latent_side": None}, r"set bridge\.latent_side with bridge\.vae"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong, message):
    with pytest.raises(ValidationError, match=message):
        UnetBridgeSettings(**{**SMALL, **wrong})


def test_a_random_vae_is_refused_outside_the_smoke_profile():
    overrides = {"bridge.kind": "unet", "bridge.vae": "random", "bridge.latent_side": 4}
    assert load_study("smoke", overrides={**overrides, "bridge.block_channels": [64]}).bridge.vae == "random"
    with pytest.raises(ConfigError, match="refused outside the smoke"):
        load_study("quickstart", overrides=overrides)


@pytest.mark.parametrize("kept", [0, 100, 5000])
def test_weights_whose_download_was_cut_off_are_named(tmp_path, kept):
    make_unet(UnetBridgeSettings(**SMALL), 2, 4).save_pretrained(tmp_path / "unet", safe_serialization=True)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(AssetError, match="unet weights .* could not be loaded .*or fetch it beforehand"):
        make_unet(UnetBridgeSettings(**{**SMALL, "unet": str(tmp_path)}), 2, 4)

import json

import pytest
import torch

from dihal_core.bridges.arms import make_arm
from dihal_core.profiles import load_study
from dihal_core.runner import ensure
from dihal_core.training.distortion import measured_distortion

UNET = {
    "bridge.kind": "unet", "bridge.vae": "random", "bridge.latent_channels": 2, "bridge.latent_side": 4,
    "bridge.block_channels": [8, 16], "bridge.layers_per_block": 1, "bridge.attention_heads": 2, "bridge.norm_groups": 4,
    "bridge.cross_attention_width": 16, "bridge.context_tokens": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def with_vae():
    """The smoke study with the paper's kind of bridge and a tiny frozen autoencoder of random weights."""
    return load_study("smoke", overrides=UNET)


def test_only_a_bridge_with_an_autoencoder_has_a_distortion(make_arms, source, windows, with_vae):
    validation = torch.arange(30, 40).numpy()
    for arm in make_arms("bridge", "regressor", "ridge", "skip").values():
        assert measured_distortion(arm, source, validation) == {}
    plain = with_vae.bridge.model_copy(update={"vae": None})
    assert measured_distortion(make_arm("bridge", plain, source.frame, 0), source, validation) == {}


def test_an_autoencoder_that_loses_nothing_has_no_distortion_and_one_that_returns_nothing_loses_all(source, with_vae):
    arm = make_arm("bridge", with_vae.bridge, source.frame, seed=0)
    vae, validation = arm.latents._frozen[0], torch.arange(30, 40).numpy()
    found = measured_distortion(arm, source, validation)["vae"]
    assert found["states"] > 50
    assert found["projection_fvu"] == pytest.approx(0, abs=1e-6)  # 3 x 8 x 8 values hold 32
    assert found["state_fvu"] > 0.01
    assert found["untrained_state_fvu"] == pytest.approx(found["state_fvu"])
    torch.nn.init.normal_(arm.latents.enter.weight)
    moved = measured_distortion(arm, source, validation)["vae"]
    assert moved["untrained_state_fvu"] == pytest.approx(found["state_fvu"])
    assert moved["state_fvu"] != pytest.approx(found["state_fvu"])
    assert moved["projection_fvu"] == pytest.approx(0, abs=1e-6)
    for parameter in (vae.decoder.conv_out.weight, vae.decoder.conv_out.bias):
        torch.nn.init.zeros_(parameter)
    assert measured_distortion(arm, source, validation)["vae"]["state_fvu"] == pytest.approx(1.0)


def test_replace_and_sweep_record_it_for_their_layer(with_vae, request_in, smoke, study, tmp_path):
    from dihal_core.study import request_for

    record = ensure(request_in("replace", with_vae, values={"layer": 2}))
    result = json.loads((record.path / "replace.json").read_bytes())
    assert result["vae"]["state_fvu"] > 0
    _, records = study
    ridge = ensure(request_for("ridge", with_vae, tmp_path / "ridge", records))
    records = {**records, "ridge": ridge, "score": record}
    swept = ensure(request_for("sweep", with_vae, tmp_path / "sweep", records, 1))
    result = json.loads((swept.path / "sweep.json").read_bytes())
    assert set(result["vae"]) == {"states", "state_fvu", "projection_fvu", "untrained_state_fvu", "image_fvu"}
    plain = json.loads((ensure(request_in("replace", smoke, values={"layer": 2})).path / "replace.json").read_bytes())
    assert "vae" not in plain

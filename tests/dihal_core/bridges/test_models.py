"""Saved arms and the models beside them: the UNet needs no source, another VAE is refused, nothing trained is lost."""

import json
import shutil

import pytest
import safetensors.torch
import torch

from dihal_core.bridges.arms import load_arms, make_arm, save_arms
from dihal_core.bridges.causality import random_arm
from dihal_core.bridges.frame import Frame
from dihal_core.bridges.latents import load_vae
from dihal_core.bridges.unet import make_unet
from dihal_core.config import UnetBridgeSettings
from dihal_core.errors import ArtifactError, AssetError

D = 24
SMALL = {
    "width": 32, "context_width": 32, "context_blocks": 1, "context_heads": 4, "latent_channels": 2, "latent_side": 4,
    "block_channels": (8, 16), "layers_per_block": 1, "attention_heads": 2, "norm_groups": 4,
    "cross_attention_width": 16, "context_tokens": 4, "chunk_states": 16,
}  # fmt: skip


@pytest.fixture
def saved(tmp_path):
    """Arms of a bridge whose UNet and VAE came from folders; the UNet is no shape that the settings describe."""
    settings = UnetBridgeSettings(**SMALL)
    wider = settings.model_copy(update={"block_channels": (16,)})
    make_unet(wider, 2, 4).save_pretrained(tmp_path / "sd" / "unet", safe_serialization=True)
    load_vae("random", None, 2).save_pretrained(tmp_path / "sd" / "vae", safe_serialization=True)
    settings = settings.model_copy(update={"unet": str(tmp_path / "sd"), "vae": str(tmp_path / "sd")})
    arm = random_arm(settings, D, seed=0)
    save_arms(tmp_path / "arms", {"bridge": arm}, settings, layer=1)
    return tmp_path, arm


def test_a_saved_arm_says_where_its_models_came_from_and_what_they_were(saved):
    folder, arm = saved
    said = json.loads((folder / "arms" / "arms.json").read_bytes())["structures"]["bridge"]
    assert said == json.loads(json.dumps(arm.structure()))
    assert said["unet"]["source"] == said["vae"]["source"] == str(folder / "sd")
    assert len(said["vae"]["sha256"]) == 64
    assert said["unet"]["config"]["block_out_channels"] == [16]
    assert not [name for part in said.values() for name in part["config"] if name.startswith("_")]


def test_a_saved_arm_needs_no_source_of_its_unet(saved):
    folder, arm = saved
    shutil.rmtree(folder / "sd" / "unet")
    embeddings = torch.randn(1, 5, D)
    assert torch.equal(load_arms(folder / "arms")["bridge"].predict(embeddings), arm.predict(embeddings))


def test_another_vae_is_refused(saved):
    folder, _ = saved
    path = folder / "sd" / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file({name: value * 1.01 for name, value in tensors.items()}, path, {"format": "pt"})
    with pytest.raises(AssetError, match=r"VAE in .*sd has weights with digest \w{12}, the bridge was trained with"):
        load_arms(folder / "arms")


def test_another_scale_of_the_same_vae_is_refused(saved):
    folder, _ = saved
    path = folder / "sd" / "vae" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "scaling_factor": 0.5}))
    with pytest.raises(AssetError, match=r"has scaling_factor = 0\.5, the bridge was trained with 0\.18215"):
        load_arms(folder / "arms")


def test_a_vae_that_is_gone_is_no_damage_of_the_arms(saved):
    folder, _ = saved
    (folder / "sd").rename(folder / "moved")
    with pytest.raises(AssetError, match="vae weights .* could not be loaded"):
        load_arms(folder / "arms")


def test_a_damaged_structure_is_damage_of_the_arms(saved):
    folder, _ = saved
    path = folder / "arms" / "arms.json"
    said = json.loads(path.read_text())
    said["structures"]["bridge"]["unet"]["config"]["down_block_types"] = ["NoSuchBlock"]
    path.write_text(json.dumps(said))
    with pytest.raises(ArtifactError, match="the stored structure of the UNet is unusable"):
        load_arms(folder / "arms")


def test_arms_saved_without_a_structure_still_load(saved):
    folder, arm = saved
    path = folder / "arms" / "arms.json"
    said = json.loads(path.read_text())
    del said["structures"]
    path.write_text(json.dumps(said))
    embeddings = torch.randn(1, 5, D)
    assert torch.equal(load_arms(folder / "arms")["bridge"].predict(embeddings), arm.predict(embeddings))


def test_arms_without_published_models_say_nothing_of_structure(bridge_settings, tmp_path):
    arm = make_arm("bridge", bridge_settings, Frame(D, 3), seed=0)
    assert arm.structure() == {}
    save_arms(tmp_path, {"bridge": arm}, bridge_settings, layer=1)
    assert "structures" not in json.loads((tmp_path / "arms.json").read_bytes())

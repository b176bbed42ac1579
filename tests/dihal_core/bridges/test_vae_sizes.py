import json

import pytest
import torch
from diffusers import AutoencoderKL
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dihal_core.bridges.latents import load_vae
from dihal_core.bridges.vae_sizes import RANDOM_VAE, SD_VAE, image_shape, vae_config, vae_flops

ODD = {
    "block_out_channels": [8, 16, 16],
    "layers_per_block": 2,
    "latent_channels": 2,
    "norm_num_groups": 4,
    "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D", "DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D", "AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
    "mid_block_add_attention": False,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


def made(config):
    levels = len(config["block_out_channels"])
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels}
    with torch.device("meta"):
        return AutoencoderKL(**{**kinds, **config}).eval()


@pytest.mark.parametrize(("config", "side"), [(SD_VAE, 8), (SD_VAE, 32), (ODD, 6)], ids=["sd-8", "sd-32", "odd"])
@torch.no_grad()
def test_the_arithmetic_is_what_torch_counts_in_the_network(config, side):
    vae, spent = made(config), []
    image, latent = image_shape(config, side), (config["latent_channels"], side, side)
    for run, shape in ((vae.encode, image), (vae.decode, latent)):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            run(torch.zeros(1, *shape, device="meta"))
        spent.append(counter.get_total_flops())
    assert vae_flops(config, config["latent_channels"], side) == tuple(spent)


def test_a_plan_reads_the_autoencoder_of_a_folder_and_knows_the_others(tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text(json.dumps(ODD))
    assert vae_config(str(tmp_path)) == vae_config(str(tmp_path / "vae")) == ODD
    assert vae_config("stable-diffusion-v1-5/stable-diffusion-v1-5") is SD_VAE
    loaded = load_vae("random", None, 4)
    assert vae_flops(vae_config("random"), 4, 3) == vae_flops(dict(loaded.config), 4, 3)
    assert vae_config("random") is RANDOM_VAE

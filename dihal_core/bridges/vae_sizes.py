"""FLOPs of a frozen AutoencoderKL by arithmetic on its configuration, for plans and ledgers. Imports no torch.

Convolutions, 1 x 1 maps and the attention of the middle block; norms and activations are left out.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SD_VAE: Mapping[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
}
"""The autoencoder of Stable Diffusion v1.5: what a plan assumes of one that lies on the hub."""
RANDOM_VAE: Mapping[str, Any] = {"block_out_channels": (8, 8)}
"""The tiny random one of the smoke profile."""


def vae_config(source: str) -> Mapping[str, Any]:
    """Return the configuration of the autoencoder that `bridge.vae` names, without the network.

    That of a local folder is read; one that cannot be read is named when its weights are loaded.
    """
    if source == "random":
        return RANDOM_VAE
    for path in (Path(source) / "config.json", Path(source) / "vae" / "config.json"):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(found, dict) and "block_out_channels" in found:
            return found
    return SD_VAE


def image_shape(config: Mapping[str, Any], latent_side: int) -> tuple[int, int, int]:
    """Return (channels, height, width) of the image whose latent has `latent_side`."""
    side = latent_side * 2 ** (len(config["block_out_channels"]) - 1)
    return int(config.get("in_channels", 3)), side, side


def vae_flops(config: Mapping[str, Any], channels: int, latent_side: int) -> tuple[int, int]:
    """Return forward FLOPs of encoding one image and of decoding one latent (`channels`, side, side)."""
    return _encoder(config, channels, latent_side), _decoder(config, channels, latent_side)


def _encoder(config: Mapping[str, Any], channels: int, latent_side: int) -> int:
    levels, layers = config["block_out_channels"], config.get("layers_per_block", 1)
    kinds = config.get("down_block_types", ("",) * len(levels))
    colours, side, _ = image_shape(config, latent_side)
    flops, before = _conv(colours, levels[0], side), levels[0]
    for level, width in enumerate(levels):
        for layer in range(layers):
            flops += _residual(before if layer == 0 else width, width, side)
            flops += _attention(width, side) if kinds[level].startswith("Attn") else 0
        if level < len(levels) - 1:
            side //= 2
            flops += _conv(width, width, side)
        before = width
    moments = channels * (2 if config.get("double_z", True) else 1)
    flops += _middle(config, levels[-1], side) + _conv(levels[-1], moments, side)
    return flops + (_conv(2 * channels, 2 * channels, side, 1) if config.get("use_quant_conv", True) else 0)


def _decoder(config: Mapping[str, Any], channels: int, latent_side: int) -> int:
    levels, layers = config["block_out_channels"][::-1], config.get("layers_per_block", 1)
    kinds = config.get("up_block_types", ("",) * len(levels))
    side, before = latent_side, levels[0]
    flops = _conv(channels, channels, side, 1) if config.get("use_post_quant_conv", True) else 0
    flops += _conv(channels, levels[0], side) + _middle(config, levels[0], side)
    for level, width in enumerate(levels):
        for layer in range(layers + 1):
            flops += _residual(before if layer == 0 else width, width, side)
            flops += _attention(width, side) if kinds[level].startswith("Attn") else 0
        if level < len(levels) - 1:
            side *= 2
            flops += _conv(width, width, side)
        before = width
    return flops + _conv(levels[-1], int(config.get("out_channels", 3)), side)


def _conv(c_in: int, c_out: int, side: int, kernel: int = 3) -> int:
    return 2 * kernel**2 * c_in * c_out * side**2


def _residual(c_in: int, c_out: int, side: int) -> int:
    shortcut = _conv(c_in, c_out, side, 1) if c_in != c_out else 0
    return _conv(c_in, c_out, side) + _conv(c_out, c_out, side) + shortcut


def _attention(width: int, side: int) -> int:
    return 4 * _conv(width, width, side, 1) + 4 * side**4 * width


def _middle(config: Mapping[str, Any], width: int, side: int) -> int:
    attention = _attention(width, side) if config.get("mid_block_add_attention", True) else 0
    return 2 * _residual(width, width, side) + attention

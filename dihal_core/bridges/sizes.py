"""Parameters and FLOPs of bridges by arithmetic on their settings, for plans. Imports no torch.

Biases and norms are left out (below 1 %). FLOPs are those of one token's forward pass.
"""

import dataclasses
import math

from dihal_core.bridges.vae_sizes import image_shape, vae_config, vae_flops
from dihal_core.config import BridgeBase, UnetBridgeSettings


@dataclasses.dataclass
class Size:
    """Trained parameters and forward FLOPs per token, and what of them a denoiser spends at every sampler step."""

    parameters: int = 0
    flops: int = 0
    """Of the trained part, context transformer included."""
    state_flops: int = 0
    """The part of `flops` that is spent once per denoised state and sampler step: all but the context."""
    frozen_flops: int = 0
    """What a frozen autoencoder spends beside it, encoding and decoding, once per denoised state and sampler step."""

    def add(self, parameters: int, uses: int = 1) -> None:
        """Enter a matrix of `parameters` that is applied `uses` times per token."""
        self.parameters += parameters
        self.flops += 2 * parameters * uses


def bridge_size(settings: BridgeBase, hidden_size: int) -> Size:
    """Return the size of the bridge that `settings` describe for a backbone of `hidden_size`."""
    size, width = Size(), settings.context_width
    size.add(hidden_size * width + settings.context_blocks * 13 * width**2)
    if isinstance(settings, UnetBridgeSettings):
        size.add(width * settings.cross_attention_width)
    context = size.flops
    if isinstance(settings, UnetBridgeSettings):
        _add_unet(size, settings, hidden_size)
    else:
        size.add(
            2 * hidden_size * settings.width + settings.blocks * (6 * settings.width**2 + 3 * width * settings.width)
        )
        size.add(hidden_size * settings.width + width * settings.width)
    size.state_flops = size.flops - context
    return size


def _add_unet(size: Size, settings: UnetBridgeSettings, hidden_size: int) -> None:
    channels = settings.latent_channels
    side = settings.latent_side or math.isqrt(max(1, hidden_size // channels))
    flat = channels * side**2
    if settings.vae is not None:
        config = vae_config(settings.vae)
        flat = math.prod(image_shape(config, side))
        size.frozen_flops = sum(vae_flops(config, channels, side))
    size.add(2 * hidden_size * flat)
    size.add(hidden_size * channels * side**2)
    levels, layers = settings.block_channels, settings.layers_per_block
    time = 4 * levels[0]
    size.add(levels[0] * time + time**2)
    size.add(9 * 2 * channels * levels[0], side**2)
    size.add(9 * levels[0] * channels, side**2)

    def residual(c_in: int, c_out: int, pixels: int) -> None:
        size.add(9 * c_in * c_out + 9 * c_out**2 + (c_in * c_out if c_in != c_out else 0), pixels)
        size.add(time * c_out)

    def attention(c: int, pixels: int) -> None:
        size.add(20 * c**2, pixels)  # projections 2, self-attention 4, query and output of cross-attention 2, GEGLU 12
        size.add(2 * c * settings.cross_attention_width, settings.context_tokens)
        size.flops += 4 * pixels * (pixels + settings.context_tokens) * c

    crossed = max(1, len(levels) - 1)
    before = levels[0]
    for level, c in enumerate(levels):
        pixels = (side // 2**level) ** 2
        for layer in range(layers):
            residual(before if layer == 0 else c, c, pixels)
            if level < crossed:
                attention(c, pixels)
        if level < len(levels) - 1:
            size.add(9 * c**2, pixels // 4)
        before = c
    last = (side // 2 ** (len(levels) - 1)) ** 2
    residual(levels[-1], levels[-1], last)
    attention(levels[-1], last)
    residual(levels[-1], levels[-1], last)
    previous = levels[-1]
    for level in reversed(range(len(levels))):
        c, below = levels[level], levels[max(level - 1, 0)]
        pixels = (side // 2**level) ** 2
        for layer in range(layers + 1):
            skip = below if layer == layers else c
            residual((previous if layer == 0 else c) + skip, c, pixels)
            if level < crossed:
                attention(c, pixels)
        if level > 0:
            size.add(9 * c**2, 4 * pixels)
        previous = c

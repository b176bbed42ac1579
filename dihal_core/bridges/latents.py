"""Hidden states as latent tensors and back: the trained projections and the frozen VAE of the `unet` bridge.

Letters: N token states, D hidden size, c latent channels, s latent side.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dihal_core.backbones.digest import weights_digest
from dihal_core.bridges.models import load_diffusers, public_config, require_same
from dihal_core.bridges.vae_sizes import vae_flops
from dihal_core.config import UnetBridgeSettings
from dihal_core.errors import ConfigError

RANDOM = "random"
PASS_STATES = 32
"""States that go through the autoencoder together while its distortion is measured."""


def latent_shape(settings: UnetBridgeSettings, width: int) -> tuple[int, int]:
    """Return (c, s): as set, else the square that holds exactly `width` values.

    Raises
    ------
    ConfigError
        If no square of whole side holds the state and no side is set.
    """
    if settings.latent_side is not None:
        return settings.latent_channels, settings.latent_side
    side = math.isqrt(width // settings.latent_channels)
    if settings.latent_channels * side * side != width:
        raise ConfigError(
            f"hidden size {width} is not bridge.latent_channels {settings.latent_channels} x a square; set "
            "bridge.latent_side, and the projections will map between the two"
        )
    return settings.latent_channels, side


class Projection(nn.Linear):
    """Trained map between a state and a flat tensor; starts as the identity where the sizes agree."""

    keeps_weights = True

    def __init__(self, width_in: int, width_out: int, zero: bool = False):
        super().__init__(width_in, width_out, bias=False)
        with torch.no_grad():
            if zero:
                self.weight.zero_()
            elif width_in == width_out:
                self.weight.copy_(torch.eye(width_in))
            else:  # orthonormal rows or columns of a fixed cosine basis: keeps lengths, draws nothing
                self.weight.copy_(_cosine_basis(max(width_in, width_out))[:width_out, :width_in])


def _cosine_basis(size: int) -> Tensor:
    """Orthonormal DCT-II matrix (size, size)."""
    k, n = torch.arange(size)[:, None], torch.arange(size)[None, :]
    basis = torch.cos(math.pi / size * (n + 0.5) * k) * math.sqrt(2.0 / size)
    basis[0] /= math.sqrt(2.0)
    return basis


class PlainLatents(nn.Module):
    """State -> latent by one trained projection, and back by another that starts at zero."""

    def __init__(self, width: int, channels: int, side: int):
        super().__init__()
        self.shape = (channels, side, side)
        self.enter = Projection(width, channels * side * side)
        self.leave = Projection(channels * side * side, width, zero=True)

    def encode(self, states_ND: Tensor) -> Tensor:
        """Return latents (N, c, s, s)."""
        return self.enter(states_ND).unflatten(1, self.shape)

    def decode(self, latents_Ncss: Tensor) -> Tensor:
        """Return states (N, D)."""
        return self.leave(latents_Ncss.flatten(1))


class VaeLatents(nn.Module):
    """State -> image by a trained projection -> latent by a frozen AutoencoderKL, and back.

    The autoencoder is not part of the arm's weights: it is named by the settings and never trained. `origin` says
    which one it is; an arm that is loaded again passes what was stored of it as `stored`, with `folder` where a
    copy lies beside it, and another autoencoder is refused.
    """

    def __init__(
        self,
        width: int,
        channels: int,
        side: int,
        source: str,
        revision: str | None,
        stored: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        folder = (stored or {}).get("folder")
        vae: Any = load_vae(folder or source, None if folder else revision, channels)
        self.origin = {
            "source": source,
            "revision": revision,
            "sha256": weights_digest(vae),
            "config": public_config(vae),
        }
        if stored is not None:
            require_same(stored, self.origin, "VAE", folder or source)
        factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
        self.image = (int(vae.config["in_channels"]), side * factor, side * factor)
        self.scale = float(vae.config["scaling_factor"])
        flat = math.prod(self.image)
        self.enter = Projection(width, flat)
        self.leave = Projection(flat, width, zero=True)
        self._frozen = (vae,)  # a tuple: no submodule, so it is neither trained, nor saved, nor unfrozen

    @property
    def autoencoder(self) -> Any:
        """The frozen AutoencoderKL."""
        return self._frozen[0]

    def _apply(self, fn, recurse=True):
        self._frozen[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def encode(self, states_ND: Tensor) -> Tensor:
        """Return the mode of the posterior, scaled as the autoencoder's maker says, (N, c, s, s)."""
        image = self.enter(states_ND).unflatten(1, self.image)
        return self._frozen[0].encode(image).latent_dist.mode() * self.scale

    def decode(self, latents_Ncss: Tensor) -> Tensor:
        """Return states (N, D); gradients pass through the frozen decoder."""
        return self.leave(self._frozen[0].decode(latents_Ncss / self.scale).sample.flatten(1))

    def flops(self) -> int:
        """Return what the frozen autoencoder spends on one state, encoding and decoding."""
        config = dict(self._frozen[0].config)
        side = self.image[1] // 2 ** (len(config["block_out_channels"]) - 1)
        return sum(vae_flops(config, config["latent_channels"], side))

    @torch.no_grad()
    def distortion(self, states_ND: Tensor) -> float:
        """Return the share of variance lost by image -> latent -> image alone, before any training."""
        image = self.enter(states_ND).unflatten(1, self.image)
        back = self._frozen[0].decode(self._frozen[0].encode(image).latent_dist.mode()).sample
        return float((back - image).square().sum() / (image - image.mean(dim=0)).square().sum())

    @torch.no_grad()
    def restored(self, states_ND: Tensor, through_vae: bool = True) -> Tensor:
        """Return the states nearest to the image that comes back, by least squares of the projection `enter`.

        The trained `leave` is no inverse of `enter` (it makes the bridge's correction), so it cannot tell what the
        autoencoder loses. Without the autoencoder only what the projection itself cannot hold is missing.
        """
        flat_NP = self.enter(states_ND)
        if through_vae:
            flat_NP = torch.cat([self._there_and_back(part).flatten(1) for part in flat_NP.split(PASS_STATES)])
        weight_PD = self.enter.weight.double()
        inverse_DP = torch.linalg.pinv(weight_PD.T @ weight_PD, hermitian=True) @ weight_PD.T
        return (flat_NP.double() @ inverse_DP.T).to(states_ND.dtype)

    def _there_and_back(self, flat_NP: Tensor) -> Tensor:
        image = flat_NP.unflatten(1, self.image)
        return self._frozen[0].decode(self._frozen[0].encode(image).latent_dist.mode()).sample

    def as_started(self, width: int) -> "VaeLatents":
        """Return these latents with the projection they started from; the autoencoder is shared."""
        fresh = copy.copy(self)
        fresh._modules = {**self._modules, "enter": Projection(width, math.prod(self.image)).to(self.enter.weight)}
        return fresh


def make_latents(
    settings: UnetBridgeSettings, width: int, stored: Mapping[str, Any] | None = None
) -> "PlainLatents | VaeLatents":
    """Return the codec that `settings` ask for; `stored` is what a saved arm says of its autoencoder."""
    channels, side = latent_shape(settings, width)
    if settings.vae is None:
        return PlainLatents(width, channels, side)
    return VaeLatents(width, channels, side, settings.vae, settings.vae_revision, stored)


def load_vae(source: str, revision: str | None, channels: int) -> Any:
    """Return a frozen AutoencoderKL from safetensors in a local folder or on the hub, or a tiny random one.

    Raises
    ------
    AssetError
        If the weights cannot be had as safetensors.
    ConfigError
        If its latents have another number of channels.
    """
    from diffusers import AutoencoderKL  # pyright: ignore[reportPrivateImportUsage]

    make: Any = AutoencoderKL

    if source == RANDOM:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            vae = make(
                block_out_channels=(8, 8),
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                latent_channels=channels,
                norm_num_groups=4,
            )
    else:
        vae = load_diffusers(AutoencoderKL, source, revision, "vae")
    if vae.config["latent_channels"] != channels:
        raise ConfigError(
            f"the VAE {source} has {vae.config['latent_channels']} latent channels, bridge.latent_channels is "
            f"{channels}; set them equal"
        )
    return vae.eval().requires_grad_(False)

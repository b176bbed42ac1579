"""The `unet` bridge: the paper's kind of denoiser (section 3), one latent tensor per token.

A Stable-Diffusion-v1.5-style conditional UNet denoises the state of one token as a small latent image; the
condition is the token's own embedding state (concatenated channels) and the causal context of its prefix
(cross-attention to the last W states). One sample is one token, so convolutions, GroupNorm and
self-attention cannot mix positions. No CLIP, no image semantics.

The paper states neither prediction type, schedule, latent shape nor base: those are settings (ours). Default:
the sample itself is predicted; the frozen ridge prediction is added to the output, whose projection starts
at zero.

Letters: B windows, T positions, N token states, D hidden size, W context states, X their width, c, s latent shape.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dihal_core.bridges.context import CausalTransformer
from dihal_core.bridges.frame import Batch, Draws, Frame, TrainedArm
from dihal_core.bridges.latents import VaeLatents, latent_shape, make_latents
from dihal_core.bridges.models import keep_weights, load_diffusers, public_config, remake_unet
from dihal_core.bridges.processes import batch_noise
from dihal_core.bridges.schedules import Schedule, make_schedule
from dihal_core.bridges.sizes import bridge_size
from dihal_core.config import UnetBridgeSettings
from dihal_core.errors import ConfigError


class UnetBridge(TrainedArm):
    """Token-wise UNet denoiser with causal cross-attention.

    `structure` is what a saved arm says of its models: the UNet is then built without its source, since its weights
    are in the arm's own file.
    """

    kind: ClassVar[str] = "unet"

    def __init__(self, settings: UnetBridgeSettings, frame: Frame, structure: Mapping[str, Any] | None = None):
        super().__init__(frame)
        self.settings = settings
        self.schedule: Schedule = make_schedule(settings)
        self.context = CausalTransformer(
            frame.width, settings.context_width, settings.context_blocks, settings.context_heads
        )
        self.context_out = nn.Linear(settings.context_width, settings.cross_attention_width, bias=False)
        stored = structure or {}
        self.latents = make_latents(settings, frame.width, stored.get("vae"))
        self.condition_latents = make_latents(settings.model_copy(update={"vae": None}), frame.width).enter
        self.channels, self.side = latent_shape(settings, frame.width)
        self.unet = (
            remake_unet(stored["unet"]["config"]) if "unet" in stored else make_unet(settings, self.channels, self.side)
        )

    def structure(self) -> dict[str, Any]:
        """Return source and configuration of the UNet, and of the frozen autoencoder with the digest of its weights."""
        settings = self.settings
        unet = {"source": settings.unet, "revision": settings.unet_revision, "config": public_config(self.unet)}
        return {"unet": unet, **({"vae": self.latents.origin} if isinstance(self.latents, VaeLatents) else {})}

    def denoise(
        self, x_ND: Tensor, t_N: Tensor, condition_ND: Tensor, context_NWX: Tensor, seen_NW: Tensor, base_ND: Tensor
    ) -> Tensor:
        """Return the estimate of h from x_t, float32."""
        condition_Ncss = self.condition_latents(condition_ND).unflatten(1, (self.channels, self.side, self.side))
        output = self.unet(
            torch.cat([self.latents.encode(x_ND), condition_Ncss], dim=1),
            t_N * (self.settings.train_timesteps - 1),
            encoder_hidden_states=context_NWX,
            encoder_attention_mask=seen_NW,
        ).sample
        out_ND = self.latents.decode(output).float()
        return self.schedule.to_sample(out_ND, x_ND, t_N, self._base(base_ND))

    def _base(self, base: Tensor) -> Tensor:
        return base if self.settings.base == "ridge" else torch.zeros_like(base)

    def prefix(self, condition_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Return for every position the last W context states (B, T, W, X), own one last, and which exist (T, W)."""
        window, positions = self.settings.context_tokens, condition_BTD.shape[1]
        states_BTX = self.context_out(self.context(condition_BTD))
        padded = F.pad(states_BTX, (0, 0, window - 1, 0))
        gathered_BTWX = padded.unfold(1, window, 1).transpose(2, 3)
        device = condition_BTD.device
        index_TW = torch.arange(positions, device=device)[:, None] + torch.arange(1 - window, 1, device=device)
        return gathered_BTWX, index_TW >= 0

    def estimate(self, condition_BTD: Tensor, base_BTD: Tensor, steps: int, sequence_B: Tensor, seed: int) -> Tensor:
        """Run the sampler; noise belongs to (seed, sequence, position) and to nothing else."""
        B, T, D = base_BTD.shape
        context_BTWX, seen_TW = self.prefix(condition_BTD)

        def noise(draw: int) -> Tensor:
            return batch_noise(seed, sequence_B, draw, T, D, base_BTD.device)

        return self.decode(context_BTWX, seen_TW.expand(B, -1, -1), condition_BTD, base_BTD, steps, noise)

    def decode(
        self,
        context_BTWX: Tensor,
        seen_BTW: Tensor,
        condition_BTD: Tensor,
        base_BTD: Tensor,
        steps: int,
        noise: Callable[[int], Tensor],
    ) -> Tensor:
        """Sample each token's state given the context states it attends to: nothing here mixes positions.

        `noise(draw)` gives the standard normals (B, T, D) of one draw.
        """
        B, T, _ = base_BTD.shape
        flat = [part.flatten(0, 1) for part in (condition_BTD, context_BTWX, seen_BTW, base_BTD)]

        def ask(x_ND: Tensor, t: float) -> Tensor:
            t_N = torch.full((len(x_ND),), t, device=x_ND.device)
            return self._in_chunks(x_ND, t_N, *flat)

        start_ND = self._base(base_BTD).flatten(0, 1)
        found_ND = self.schedule.sample(ask, start_ND, lambda draw: noise(draw).flatten(0, 1), steps)
        return found_ND.unflatten(0, (B, T))

    def _in_chunks(self, *tensors: Tensor) -> Tensor:
        size = self.settings.chunk_states
        parts = zip(*(tensor.split(size) for tensor in tensors), strict=True)
        return torch.cat(
            [self.denoise(x, t, condition, context, seen, base) for x, t, condition, context, seen, base in parts]
        )

    def draw(self, mask_BT: Tensor, generator: torch.Generator) -> Draws:
        """Draw positions, times and noise; t is NaN where a position was not drawn."""
        chosen_BT = self.choose(mask_BT, generator)
        t_BT = self.schedule.training_times(generator, mask_BT.shape)
        return Draws(torch.where(chosen_BT, t_BT, torch.nan), self._noise(mask_BT, generator))

    def draw_once(self, mask_BT: Tensor, generator: torch.Generator) -> Draws:
        """Draw positions, and the noise of t = 1."""
        chosen_BT = self.choose(mask_BT, generator)
        t_BT = torch.where(chosen_BT, torch.ones_like(chosen_BT, dtype=torch.float32), torch.nan)
        return Draws(t_BT, self._noise(mask_BT, generator))

    def _noise(self, mask_BT: Tensor, generator: torch.Generator) -> Tensor:
        shape = (*mask_BT.shape, self.frame.width)
        return torch.randn(shape, generator=generator, device=generator.device)

    def errors(self, batch: Batch, draws: Draws) -> Tensor:
        """Squared error at the positions that were drawn, zero elsewhere."""
        chosen_BT = ~draws.t_BT.isnan()
        estimate_ND = self._estimate_chosen(batch, draws, chosen_BT)
        error_BT = torch.zeros(chosen_BT.shape, device=estimate_ND.device)
        return error_BT.masked_scatter(chosen_BT, (estimate_ND - batch.target_BTD[chosen_BT]).square().mean(dim=-1))

    def estimate_once(self, batch: Batch, draws: Draws) -> Tensor:
        """Estimate drawn positions from t = 1; elsewhere the target stands, as if those blocks were in place."""
        chosen_BT = ~draws.t_BT.isnan()
        return batch.target_BTD.masked_scatter(chosen_BT[..., None], self._estimate_chosen(batch, draws, chosen_BT))

    def _estimate_chosen(self, batch: Batch, draws: Draws, chosen_BT: Tensor) -> Tensor:
        context_BTWX, seen_TW = self.prefix(batch.condition_BTD)
        seen_BTW = seen_TW.expand(len(chosen_BT), -1, -1)
        base_ND, t_N = self._base(batch.base_BTD[chosen_BT]), draws.t_BT[chosen_BT]
        x_ND = self.schedule.noised(batch.target_BTD[chosen_BT], base_ND, t_N, draws.noise_BTD[chosen_BT])
        return self._in_chunks(
            x_ND, t_N, batch.condition_BTD[chosen_BT], context_BTWX[chosen_BT], seen_BTW[chosen_BT], base_ND
        )

    def choose(self, mask_BT: Tensor, generator: torch.Generator) -> Tensor:
        """Mark at most `positions_per_sequence` counted positions of every window, drawn from `generator`."""
        wanted = self.settings.positions_per_sequence
        if wanted is None or wanted >= mask_BT.shape[1]:
            return mask_BT
        rank_BT = torch.rand(mask_BT.shape, generator=generator, device=generator.device).masked_fill(~mask_BT, -1.0)
        kept_BM = rank_BT.topk(wanted, dim=1).indices
        return torch.zeros_like(mask_BT).scatter(1, kept_BM, True) & mask_BT

    def attention_flops(self, positions: int) -> int:
        """FLOPs per token beyond one use of every matrix: convolutions and attention over the latent's pixels."""
        matrices = sum(parameter.numel() for parameter in self.parameters() if parameter.ndim == 2)
        return (
            self.context.attention_flops(positions) + bridge_size(self.settings, self.frame.width).flops - 2 * matrices
        )

    def state_flops(self) -> tuple[int, int]:
        """Projections and UNet; the frozen autoencoder, encoding and decoding."""
        frozen = self.latents.flops() if isinstance(self.latents, VaeLatents) else 0
        return bridge_size(self.settings, self.frame.width).state_flops, frozen


def make_unet(settings: UnetBridgeSettings, channels: int, side: int) -> Any:
    """Return the UNet: random from the settings, or published weights with room for the condition's channels.

    Raises
    ------
    AssetError
        If the weights cannot be had as safetensors.
    ConfigError
        If weights and settings disagree, or the latent is too small for the UNet's levels.
    """
    from diffusers import UNet2DConditionModel  # pyright: ignore[reportPrivateImportUsage]

    levels = len(settings.block_channels)
    if side % 2 ** (levels - 1):
        raise ConfigError(
            f"a latent of side {side} cannot be halved {levels - 1} times; set fewer bridge.block_channels or another "
            "bridge.latent_side"
        )
    if settings.unet is not None:
        unet = load_diffusers(UNet2DConditionModel, settings.unet, settings.unet_revision, "unet")
        found = int(unet.config["cross_attention_dim"]), int(unet.config["out_channels"])
        if found != (settings.cross_attention_width, channels):
            raise ConfigError(
                f"the UNet {settings.unet} has cross-attention width {found[0]} and {found[1]} channels; set "
                f"bridge.cross_attention_width={found[0]} and bridge.latent_channels={found[1]}"
            )
        widen_input(unet, 2 * channels)
        return keep_weights(unet)
    crossed = levels - 1 if levels > 1 else 1
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=2 * channels,
        out_channels=channels,
        block_out_channels=settings.block_channels,
        layers_per_block=settings.layers_per_block,
        down_block_types=("CrossAttnDownBlock2D",) * crossed + ("DownBlock2D",) * (levels - crossed),
        up_block_types=("UpBlock2D",) * (levels - crossed) + ("CrossAttnUpBlock2D",) * crossed,
        cross_attention_dim=settings.cross_attention_width,
        attention_head_dim=settings.attention_heads,
        norm_num_groups=settings.norm_groups,
    )


@torch.no_grad()
def widen_input(unet: Any, channels: int) -> None:
    """Give the first convolution `channels` inputs; the new ones start at zero, so the output stays what it was."""
    old = unet.conv_in
    if old.in_channels == channels:
        return
    new: Any = nn.Conv2d(channels, old.out_channels, old.kernel_size, old.stride, old.padding)
    new.weight.zero_()
    new.weight[:, : old.in_channels].copy_(old.weight)
    new.bias.copy_(old.bias)
    unet.conv_in = new
    unet.register_to_config(in_channels=channels)

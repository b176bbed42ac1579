"""Settings of the bridge architectures, one class per `kind`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dihal_core.config.base import Settings


class BridgeBase(Settings):
    """What every bridge shares: frozen ridge base, causal context, and the size of the deterministic control."""

    width: int = Field(
        512, ge=8, description="Width of the token network of `mlp` and of the regressor control (ours)."
    )
    blocks: int = Field(1, ge=1, description="Its AdaLN residual blocks (ours).")
    context_width: int = Field(128, ge=8, description="Width of the causal context transformer (ours).")
    context_blocks: int = Field(1, ge=1, description="Its blocks (ours).")
    context_heads: int = Field(2, ge=1, description="Its heads (ours).")
    bridge_noise: float = Field(0.5, ge=0, description="s in x_t = (1-t) h + t m + s sqrt(t(1-t)) e (ours).")
    endpoint_probability: float = Field(0.5, ge=0, le=1, description="Share of training draws at exactly t = 1 (ours).")
    diffusion_weight: float = Field(
        1.0,
        ge=0,
        description="Weight of the diffusion loss: of the squared error of a state drawn at t < 1, whose share of the drawn "
        "states is 1 - endpoint_probability (paper; value ours).",
    )
    reconstruction_weight: float = Field(
        1.0,
        ge=0,
        description="Weight of the reconstruction loss: of the squared error of a state drawn at t = 1, whose share is "
        "endpoint_probability (paper; value ours). The regressor has this loss alone and weighs it as the bridge weighs "
        "both together.",
    )
    ridge_tokens: int = Field(3, ge=1, le=8, description="Tokens seen by the frozen ridge base (ours).")
    ridge_penalty: float = Field(1e-3, gt=0, description="Times the mean diagonal of the Gram matrix (ours).")
    ridge_windows: int = Field(
        1024, ge=1, description="Training windows that statistics and ridge are fitted on, at most (ours)."
    )
    clip_sd: float = Field(
        10.0, gt=0, description="Standardised targets are clipped here in the training loss only (ours)."
    )
    next_token_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of the next-token loss through the upper blocks, per nat of its mean over the scored tokens at "
        "or after a window's first predicted state: all scored tokens, or with positions_per_sequence those from the first "
        "drawn position on; the states that were not drawn are then the true ones (paper; value ours).",
    )
    distillation_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of KL(teacher || hybrid) through the upper blocks, per nat of its mean over the same tokens as "
        "next_token_weight. With M of T positions drawn a token sees M/T of its prefix replaced, so the loss is smaller than "
        "with all of them, and the same weight counts for less (paper; value ours).",
    )
    suffix_windows: int = Field(2, ge=1, description="Windows of each batch that these two losses are taken on (ours).")

    @model_validator(mode="after")
    def _heads_divide(self) -> "BridgeBase":
        if self.context_width % (2 * self.context_heads):
            raise ValueError(
                f"context_width {self.context_width} is not {self.context_heads} heads of an even width; "
                "choose bridge.context_width as a multiple of 2 x bridge.context_heads"
            )
        return self

    @model_validator(mode="after")
    def _has_a_loss(self) -> "BridgeBase":
        endpoint = self.endpoint_probability
        direct = (1 - endpoint) * self.diffusion_weight + endpoint * self.reconstruction_weight
        if direct + self.next_token_weight + self.distillation_weight == 0:
            raise ValueError(
                f"every term of the loss has weight 0 (diffusion_weight {self.diffusion_weight}, reconstruction_weight "
                f"{self.reconstruction_weight} at endpoint_probability {endpoint}, next_token_weight 0, distillation_weight "
                "0); set one of the bridge.*_weight settings above 0"
            )
        return self


class MlpBridgeSettings(BridgeBase):
    """Token-wise diffusion denoiser on a causal context, started from a frozen ridge prediction (ours)."""

    kind: Literal["mlp"] = "mlp"


class UnetBridgeSettings(BridgeBase):
    """Stable-Diffusion-v1.5-style UNet, one latent tensor per token (paper section 3; every value below is ours).

    Defaults are the shape of SD v1.5; quick studies set fewer and narrower levels.
    """

    kind: Literal["unet"] = "unet"
    latent_channels: int = Field(4, ge=1, description="Channels of the latent; 4 as SD v1.5 (ours).")
    latent_side: int | None = Field(
        None,
        ge=1,
        description="Height and width; null: the square that holds the state exactly, 4 x 32 x 32 = 4096. A prediction passes "
        "through latent_channels x latent_side^2 numbers; with a VAE the image has 8 times the side, and so a projection of "
        "3 x 64 x latent_side^2 x hidden size parameters on either way (ours).",
    )
    block_channels: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (320, 640, 1280, 1280), min_length=1, description="Widths of the UNet's levels; SD v1.5 (ours)."
    )
    layers_per_block: int = Field(2, ge=1, description="Residual layers per level; SD v1.5 (ours).")
    attention_heads: int = Field(8, ge=1, description="Attention heads; SD v1.5 (ours).")
    norm_groups: int = Field(32, ge=1, description="Groups of GroupNorm, inside one token (ours).")
    cross_attention_width: int = Field(768, ge=1, description="Width of the context it attends to; SD v1.5 (ours).")
    context_tokens: int = Field(8, ge=1, le=512, description="Prefix states it attends to, own one included (ours).")
    unet: str | None = Field(None, description="Folder or hub id of UNet weights (safetensors); null: random (ours).")
    unet_revision: str | None = Field(None, description="Hub revision of the UNet weights; a run pins it to a commit.")
    vae: str | None = Field(
        None, description="Folder or hub id of a frozen AutoencoderKL between projection and UNet; null: none (ours)."
    )
    vae_revision: str | None = Field(None, description="Hub revision of the VAE weights; a run pins it to a commit.")
    start: Literal["noise", "ridge"] = Field(
        "noise", description="noise: diffusion from Gaussian noise; ridge: bridge from the ridge prediction (ours)."
    )
    base: Literal["ridge", "none"] = Field("ridge", description="What is added to the predicted sample (ours).")
    prediction: Literal["sample", "v_prediction", "epsilon"] = Field(
        "sample", description="What the UNet predicts; the target is nearly a point, which favours the sample (ours)."
    )
    sampler: Literal["ddim", "dpm", "unipc"] = Field("ddim", description="Diffusers scheduler of start=noise (ours).")
    train_timesteps: int = Field(1000, ge=2, description="Timesteps of the schedule; SD v1.5 (ours).")
    positions_per_sequence: int | None = Field(
        None, ge=1, description="Positions of each window that a training step denoises; null: all (ours)."
    )
    chunk_states: int = Field(1024, ge=1, description="Token states per pass of the UNet; bounds memory (ours).")

    @model_validator(mode="after")
    def _fits_together(self) -> "UnetBridgeSettings":
        wrong = [width for width in self.block_channels if width % self.norm_groups or width % self.attention_heads]
        if wrong:
            raise ValueError(
                f"bridge.block_channels {wrong[0]} is no multiple of norm_groups {self.norm_groups} and attention_heads "
                f"{self.attention_heads}; change one of them"
            )
        if self.start == "ridge" and (self.prediction != "sample" or self.base != "ridge"):
            raise ValueError(
                f"start=ridge predicts the sample on top of the ridge, got prediction={self.prediction}, base={self.base}; "
                "set bridge.prediction=sample and bridge.base=ridge, or bridge.start=noise"
            )
        if self.vae is not None and self.latent_side is None:
            raise ValueError("a VAE maps an image to a smaller latent; set bridge.latent_side with bridge.vae")
        return self


BridgeSettings = Annotated[
    MlpBridgeSettings | UnetBridgeSettings, Field(discriminator="kind", description="One architecture per `kind`.")
]

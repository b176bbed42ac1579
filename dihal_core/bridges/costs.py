"""What a study's bridges will cost, from settings alone: FLOPs of training, looking, predicting. Imports no torch.

A UNet denoises the positions that are drawn, one latent each, and a frozen autoencoder runs around every call of it;
predictions denoise every position. Matrix products, convolutions and attention scores inside a latent are counted.
"""

import dataclasses
import math
from typing import Any

from dihal_core.bridges.sizes import Size, bridge_size
from dihal_core.config import BridgeBase, MlpBridgeSettings, StudySettings, UnetBridgeSettings

PROBED_WINDOWS = 4
LEAK_PASSES = 3 * 4
"""Predictions of the leak probe at each of its numbers of sampler steps (1 and 3): cuts x (input + replacements)."""
OBJECTIVE_BATCH = 16
"""Windows per batch of the objective on validation, of which some go through the upper blocks."""


@dataclasses.dataclass(frozen=True)
class BridgeCosts:
    """FLOPs of one bridge; tokens are positions of windows, padding included."""

    token: float
    """Context transformer, forward."""
    state: float
    """One call of the denoiser on one state, forward, trained weights."""
    frozen: float
    """The autoencoder around that call."""
    drawn: float
    """Share of the positions that a training step denoises."""

    @classmethod
    def of(cls, settings: BridgeBase, hidden_size: int, window_tokens: int) -> "BridgeCosts":
        """Return the costs of the bridge that `settings` describe."""
        size: Size = bridge_size(settings, hidden_size)
        drawn = getattr(settings, "positions_per_sequence", None) or window_tokens
        return cls(size.flops - size.state_flops, size.state_flops, size.frozen_flops, min(1.0, drawn / window_tokens))

    def training(self, tokens: float) -> float:
        """Return FLOPs of steps on `tokens`: backward is twice forward; through frozen weights as much as forward."""
        return tokens * (3 * self.token + self.drawn * (3 * self.state + 2 * self.frozen))

    def objective(self, tokens: float) -> float:
        """Return FLOPs of the training objective without its gradient."""
        return tokens * (self.token + self.drawn * (self.state + self.frozen))

    def predicting(self, tokens: float, steps: int = 1) -> float:
        """Return FLOPs of predictions at every position with `steps` sampler steps."""
        return tokens * (self.token + steps * (self.state + self.frozen))


def bridge_costs(settings: StudySettings) -> BridgeCosts:
    """Return the costs of the study's bridge."""
    return BridgeCosts.of(settings.bridge, settings.backbone.hidden_size, settings.corpus.window_tokens)


def control_costs(settings: StudySettings) -> BridgeCosts:
    """Return the costs of the regressor beside it: the token network of an `mlp` bridge."""
    shared = {name: getattr(settings.bridge, name) for name in BridgeBase.model_fields}
    return BridgeCosts.of(MlpBridgeSettings(**shared), settings.backbone.hidden_size, settings.corpus.window_tokens)


def suffix_training(settings: StudySettings, tokens: float, batch: int, depth: float, gradient: bool = True) -> float:
    """Return FLOPs of the losses through the upper blocks while `tokens` are trained on in batches of `batch` windows.

    Teacher and upper blocks forward, the upper blocks backward to their input, the lower ones where states that were
    not drawn are the true ones, and the bridge once more. `depth` is the share of the blocks that are replaced.
    """
    bridge, costs = settings.bridge, bridge_costs(settings)
    if bridge.next_token_weight == 0 and bridge.distillation_weight == 0:
        return 0.0
    used = tokens * min(1.0, bridge.suffix_windows / batch)
    blocks = 1 + (2 if gradient else 1) * (1 - depth) + (depth if costs.drawn < 1 else 0)
    own = costs.training(used) if gradient else costs.objective(used)
    return own + used * blocks * 2.0 * settings.backbone.num_parameters


def sweep_costs(settings: StudySettings, tokens: float, layers: tuple[int, ...]) -> float:
    """Return FLOPs of all bridges and regressors of one seed of the sweep, `tokens` of training at each layer."""
    sweep, window = settings.sweep, settings.corpus.window_tokens
    validation = sweep.num_sequences * sweep.validation_fraction * window
    scored = sweep.likelihood_sequences * window
    costs, control = bridge_costs(settings), control_costs(settings)
    controls = min(sweep.regressor_layers, len(layers))
    total = 0.0
    for layer in layers:
        depth = layer / settings.backbone.num_layers
        total += costs.training(tokens) + suffix_training(settings, tokens, sweep.training.batch_sequences, depth)
        total += costs.predicting(validation + scored) + costs.objective(validation)
        total += suffix_training(settings, validation, OBJECTIVE_BATCH, depth, gradient=False)
    beside = control.training(tokens) + control.predicting(2 * validation + scored)
    return total + controls * beside


def replace_costs(settings: StudySettings, tokens: float, depth: float = 0.1) -> float:
    """Return FLOPs of bridge and regressor of the final training, of its looks at validation and of the blocks below."""
    replace, window = settings.replace, settings.corpus.window_tokens
    training = replace.training
    validation = replace.num_sequences * replace.validation_fraction
    looked = min(validation, replace.look_windows or math.inf)
    steps = training.epochs * (replace.num_sequences - validation) / training.batch_sequences
    looks = math.ceil(min(steps, training.max_steps or steps) / training.checkpoint_steps)
    measured = (validation + looks * looked) * window
    total = measured * 2.0 * settings.backbone.num_parameters * depth
    for costs in (bridge_costs(settings), *([control_costs(settings)] if replace.regressor else [])):
        total += costs.training(tokens) + costs.predicting(measured)
    return total + suffix_training(settings, tokens, training.batch_sequences, depth)


def evaluation_costs(settings: StudySettings, tokens: float, sets: int) -> float:
    """Return FLOPs of bridge and regressor on the evaluation sets, the leak probe in front of each included."""
    costs, control = bridge_costs(settings), control_costs(settings)
    total = sum(costs.predicting(tokens, steps) for steps in settings.evaluation.sampling_steps)
    total += control.predicting(tokens) if settings.replace.regressor else 0.0
    return total + sets * leak_costs(settings)


def leak_costs(settings: StudySettings) -> float:
    """Return FLOPs of one leak probe of the bridge."""
    tokens = PROBED_WINDOWS * settings.corpus.window_tokens
    return LEAK_PASSES * sum(bridge_costs(settings).predicting(tokens, steps) for steps in (1, 3))


def curve_costs(settings: StudySettings) -> float:
    """Return FLOPs of the bridge in stage `cost`: quality at every number of steps, and the timed forwards."""
    chosen, window = settings.cost, settings.corpus.window_tokens
    windows = chosen.windows + chosen.timed_windows * (chosen.rounds + 1)
    return sum(bridge_costs(settings).predicting(windows * window, steps) for steps in chosen.sampling_steps)


def describe_latent(settings: StudySettings) -> list[str]:
    """Return one line on a latent that cannot hold the state, none where it can."""
    bridge: Any = settings.bridge
    if not isinstance(bridge, UnetBridgeSettings) or bridge.latent_side is None:
        return []
    width, side, channels = settings.backbone.hidden_size, bridge.latent_side, bridge.latent_channels
    held = channels * side**2
    if held >= width:
        return []
    full = math.isqrt(width // channels)
    exact = full**2 * channels == width
    way = f": {channels} x {full} x {full} = {width} numbers" if exact else " of a larger side"
    around = (
        "and nothing is added to it (bridge.base=none)" if bridge.base == "none" else "on top of the ridge prediction"
    )
    return [
        f"The UNet's latent is {channels} x {side} x {side}: a prediction passes through {held} numbers for a state of {width}, "
        f"{around}. A latent that holds the state{way}: --set bridge.vae=null bridge.latent_side={'null' if exact else full + 1}"
    ]

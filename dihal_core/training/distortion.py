"""How much of a hidden state the frozen autoencoder of the `unet` bridge loses by itself, measured per layer.

The autoencoder was trained on images; what passes through it comes back distorted before any denoising. The bridge's
other losses contain that distortion without naming it. Ours: the paper keeps a frozen VAE without stating what it costs.

Letters: N token states, D hidden size.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dihal_core.bridges.frame import Arm
from dihal_core.bridges.latents import VaeLatents
from dihal_core.training.batches import BatchSource

MEASURED_STATES = 256
"""States of the first validation windows: an image model per state is slow, and the share is that of a sum."""


def measured_distortion(arm: Arm, source: BatchSource, windows: np.ndarray) -> dict[str, Any]:
    """Return `{"vae": ...}` of a bridge with an autoencoder, an empty mapping of any other arm.

    `state_fvu` is the fraction of variance unexplained of decode(encode(state)), mapped back to the hidden state by
    least squares of the trained projection, in standardised coordinates (1 is predicting the training mean);
    `projection_fvu` is the same without the autoencoder; `untrained_state_fvu` with the projection as it started;
    `image_fvu` is measured on the projected image.
    """
    latents = getattr(arm, "latents", None)
    if not isinstance(latents, VaeLatents):
        return {}
    states_ND = _states(source, windows)
    start = latents.as_started(source.frame.width)
    return {
        "vae": {
            "states": len(states_ND),
            "state_fvu": _fvu(latents, states_ND),
            "projection_fvu": _fvu(latents, states_ND, through_vae=False),
            "untrained_state_fvu": _fvu(start, states_ND),
            "image_fvu": latents.distortion(states_ND),
        }
    }


@torch.no_grad()
def _states(source: BatchSource, windows: np.ndarray) -> Tensor:
    """Return up to MEASURED_STATES standardised validation states, in window order."""
    taken: list[Tensor] = []
    for index in windows:
        one = np.asarray([index])
        states_1TD = source.frame.target(source.targets.states(one).float())
        taken.append(states_1TD[source.mask(one).to(states_1TD.device)])
        if sum(map(len, taken)) >= MEASURED_STATES:
            break
    return torch.cat(taken)[:MEASURED_STATES]


def _fvu(latents: VaeLatents, states_ND: Tensor, through_vae: bool = True) -> float:
    back_ND = latents.restored(states_ND, through_vae)
    return float((back_ND - states_ND).double().square().sum() / states_ND.double().square().sum())

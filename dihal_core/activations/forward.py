"""States of one batch, cut to what a dump keeps.

Letters: B windows of a batch, T positions, D hidden size, M pool rows.
"""

import numpy as np
import torch

from dihal_core.activations.names import pool_array, whole_array
from dihal_core.activations.plan import DumpPlan
from dihal_core.activations.tensors import to_bits
from dihal_core.backbones.backbone import Backbone
from dihal_core.errors import NumericsError


def batch_states(backbone: Backbone, plan: DumpPlan, start: int) -> dict[str, np.ndarray]:
    """Return the bit patterns of one batch by array name: pool rows of all layers, whole windows of chosen ones.

    One forward pass that stops after the last layer of the plan. States are gathered where their block
    lies (a model can be spread over devices) and end in host memory.

    Raises
    ------
    NumericsError
        If a state is not finite, naming layer, sequence and position.
    """
    stop = min(start + plan.batch_sequences, plan.windows)
    rows_M3 = plan.rows_M3[plan.first_row(start) : plan.first_row(stop)]
    window_M = torch.from_numpy(rows_M3[:, 0] - start).long()
    position_M = torch.from_numpy(rows_M3[:, 1].copy()).long()
    placed: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}
    whole = max(0, min(plan.whole_sequences, stop) - start)
    top = max(plan.table_layers)
    found: dict[str, np.ndarray] = {}

    def keep(layer: int, hidden_BTD: torch.Tensor) -> None:
        device = hidden_BTD.device
        if device not in placed:
            placed[device] = (window_M.to(device), position_M.to(device))
        if plan.token_policy == "mean":
            windows, positions = placed[device]
            found[pool_array(layer)] = to_bits(_mean_states(hidden_BTD[windows], plan.skip_positions, positions))
        else:
            found[pool_array(layer)] = to_bits(hidden_BTD[placed[device]])
        if whole and layer in plan.whole_layers:
            found[whole_array(layer)] = to_bits(hidden_BTD[:whole])
        if layer == top and not bool(torch.isfinite(hidden_BTD).all()):
            _explain_non_finite(backbone, plan, start)

    backbone.visit(torch.from_numpy(plan.batch(start)), plan.table_layers, keep)
    return found


def _mean_states(hidden_MTD: torch.Tensor, first: int, last_M: torch.Tensor) -> torch.Tensor:
    """Mean of the states at positions first..last of each window, summed in float32."""
    position_T = torch.arange(hidden_MTD.shape[1], device=hidden_MTD.device)
    inside_MT = (position_T >= first) & (position_T <= last_M[:, None])
    # Not a product with 0: positions outside may hold anything, inf included.
    kept_MTD = torch.where(inside_MT[:, :, None], hidden_MTD.float(), 0.0)
    return kept_MTD.sum(dim=1) / inside_MT.sum(dim=1, keepdim=True)


def _explain_non_finite(backbone: Backbone, plan: DumpPlan, start: int) -> None:
    """Raise for the first layer with a non-finite state inside a real window; pads may hold anything."""
    lengths_B = torch.from_numpy(plan.lengths_N[start : start + plan.batch_sequences].astype(np.int64))
    real_BT = torch.arange(plan.positions) < lengths_B[:, None]

    def look(layer: int, hidden_BTD: torch.Tensor) -> None:
        bad_BT = ~torch.isfinite(hidden_BTD[: len(lengths_B)]).all(dim=-1).cpu() & real_BT
        if bool(bad_BT.any()):
            window, position = (int(index) for index in bad_BT.nonzero()[0])
            raise NumericsError(
                f"hidden state of layer {layer}, sequence {start + window}, position {position} is not finite "
                f"in {backbone.name}; use backbone.dtype=float32 or leave this backbone out"
            )

    backbone.visit(torch.from_numpy(plan.batch(start)), plan.table_layers, look)

"""Leak gates: what lies in the future may change nothing before it, to the last bit.

Letters: B windows, T positions, D hidden size.
"""

import functools
from collections.abc import Mapping

import torch

from dihal_core.backbones.backbone import Backbone
from dihal_core.bridges.causality import LeakyControl, largest_leak
from dihal_core.bridges.frame import Arm
from dihal_core.errors import GateError

PROBED_STEPS = (1, 3)
"""Sampler steps of the probe: one deterministic call, and a walk that draws noise."""


def cuts(positions: int) -> tuple[int, ...]:
    """Return the positions from which on the probe changes the input: early, middle, the last one."""
    return tuple(sorted({min(2, positions - 1), positions // 2, positions - 1}))


def arm_leak(arm: Arm, embeddings_BTD: torch.Tensor, seed: int) -> float:
    """Return the largest change of an arm's past over all cuts and sampler steps."""
    sequence_B = torch.arange(len(embeddings_BTD))
    return max(
        largest_leak(functools.partial(arm.predict, steps=steps, sequence_B=sequence_B, seed=seed), embeddings_BTD, cut)
        for steps in PROBED_STEPS
        for cut in cuts(embeddings_BTD.shape[1])
    )


def require_no_leak(arms: Mapping[str, Arm], embeddings_BTD: torch.Tensor, weights: str, seed: int) -> dict[str, float]:
    """Return `{arm: 0.0}` for arms that pass.

    Raises
    ------
    GateError
        If an arm's past changes with its future: its perplexity would mean nothing.
    """
    found = {}
    for name, arm in arms.items():
        found[name] = arm_leak(arm, embeddings_BTD, seed)
        if found[name] != 0.0:
            raise GateError(
                f"leak gate: {name} with {weights} weights changes by {found[name]:.3g} before the position where its "
                "input was changed, exactly 0 is required; it sees the tokens it predicts, so no likelihood is "
                "reported. Make every operation over positions causal (norms and convolutions too)"
            )
    return found


def control_leak(embeddings_BTD: torch.Tensor, seed: int) -> float:
    """Return the leak of a module that leaks by design.

    Raises
    ------
    GateError
        If the probe does not see it: then its zeros for other modules mean nothing.
    """
    control = LeakyControl(embeddings_BTD.shape[-1], seed).to(embeddings_BTD.device)
    leak = min(largest_leak(control.predict, embeddings_BTD, cut) for cut in cuts(embeddings_BTD.shape[1]))
    if not leak > 0.0:
        raise GateError(
            f"leak gate: the probe did not catch the leaky control (change {leak}), so it would not catch a leaky "
            "bridge either; the embeddings may all be equal: check the windows of the corpus"
        )
    return leak


@torch.no_grad()
def backbone_leak(backbone: Backbone, tokens_BT: torch.Tensor) -> float:
    """Return the largest change of the backbone's past when the later half of the tokens is reversed.

    Right-padded windows without a mask rest on this being 0.

    Raises
    ------
    GateError
        If it is not.
    """
    cut = tokens_BT.shape[1] // 2
    changed_BT = torch.cat([tokens_BT[:, :cut], tokens_BT[:, cut:].flip(1)], dim=1)
    before_BTD, after_BTD = backbone.final(tokens_BT)[:, :cut], backbone.final(changed_BT)[:, :cut]
    leak = float((before_BTD - after_BTD).abs().max())
    if leak != 0.0:
        raise GateError(
            f"leak gate: states of {backbone.name} before position {cut} change by {leak:.3g} when later tokens do; "
            "only causal decoders can be studied"
        )
    return leak

"""Optimisers of one arm, and their state under stable names.

Ours: the paper names no optimiser. Muon (torch.optim.Muon, arXiv 2502.16982 for the rate scaling) takes
weight matrices, AdamW everything else; with `adamw` it takes all.
"""

import math

import torch
from torch import Tensor, nn

from dihal_core.config import TrainingSettings

ADAMW_BETAS = (0.9, 0.95)


def rate_factor(step: int, steps: int, warmup: int) -> float:
    """Return the share of the peak rate at `step` (from 0): linear warm-up under a cosine to zero."""
    return min(1.0, (step + 1) / max(warmup, 1)) * 0.5 * (1 + math.cos(math.pi * step / steps))


class Optimizers:
    """One or two torch optimisers over the parameters of a module, stepped together."""

    def __init__(self, module: nn.Module, settings: TrainingSettings):
        self.named = dict(module.named_parameters())
        self.settings = settings
        matrices = [p for p in self.named.values() if p.ndim == 2 and settings.optimizer == "muon"]
        chosen = {id(p) for p in matrices}
        rest = [p for p in self.named.values() if id(p) not in chosen]
        rate, decay = settings.learning_rate, settings.weight_decay
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            muon = torch.optim.Muon(
                matrices,
                lr=rate,
                weight_decay=decay,
                adjust_lr_fn="match_rms_adamw",
                ns_steps=settings.muon_iterations,
            )
            self.parts.append(muon)
        if rest:
            self.parts.append(torch.optim.AdamW(rest, lr=rate, weight_decay=decay, betas=ADAMW_BETAS, fused=True))

    def step(self, factor: float) -> float:
        """Clip, step at `factor` times the peak rate, forget the gradients; return the gradient norm before."""
        norm = torch.nn.utils.clip_grad_norm_(self.named.values(), self.settings.gradient_clip)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = factor * self.settings.learning_rate
            part.step()
            part.zero_grad(set_to_none=True)
        return float(norm)

    def state(self) -> dict[str, Tensor]:
        """Return every state tensor under `<parameter>|<state>`: names, not positions, survive a reload."""
        found = {}
        for name, parameter in self.named.items():
            for part in self.parts:
                for key, value in part.state.get(parameter, {}).items():
                    found[f"{name}|{key}"] = torch.as_tensor(value)
        return found

    def load(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state`."""
        owners = {id(p): part for part in self.parts for group in part.param_groups for p in group["params"]}
        for name, parameter in self.named.items():
            prefix = f"{name}|"
            values = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            owners[id(parameter)].state[parameter] = {key: value.to(parameter.device) for key, value in values.items()}

"""Who trains: one process alone, or several that share every batch through Hugging Face Accelerate.

Each process draws the same times and noise for the whole batch and takes a run of its windows. A loss is a mean over
the counted states of the whole batch, so shares enter with the weight of their tokens and gradients are summed, not
averaged. What differs from one process is float rounding alone. Ours: the paper does not say how it trained.
"""

import datetime
from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from dihal_core.errors import ConfigError

PATIENCE = datetime.timedelta(hours=2)
"""How long a process waits for the others: one of them validates alone at checkpoints."""


class World:
    """One process: it takes every window, and there is nothing to sum."""

    rank, size = 0, 1

    @property
    def main(self) -> bool:
        """True for the process that writes."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """Return the windows of a batch that this process takes: sizes differ by one at most.

        Raises
        ------
        ConfigError
            If there are fewer windows than processes.
        """
        if rows < self.size:
            raise ConfigError(f"a batch of {rows} windows has no share for {self.size} processes; lower processes")
        return slice(rows * self.rank // self.size, rows * (self.rank + 1) // self.size)

    def sum_gradients(self, arm: nn.Module) -> None:
        """Replace every gradient by its sum over processes."""

    def sum(self, value: float) -> float:
        """Return the sum of `value` over processes."""
        return value

    def agree(self, arms: Mapping[str, nn.Module]) -> None:
        """Give every process the tensors of the main one, frame included."""


ALONE = World()


class Together(World):
    """One of several processes; environment variables say which (as torchrun and `accelerate launch` set them)."""

    def __init__(self, cpu: bool):
        from accelerate import Accelerator
        from accelerate.utils import InitProcessGroupKwargs

        self.accelerator = Accelerator(cpu=cpu, kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])
        self.rank, self.size = self.accelerator.process_index, self.accelerator.num_processes

    @torch.no_grad()
    def sum_gradients(self, arm: nn.Module) -> None:
        """Sum in one message; a parameter that no window of this share reached counts as zero."""
        parameters = [parameter for parameter in arm.parameters() if parameter.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        summed = cast(Tensor, self.accelerator.reduce(flat, reduction="sum"))
        for parameter, part in zip(parameters, _split(summed, gradients), strict=True):
            parameter.grad = part.clone()

    def sum(self, value: float) -> float:
        """Sum in float64."""
        tensor = torch.tensor([value], dtype=torch.float64, device=self.accelerator.device)
        return float(cast(Tensor, self.accelerator.reduce(tensor, reduction="sum"))[0])

    @torch.no_grad()
    def agree(self, arms: Mapping[str, nn.Module]) -> None:
        """Broadcast from the main process."""
        from accelerate.utils import broadcast

        for arm in arms.values():
            for tensor in arm.state_dict().values():
                tensor.copy_(broadcast(tensor.contiguous(), from_process=0))

    def close(self) -> None:
        """Leave the process group."""
        self.accelerator.end_training()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _split(flat: Tensor, like: Iterable[Tensor]) -> list[Tensor]:
    like = list(like)
    return [part.view_as(one) for part, one in zip(flat.split([one.numel() for one in like]), like, strict=True)]

"""FLOPs of a forward pass, counted from the operators that run: one instrument for bridges, blocks and heads.

A product of (m, k) and (k, n) counts 2 m k n; convolutions and attention likewise. Norms, activations and the
sampler's arithmetic do not count. Nothing here is measured in seconds, so results may carry the numbers.
"""

from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@torch.no_grad()
def counted_flops(run: Callable[[], object]) -> int:
    """Return the FLOPs of one call; attention runs as plain products, which the counter knows on every device."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return int(counter.get_total_flops())
